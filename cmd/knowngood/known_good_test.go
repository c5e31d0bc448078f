package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/storage/attest"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// attestTo stores what a drill on machine drill-1 found of a snapshot, with the attest
// key in a state directory.
func attestTo(ctx context.Context, repo, state, identityFile, ref string, edit func(*attest.Result)) (*attest.Attestation, error) {
	store, err := stores.Open(ctx, repo, stores.Options{})
	if err != nil {
		return nil, err
	}
	r, err := repository.Open(ctx, store, repository.Options{Options: trust.Options{StateDir: state, URL: repo, Place: stores.Place(repo), Now: time.Now()}})
	if err != nil {
		return nil, err
	}
	file, err := identity.Load(identityFile, nil)
	if err != nil {
		return nil, err
	}
	r.Unlock(file)
	parsed, _, err := history.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	s, err := r.Resolve(ctx, parsed, "")
	if err != nil {
		return nil, err
	}
	k, err := r.Attest.EnsureKey(ctx, s.Host, "drill-1", time.Now())
	if err != nil {
		return nil, err
	}
	found := &attest.Result{Subject: attest.Subject{Host: s.Host, Environment: s.Environment, Number: s.Number, ID: s.ID}, Content: s.Body.Content, Machine: k.Machine, Version: "test", Started: time.Now(), Passed: true, Level: attest.Probed,
		Isolation: attest.Isolation{Rung: "namespaces", Base: "host"}, Phases: []attest.Phase{{Name: "restore", Took: 41 * time.Second}}, Bytes: s.Body.ContentBytes, Of: s.Body.ContentBytes,
		Probes: []attest.Probe{{Name: "page", Kind: "file", Status: attest.Passed, Required: true, Proves: true}}, Evidence: []byte("what the probe printed\n")}
	if edit != nil {
		edit(found)
	}
	return r.Attest.Put(ctx, found, k, time.Now())
}

// attestPassed is attestTo by a process of its own: attest-passed REF, with the
// variables of knowngood.
func attestPassed() {
	_, err := attestTo(context.Background(), os.Getenv("KNOWNGOOD_REPO"), os.Getenv("KNOWNGOOD_STATE_DIR"), os.Getenv("KNOWNGOOD_IDENTITY"), os.Args[1], nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exit.Code(context.Background(), err))
	}
}

// attests stores what a drill on a machine found of a snapshot.
func (m *machine) attests(t *testing.T, ref string, edit func(*attest.Result)) *attest.Attestation {
	t.Helper()
	for _, v := range m.env {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	a, err := attestTo(t.Context(), m.repo, m.state, m.identity, ref, edit)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// proven is a repository of host web-7 with three snapshots of environment web, whose
// file has the number, and a drill host with the identity.
func proven(t *testing.T, m *machine) (drill *machine, src string) {
	t.Helper()
	src = t.TempDir()
	m.must(t, "init", "--host", "web-7", "--identity-type", "x25519")
	for n := range 3 {
		writeFile(t, filepath.Join(src, "file"), fmt.Sprint(n+1))
		m.must(t, "snapshot", "--env", "web", src)
	}
	return m.bare(t), src
}

func TestKnownGood(t *testing.T) {
	t.Run("restores the newest that is proven", testRestoresTheNewestThatIsProven)
	t.Run("a snapshot that is marked bad", testASnapshotThatIsMarkedBad)
	t.Run("attestations are shown verified and exported", testAttestationsAreShownVerifiedAndExported)
	t.Run("a machine without memory meets another root", testAMachineWithoutMemoryMeetsAnotherRoot)
	t.Run("passes over what is damaged or suspect", testPassesOverWhatIsDamagedOrSuspect)
	t.Run("an attested snapshot that is gone", testAnAttestedSnapshotThatIsGone)
	t.Run("attest keys by hand", testAttestKeysByHand)
	t.Run("the configuration says what counts", testTheConfigurationSaysWhatCounts)
}

func testRestoresTheNewestThatIsProven(t *testing.T) {
	server := storagetest.VersityGW(t)
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	for name, m := range map[string]*machine{"directory": bareMachine(t, filepath.Join(t.TempDir(), "repo")), "versitygw": bareMachine(t, server.URL("backups", "prod"), server.Env(t)...)} {
		t.Run(name, func(t *testing.T) {
			restoresTheNewestThatIsProven(t, m)
		})
	}
}

// bareMachine is a machine of a repository that is not made yet.
func bareMachine(t *testing.T, url string, env ...string) *machine {
	dir := t.TempDir()
	return &machine{repo: url, identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "state"), env: env}
}

// A command must exit with a code. All that was printed is returned.
func (o *outcome) says(t *testing.T, code int) string {
	t.Helper()
	return o.exits(t, code) + o.stderr.String()
}

func restoresTheNewestThatIsProven(t *testing.T, m *machine) {
	drill, src := proven(t, m)
	restore := func(args ...string) *outcome {
		return drill.run(t, append([]string{"restore", "web@known-good:" + src, "--target", filepath.Join(t.TempDir(), "out")}, args...)...)
	}
	if text := restore().says(t, exit.Failed); !strings.Contains(text, "no snapshot of web is known-good (web@3, web@2, web@1: no drill has passed). ") || !strings.Contains(text, "Drill one (knowngood drill web-7/web)") {
		t.Errorf("it says %s", text)
	}
	drill.attests(t, "web@1", nil)
	drill.attests(t, "web@2", func(r *attest.Result) { r.Level = attest.Restored })
	drill.attests(t, "web@3", nil)
	drill.attests(t, "web@3", func(r *attest.Result) { r.Passed = false })
	for flags, want := range map[string]string{"": "2", "--require=restored": "2", "--require=probed": "1", "--require=probed --self-attested --allow-partial": "1"} {
		out := filepath.Join(t.TempDir(), "out")
		text := drill.must(t, append([]string{"restore", "web@known-good:" + src, "--target", out}, strings.Fields(flags)...)...)
		if b, err := os.ReadFile(filepath.Join(out, "file")); err != nil || string(b) != want {
			t.Errorf("%s: restored %q, %v, want web@%s", flags, b, err, want)
		}
		if !strings.Contains(text, "passed over   web@3: the drill on drill-1 failed\n") || !strings.Contains(text, "known-good    web@"+want) || !strings.Contains(text, " ago on drill-1, RTO 41 s, base host, namespaces\n") {
			t.Errorf("%s: it prints %s", flags, text)
		}
		if strings.Index(text, "known-good ") > strings.Index(text, "restored web@") {
			t.Errorf("it prints that afterwards: %s", text)
		}
	}
	type result struct {
		Ref   string
		Known struct {
			Proof struct {
				Level, Machine string
				RTO            float64 `json:"rto_seconds"`
			}
			Over []struct{ Ref, Reason string } `json:"passed_over"`
		} `json:"known_good"`
	}
	r := decode[result](t, restore("--json").exits(t, exit.Done))
	if r.Ref != "web@2" || r.Known.Proof.Level != "restored" || r.Known.Proof.Machine != "drill-1" || r.Known.Proof.RTO != 41 || len(r.Known.Over) != 1 || r.Known.Over[0].Ref != "web@3" {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"restore", "web@2", "--target", "x", "--require", "probed"}, {"restore", "web@known-good", "--target", "x", "--require", "unproven"}, {"restore", "web@known-good", "--target", "x", "--require", "best"}} {
		drill.run(t, args...).exits(t, exit.Usage)
	}
	// References name it wherever they are taken.
	if text := drill.must(t, "ls", "web@known-good:"+src); !strings.Contains(text, "file") {
		t.Errorf("ls prints %s", text)
	}
	if text := m.must(t, "show", "web@known-good"); !strings.Contains(text, "web@2 of host web-7") {
		t.Errorf("show prints %s", text)
	}
	// The content is not that of the root. The clock of a server has whole seconds.
	time.Sleep(1100 * time.Millisecond)
	drill.attests(t, "web@3", func(r *attest.Result) { r.Content[0] ^= 1 })
	if text := restore().says(t, exit.Damage); !strings.Contains(text, "content digest") {
		t.Errorf("it says %s", text)
	}
}

func testASnapshotThatIsMarkedBad(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, src := proven(t, m)
	for _, ref := range []string{"web@1", "web@2", "web@3"} {
		drill.attests(t, ref, nil)
	}
	drill.run(t, "attest", "bad", "web@3").exits(t, exit.Usage)
	if text := drill.run(t, "attest", "bad", "web@3", "--undo").says(t, exit.Failed); !strings.Contains(text, "web@3 is not marked bad") {
		t.Errorf("it says %s", text)
	}
	drill.must(t, "attest", "bad", "web@3", "--reason", "its database is\x1b[31m corrupt")
	out := filepath.Join(t.TempDir(), "out")
	text := drill.run(t, "restore", "web@3:"+src, "--target", out).says(t, exit.Failed)
	if !strings.Contains(text, "web@3 is marked bad by the owner (its database is") || !strings.Contains(text, "--anyway") || strings.Contains(text, "\x1b") {
		t.Errorf("it says %q", text)
	}
	if text := drill.must(t, "restore", "web@known-good:"+src, "--target", out); !strings.Contains(text, "passed over   web@3: ") || !strings.Contains(text, "marked bad by the owner") {
		t.Errorf("it prints %s", text)
	}
	drill.must(t, "restore", "web@3:"+src, "--target", filepath.Join(t.TempDir(), "out"), "--anyway")
	if text := m.run(t, "attest", "show", "web@3").says(t, exit.Done); !strings.Contains(text, "known-good  no: ") || !strings.Contains(text, "marked bad by the owner") {
		t.Errorf("it shows %s", text)
	}
	host := &machine{repo: m.repo, state: m.state, env: m.env}
	if text := host.run(t, "attest", "bad", "web@3", "--undo").says(t, exit.Failed); !strings.Contains(text, "web@3 is still marked bad by the owner (its database is") {
		t.Errorf("it says %s", text)
	}
	drill.must(t, "attest", "bad", "web@3", "--undo")
	drill.must(t, "restore", "web@3:"+src, "--target", filepath.Join(t.TempDir(), "out"))

	if text := drill.must(t, "attest", "bad", "web@3", "--since", "1d", "--reason", "broken into"); !strings.Contains(text, "3 snapshots of host web-7, marked bad: web@1, web@2, web@3") {
		t.Errorf("it prints %s", text)
	}
	drill.run(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out")).exits(t, exit.Failed)
	drill.must(t, "attest", "bad", "web@3", "--since", "2020-01-01", "--undo")

	o := host.run(t, "attest", "bad", "web@3", "--reason", "I say so")
	o.exits(t, exit.Done)
	if !strings.Contains(o.stderr.String(), "changes nothing") {
		t.Errorf("%s", &o.stderr)
	}
	if o := drill.run(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out")); o.exits(t, exit.Done) == "" || !strings.Contains(o.stdout.String(), "known-good    web@3") {
		t.Errorf("%s", &o.stdout)
	}
	if o := drill.run(t, "restore", "web@3:"+src, "--target", filepath.Join(t.TempDir(), "out")); o.exits(t, exit.Done) == "" || !strings.Contains(o.stderr.String(), "host web-7 marked web@3 as bad itself (I say so)") {
		t.Errorf("%s", &o.stderr)
	}
}

func testAttestationsAreShownVerifiedAndExported(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, _ := proven(t, m)
	if text := drill.run(t, "attest", "verify", "web@2").says(t, exit.Failed); !strings.Contains(text, "no attestation of web@2 counts") {
		t.Errorf("it says %s", text)
	}
	a := drill.attests(t, "web@2", func(r *attest.Result) {
		r.Probes = append(r.Probes, attest.Probe{Name: "self", Kind: "command", Status: attest.NotTested, Cause: "no such program"})
		r.Unproven = []string{"a sample was drilled"}
	})
	text := drill.must(t, "attest", "show", "web@2", "--evidence")
	for _, want := range []string{"known-good  yes, probed ", " ago on drill-1, RTO 41 s", "probe       page (file): passed", "probe       self (command): not tested: no such program", "not proven  a sample was drilled", "\nwhat the probe printed\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not show %q:\n%s", want, text)
		}
	}
	if text := drill.must(t, "attest", "show", "web@1"); !strings.Contains(text, "known-good  no: no drill has passed") || !strings.Contains(text, "No drill of it is stored") {
		t.Errorf("it shows %s", text)
	}
	if v := decode[struct {
		Known        bool `json:"known_good"`
		Attestations []struct {
			Counts bool
			Drill  struct{ Level, Host string }
		}
	}](t, drill.must(t, "attest", "show", "web@2", "--json")); !v.Known || len(v.Attestations) != 1 || !v.Attestations[0].Counts || v.Attestations[0].Drill.Level != "probed" {
		t.Errorf("%+v", v)
	}
	drill.must(t, "attest", "verify", "web@2")

	// The file is the object, and the tools of others verify it against the root.
	file := filepath.Join(t.TempDir(), "web-2.json")
	drill.must(t, "attest", "export", "web@2", "--output", file)
	drill.run(t, "attest", "export", "web@2", "--output", file).exits(t, exit.Failed) // it is there
	b, err := os.ReadFile(file)
	if err != nil || sha256.Sum256(b) != a.ID || drill.must(t, "attest", "export", "web@2") != string(b) {
		t.Fatalf("%v: %s", err, b)
	}
	var e struct {
		Payload    []byte
		Signatures []struct{ Sig []byte }
	}
	var s struct {
		Subject []struct{ Digest map[string]string }
	}
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(e.Payload, &s); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(m.repo, "hosts/web-7/roots/web/fffffffffffffffd"))
	if err != nil || s.Subject[0].Digest["sha256"] != fmt.Sprintf("%x", sha256.Sum256(root)) {
		t.Errorf("the subject is %v, %v", s, err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "pem"), drill.must(t, "attest", "key", "--pem"))
	writeFile(t, filepath.Join(dir, "pae"), fmt.Sprintf("DSSEv1 28 application/vnd.in-toto+json %d %s", len(e.Payload), e.Payload))
	writeFile(t, filepath.Join(dir, "sig"), string(e.Signatures[0].Sig))
	cmd := exec.Command("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pem", "-in", "pae", "-sigfile", "sig")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}

	// What does not verify is named.
	at := filepath.Join(m.repo, a.Key)
	forged := bytes.Replace(b, []byte(base64.StdEncoding.EncodeToString(e.Payload)), []byte(base64.StdEncoding.EncodeToString(bytes.Replace(e.Payload, []byte("probed"), []byte("booted"), 1))), 1)
	sum := sha256.Sum256(forged)
	if err := os.WriteFile(filepath.Join(filepath.Dir(at), fmt.Sprintf("%x", sum)), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	o := drill.run(t, "attest", "verify", "web@2")
	if text := o.says(t, exit.Damage); !strings.Contains(o.stdout.String(), "verified    "+a.Key) || !strings.Contains(o.stdout.String(), "signature does not verify") {
		t.Errorf("%s\n%s", text, &o.stdout)
	}
	if text := drill.run(t, "attest", "show", "web@2").says(t, exit.Done); !strings.Contains(text, "does not count: signature does not verify") {
		t.Errorf("it shows %s", text)
	}
}

// Whoever takes over a host can sign its history again. A machine that saw nothing of
// it before learns from attestations that this was not what a drill restored.
func testAMachineWithoutMemoryMeetsAnotherRoot(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, src := proven(t, m)
	drill.attests(t, "web@2", nil)
	keys, roots := resign(t, m)
	for i, key := range keys {
		path := filepath.Join(m.repo, key)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, string(roots[i]))
	}
	if err := os.RemoveAll(filepath.Join(m.repo, "hosts/web-7/catalogues")); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"web@2", "web@known-good", fmt.Sprintf("%x", sha256.Sum256(roots[1]))} {
		o := m.bare(t).run(t, "restore", ref+":"+src, "--target", filepath.Join(t.TempDir(), "out"))
		if o.code == exit.Done || !strings.Contains(o.stderr.String(), "which drill-1 attested on ") {
			t.Errorf("%s: exit code %d, %s", ref, o.code, &o.stderr)
		}
		if ref != "web@known-good" && o.code != exit.Damage {
			t.Errorf("%s: exit code %d", ref, o.code)
		}
	}
	// Without what was attested, and without memory, nothing shows it.
	m.bare(t).must(t, "restore", "web@3:"+src, "--target", filepath.Join(t.TempDir(), "out"))
}

func testAttestKeysByHand(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, _ := proven(t, m)
	host := &machine{repo: m.repo, state: t.TempDir(), env: m.env} // a drill host without an identity
	if text := drill.must(t, "attest", "key"); !strings.Contains(text, "No attest key is certified") {
		t.Errorf("it prints %s", text)
	}
	type request struct{ ID, Machine, Request string }
	r := decode[request](t, host.must(t, "attest", "key", "--request", "--json", "--host", "drill-9"))
	if r.Machine != "drill-9" || len(r.ID) != 16 {
		t.Errorf("%+v", r)
	}
	drill.run(t, "attest", "key", "--certify", r.Request).exits(t, exit.Usage)
	drill.run(t, "attest", "key", "--certify", r.Request, "--hosts", "web-7/x").exits(t, exit.Usage)
	for _, nonsense := range []string{"nonsense", "abc"} { // base64, or not
		if text := drill.run(t, "attest", "key", "--certify", nonsense, "--hosts", "web-*").says(t, exit.Failed); !strings.Contains(text, "that is no request") {
			t.Errorf("it says %s", text)
		}
	}
	host.run(t, "attest", "key", "--certify", r.Request, "--hosts", "web-*").exits(t, exit.NoIdentity)
	drill.must(t, "attest", "key", "--certify", r.Request, "--hosts", "web-*")
	if text := drill.must(t, "attest", "key"); !strings.Contains(text, r.ID+"  machine drill-9  for hosts web-*") {
		t.Errorf("it prints %s", text)
	}
	drill.run(t, "attest", "key", "--revoke", "xyz").exits(t, exit.Usage)
	drill.run(t, "attest", "key", "--revoke", "0123456789abcdef").exits(t, exit.Failed)
	// Without --since the clock of the store is asked, or nothing is revoked.
	if err := os.Mkdir(filepath.Join(m.repo, "hosts", "drill-9"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(m.repo, "hosts", "drill-9", "probe"), "in the way")
	if o := drill.run(t, "attest", "key", "--revoke", r.ID, "--host", "drill-9"); o.code != exit.Failed || !strings.Contains(o.stderr.String(), "clock of the store") || !strings.Contains(o.stderr.String(), "--since TIME") {
		t.Errorf("exit code %d, %s", o.code, &o.stderr)
	}
	drill.must(t, "attest", "key", "--revoke", r.ID)
	drill.must(t, "attest", "key", "--revoke", r.ID, "--since", "2020-01-01")
	keys := decode[struct {
		Keys []struct {
			ID      string
			Serial  int
			Revoked time.Time
		}
	}](t, drill.must(t, "attest", "key", "--json")).Keys
	if len(keys) != 1 || keys[0].ID != r.ID || keys[0].Serial != 3 || keys[0].Revoked.IsZero() {
		t.Errorf("%+v", keys)
	}
	if text := m.must(t, "attest", "key"); !strings.Contains(text, "REVOKED") {
		t.Errorf("it prints %s", text)
	}
}

func testTheConfigurationSaysWhatCounts(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, src := proven(t, m)
	drill.attests(t, "web@1", nil)
	drill.attests(t, "web@2", func(r *attest.Result) { r.Level = attest.Restored })
	m.attests(t, "web@3", nil) // the machine that captured it
	config := func(text string) string {
		return m.configured(t, "repository: {url: %s}\nhost: web-7\nidentity: %s\nstate_dir: %s\nenvironments: {web: {sources: [{path: %s}], %s}}\n", m.repo, m.identity, m.state, src, text)
	}
	for text, want := range map[string]string{
		"retries: 1":                     "web@2",
		"known_good: {require: probed}":  "web@1",
		"drill: {schedule: '0 4 * * *'}": "web@3",
		"drill: {schedule: '0 4 * * *'}, known_good: {require: restored, not_older_than: 1s}": "web@3",
	} {
		o := m.run(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out"), "--config", config(text))
		if o.exits(t, exit.Done); !strings.Contains(o.stdout.String(), "known-good    "+want+": ") {
			t.Errorf("%s: want %s: %s", text, want, &o.stdout)
		}
	}
	if text := m.must(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out"), "--self-attested"); !strings.Contains(text, "known-good    web@3: probed ") || !strings.Contains(text, " ago on drill-1, RTO 41 s, base host, namespaces; self-attested") {
		t.Errorf("it prints %s", text)
	}
	if text := m.must(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out")); !strings.Contains(text, "passed over   web@3: only the machine that captured it attests it") {
		t.Errorf("it prints %s", text)
	}
}

func testPassesOverWhatIsDamagedOrSuspect(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, src := proven(t, m)
	packs := func() map[string]bool {
		found := map[string]bool{}
		for _, kind := range []string{"packs", "manifests"} {
			names, err := filepath.Glob(filepath.Join(m.repo, "hosts/web-7", kind, "*/*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				found[name] = true
			}
		}
		return found
	}
	before := packs()
	writeFile(t, filepath.Join(src, "file"), "4")
	m.must(t, "snapshot", "--env", "web", src)
	after := packs()
	if err := os.Remove(filepath.Join(src, "file")); err != nil {
		t.Fatal(err)
	}
	m.run(t, "snapshot", "--env", "web", src).exits(t, exit.Incomplete) // suspect: the source is empty
	for _, ref := range []string{"web@3", "web@4", "web@5"} {
		drill.attests(t, ref, nil)
	}
	restores := func(want string, reasons ...string) {
		t.Helper()
		out := drill.must(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out"))
		if !strings.Contains(out, "known-good    "+want+":") {
			t.Errorf("want %s: %s", want, out)
		}
		for _, reason := range reasons {
			if !strings.Contains(out, "passed over   "+reason) {
				t.Errorf("want %s: %s", reason, out)
			}
		}
	}
	restores("web@4", "web@5: it is suspect, and nobody accepted it")
	removed := 0
	for name := range after {
		if !before[name] {
			removed++
			if err := os.Rename(name, name[:len(name)-1]+"~"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if removed == 0 {
		t.Fatal("web@4 stored nothing")
	}
	restores("web@3", "web@5: it is suspect", "web@4: objects that it needs are missing in the store")
	drill.must(t, "accept", "web@5", "--reason", "it is meant to be empty")
	restores("web@5")
}

// Without versions nothing but what was attested shows a bare machine that the newest
// root is gone.
func testAnAttestedSnapshotThatIsGone(t *testing.T) {
	m := bareMachine(t, filepath.Join(t.TempDir(), "repo"))
	drill, src := proven(t, m)
	drill.attests(t, "web@2", nil)
	drill.attests(t, "web@3", nil)
	if err := os.Remove(filepath.Join(m.repo, "hosts/web-7/roots/web/fffffffffffffffc")); err != nil {
		t.Fatal(err)
	}
	o := m.bare(t).run(t, "restore", "web@known-good:"+src, "--target", filepath.Join(t.TempDir(), "out"))
	if o.exits(t, exit.Damage); !strings.Contains(o.stdout.String(), "known-good    web@2") || !strings.Contains(o.stderr.String(), "web@3") || !strings.Contains(o.stderr.String(), "which drill-1 attests") {
		t.Errorf("%s\n%s", &o.stdout, &o.stderr)
	}
}
