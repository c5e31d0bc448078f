package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
	"knowngood/storage/attest"
	"knowngood/storage/storagetest"
)

func TestProofIsShown(t *testing.T) {
	t.Run("by list and show and status", testProofIsShownByListShowAndStatus)
	t.Run("by the daemon", testProofIsShownByTheDaemon)
	t.Run("retention keeps it", testRetentionKeepsWhatIsKnownGood)
}

func testProofIsShownByListShowAndStatus(t *testing.T) {
	server := storagetest.VersityGW(t)
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	for name, m := range map[string]*machine{"directory": bareMachine(t, filepath.Join(t.TempDir(), "repo")), "versitygw": bareMachine(t, server.URL("backups", "prod"), server.Env(t)...)} {
		t.Run(name, func(t *testing.T) {
			drill, _ := proven(t, m)
			has := func(text string, parts ...string) {
				t.Helper()
				for _, p := range parts {
					if !strings.Contains(text, p) {
						t.Errorf("it does not print %q: %s", p, text)
					}
				}
			}
			if text := m.must(t, "list"); strings.Contains(text, "PROOF") || strings.Contains(text, "bad") {
				t.Errorf("nothing is proven, and it prints %s", text)
			}
			has(m.must(t, "show", "web@3"), "known-good  no: no drill has passed\n")
			if text := m.must(t, "status"); strings.Contains(text, "known-good") {
				t.Errorf("nothing is proven, and nothing wanted: %s", text)
			}

			drill.attests(t, "web@1", func(r *attest.Result) { r.Level = attest.Restored })
			drill.attests(t, "web@2", nil)
			drill.attests(t, "web@3", func(r *attest.Result) { r.Passed = false })
			host := *m
			host.identity = ""
			host.must(t, "attest", "bad", "web@1", "--reason", "its host does not like it")
			m.attests(t, "web@3", nil)
			for _, on := range []*machine{m, drill} {
				lines := strings.Split(on.must(t, "list"), "\n")
				has(lines[0], "PROOF")
				has(lines[1], "web@1", "known-good, restored ", " ago")
				has(lines[2], "web@2", "known-good, probed ", " ago")
				has(lines[3], "web@3", "failed ", " ago")
				if strings.Contains(lines[3], "known-good") {
					t.Errorf("a failed drill is shown as %s", lines[3])
				}
				has(on.must(t, "show", "web@2"), "known-good  yes: probed ", " ago on drill-1, RTO 41 s, base host, namespaces\n")
				has(on.must(t, "show", "web@3"), "known-good  no: the drill on drill-1 failed (a drill failed ", " ago on drill-1)\n")
				has(on.must(t, "status"), "web known-good: web@2, probed ", " ago on drill-1, RTO 41 s; web@3 is not: the drill on drill-1 failed.\n")
			}
			type listed struct {
				Snapshots []struct {
					Ref, Status, Reason string
					Known               bool   `json:"known_good"`
					Not                 string `json:"not_known_good"`
					Proof               *struct{ Level, Machine string }
				}
			}
			l := decode[listed](t, m.must(t, "list", "--json", "--latest=2")).Snapshots
			if len(l) != 2 || !l[0].Known || l[0].Proof == nil || l[0].Proof.Level != "probed" || l[0].Not != "" || l[1].Known || l[1].Not != "the drill on drill-1 failed" {
				t.Errorf("%+v", l)
			}

			drill.must(t, "attest", "bad", "web@2", "--reason", "a \x1b[31mtrojan")
			for _, on := range []*machine{m, drill} {
				has(on.must(t, "list"), "bad", `it is marked bad by the owner: a \x1b[31mtrojan`, "its own host marked it bad, which changes nothing: its host does not like it")
				has(on.must(t, "show", "web@2"), `known-good  no: "it is marked bad by the owner: a \x1b[31mtrojan" (probed `)
				has(on.must(t, "show", "web@1"), "known-good  yes: restored", "marked bad  by its own host, which changes nothing: its host does not like it\n")
				has(on.must(t, "status"), "known-good: web@1, restored", "\nMarked bad of web:\n  web@2: it is marked bad by the owner: a ")
				if j := decode[listed](t, on.must(t, "list", "--json")).Snapshots[1]; j.Status != "bad" || j.Known || !strings.Contains(j.Reason, "marked bad") {
					t.Errorf("%+v", j)
				}
			}

			m.must(t, "forget", "web@1")
			has(m.must(t, "status"), "web known-good: none; web@3: the drill on drill-1 failed.\n")
			text := m.must(t, "list", "--all")
			if first := strings.Split(text, "\n")[1]; !strings.Contains(first, "forgotten") || strings.Contains(first, "restored") {
				t.Errorf("forgotten: %s", text)
			}
		})
	}
}

func testProofIsShownByTheDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	grow(t, src, "file", 1000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}], known_good: {require: restored}}}\n", src)
	s.up(t)
	judged := func(newest string) func(r *report.Report) bool {
		return func(r *report.Report) bool {
			return r.Environments[0].Proof != nil && r.Environments[0].Proof.Newest == newest
		}
	}
	s.until(t, "there is no snapshot to be judged", judged(""))
	s.take(t, "web")
	s.until(t, "the first snapshot is judged", judged("web@1"))
	is := func(what string, want func(*report.Proof) bool) *report.Environment {
		t.Helper()
		s.hup(t) // after which it is read again
		r := s.until(t, what, func(r *report.Report) bool { return r.Environments[0].Proof != nil && want(r.Environments[0].Proof) })
		return &r.Environments[0]
	}
	e := is("that nothing is proven", func(p *report.Proof) bool { return p.Newest != "" })
	if level, text := e.Verdict(); level != report.Attention || text != "is not proven: web@1: no drill has passed" {
		t.Errorf("%v, %s", level, text)
	}
	m.bare(t).attests(t, "web@1", nil)
	e = is("what is proven", func(p *report.Proof) bool { return p.Snapshot != "" })
	if level, text := e.Verdict(); level != report.Well || text != "has no RPO" {
		t.Errorf("%v, %s", level, text)
	}
	if text := e.Proof.String(); !strings.HasPrefix(text, "known-good: web@1, probed ") || !strings.HasSuffix(text, " ago on drill-1, RTO 41 s") {
		t.Error(text)
	}
	if text := s.ask(t, "status").exits(t, exit.Done); !strings.Contains(text, "\nweb known-good: web@1, probed ") {
		t.Errorf("status prints %s", text)
	}
}

func testRetentionKeepsWhatIsKnownGood(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	config := func(keep string) string {
		return m.configured(t, "repository: {url: %s}\nstate_dir: %s\nenvironments: {web: {sources: [{path: %s}], keep: %s}}\n", m.repo, m.state, src, keep)
	}
	drill := m.bare(t)
	for n := range 6 {
		grow(t, src, fmt.Sprint("file", n), 1000)
		m.must(t, "snapshot", "web", "--config", config("{last: 50}"))
		if n < 3 {
			drill.attests(t, fmt.Sprintf("web@%d", n+1), nil)
		}
	}
	m.attests(t, "web@4", nil) // which counts nowhere: this machine drills nothing
	text := m.must(t, "forget", "--policy", "--dry-run", "--config", config("{last: 1, known_good: 2}"))
	kept := []string{}
	for _, line := range strings.Split(text, "\n") {
		if f := strings.Fields(line); len(f) > 3 && f[len(f)-1] == "known-good" {
			kept = append(kept, f[0])
		}
	}
	if fmt.Sprint(kept) != "[web@2 web@3]" {
		t.Errorf("it keeps %v: %s", kept, text)
	}
	if text := m.must(t, "forget", "--env", "web", "--keep-last", "1", "--keep-known-good", "3", "--dry-run"); strings.Count(text, "known-good") != 3 {
		t.Errorf("it prints %s", text)
	}

	grow(t, src, "last", 1000)
	m.must(t, "snapshot", "web", "--config", config("{last: 1, known_good: 2}"))
	if got := fmt.Sprint(m.refs(t)); got != "[web@2 web@3 web@7]" {
		t.Errorf("after a run it keeps %s", got)
	}

	// A store that holds the proofs back changes nothing, where they were seen.
	dir := filepath.Join(m.repo, "attestations")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if text := m.run(t, "forget", "--policy", "--config", config("{last: 1, known_good: 2}")).says(t, exit.Damage); !strings.Contains(text, "tampering: attestation of ") || !strings.Contains(text, "Then remove "+m.state) || !strings.Contains(text, "/proofs/") {
		t.Errorf("it prints %s", text)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.refs(t)); got != "[web@2 web@3 web@7]" {
		t.Errorf("after that it keeps %s", got)
	}
}
