package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/storage/attest"
)

func TestDrill(t *testing.T) {
	t.Run("the level follows from what passed", theLevelFollowsFromWhatPassed)
	t.Run("a sample has about its share, and other files at another time", aSampleHasItsShare)
	t.Run("the RTO of a sample is extrapolated", theRTOOfASampleIsExtrapolated)
	t.Run("evidence fits an attestation", evidenceFitsAnAttestation)
	t.Run("scanners that need the same files", scannersNeedTheSameFiles)
	t.Run("scratch space in which others could put links is refused", scratchOfOthersIsRefused)
}

func theLevelFollowsFromWhatPassed(t *testing.T) {
	proves := attest.Probe{Required: true, Proves: true, Status: attest.Passed}
	optional, port, fails, missing := proves, proves, proves, proves
	optional.Required, port.Proves, fails.Status, missing.Status = false, false, attest.Failed, attest.NotTested
	optionalFails := fails
	optionalFails.Required = false
	for _, c := range []struct {
		name              string
		probes            []attest.Probe
		sampled, changing bool
		passes            bool
		level             attest.Level
		untested          int
	}{
		{"no probe", nil, false, false, true, attest.Restored, 0},
		{"a required proof", []attest.Probe{proves}, false, false, true, attest.Probed, 0},
		{"of a sample", []attest.Probe{proves}, true, false, true, attest.Restored, 0},
		{"of changing data", []attest.Probe{proves}, false, true, true, attest.Restored, 0},
		{"an optional proof", []attest.Probe{optional}, false, false, true, attest.Restored, 0},
		{"a port", []attest.Probe{port}, false, false, true, attest.Restored, 0},
		{"one fails", []attest.Probe{proves, fails}, false, false, false, attest.Unproven, 0},
		{"an optional one fails", []attest.Probe{proves, optionalFails}, false, false, true, attest.Probed, 0},
		{"one cannot run", []attest.Probe{proves, missing}, false, false, true, attest.Restored, 1},
		{"none can run", []attest.Probe{missing, missing}, false, false, true, attest.Restored, 2},
	} {
		r := &attest.Result{Probes: c.probes, Passed: probesPass(c.probes)}
		if r.Passed != c.passes || level(r, c.sampled, c.changing) != c.level || len(Untested(r)) != c.untested {
			t.Errorf("%s: passed %v, level %v, %d not tested", c.name, r.Passed, level(r, c.sampled, c.changing), len(Untested(r)))
		}
	}
}

func aSampleHasItsShare(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	first, second := chooser(5, [32]byte{1}, at, []string{"srv/db"}), chooser(5, [32]byte{1}, at.Add(time.Nanosecond), nil)
	var chosen, both int
	const n = 20_000
	for i := range n {
		path := fmt.Sprintf("srv/web/%d", i)
		if first(path) {
			if chosen++; second(path) {
				both++
			}
		}
		if first(path) != chooser(5, [32]byte{1}, at, nil)(path) {
			t.Fatal("one sample is two")
		}
	}
	if chosen < n*4/100 || chosen > n*6/100 || both > chosen/5 {
		t.Errorf("%d of %d chosen, %d of them at another time too", chosen, n, both)
	}
	if !first("srv/db") || !first("srv/db/base/1") || !chooser(100, [32]byte{}, at, nil)("x") {
		t.Error("a path that is named is not in the sample, or not all is in all")
	}
}

func theRTOOfASampleIsExtrapolated(t *testing.T) {
	r := &attest.Result{Bytes: 100, Of: 1000, Phases: []attest.Phase{{Name: phaseRestore, Took: time.Second}, {Name: phaseProbes, Took: time.Second}}}
	if got := WholeRTO(r); got != 11*time.Second {
		t.Errorf("a tenth in one second: %v", got)
	}
	r.Bytes = 1000
	if got := WholeRTO(r); got != 2*time.Second {
		t.Errorf("all of it: %v", got)
	}
	r.Bytes = 0
	if got := WholeRTO(r); got != 2*time.Second {
		t.Errorf("nothing: %v", got)
	}
}

func evidenceFitsAnAttestation(t *testing.T) {
	answers := []Answer{{Name: "a", Detail: "fine", Output: "all"}}
	b, err := evidence(answers)
	if err != nil || string(b) != `[{"name":"a","detail":"fine","output":"all"}]` {
		t.Errorf("%s, %v", b, err)
	}
	for range 999 {
		answers = append(answers, Answer{Name: "b", Detail: strings.Repeat("\x01", 1<<10), Output: strings.Repeat("x", 16<<10)})
	}
	var kept []Answer
	if b, err = evidence(answers); err != nil || len(b) > attest.MaxEvidence || json.Unmarshal(b, &kept) != nil || len(kept) == 0 || kept[0].Detail != "fine" {
		t.Errorf("%d bytes of %d answers, %v", len(b), len(kept), err)
	}
	if answers[0].Output != "all" {
		t.Error("the caller's answers were changed")
	}
}

func scratchOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := newScratch(filepath.Join(dir, "drills")); err == nil || !strings.Contains(err.Error(), "another user can change "+dir) {
		t.Errorf("a directory that everybody can change: %v", err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := newScratch(dir); err == nil || !strings.Contains(err.Error(), "another user can change "+dir) {
		t.Errorf("a directory in which everybody can make files: %v", err)
	}
	s, err := newScratch(filepath.Join(dir, "drills"))
	if err != nil {
		t.Fatalf("below a directory like /tmp: %v", err)
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "drills"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err := newScratch(filepath.Join(dir, "drills")); err == nil {
			t.Error("a directory of another user is taken")
		}
	}
}

func scannersNeedTheSameFiles(t *testing.T) {
	dir, outer := t.TempDir(), t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(filepath.Join(sub, "rules"), []byte("rules"), 0o644), os.Symlink("sub", filepath.Join(dir, "current"))); err != nil {
		t.Fatal(err)
	}
	for _, with := range [][]string{{dir}, {dir, sub}, {filepath.Join(sub, "rules")}, {sub, dir}} {
		if err := withFiles(outer, with); err != nil {
			t.Errorf("%v: %v", with, err)
		}
		if b, err := os.ReadFile(filepath.Join(outer, sub, "rules")); err != nil || string(b) != "rules" {
			t.Errorf("%v: %q, %v", with, b, err)
		}
	}
	for _, p := range []string{"/restored", "/restored/x", "/"} {
		if err := withFiles(outer, []string{p}); err == nil {
			t.Errorf("%s is put into the restored tree", p)
		}
	}
	// A link in what was copied leads to the machine's own files.
	if err := os.Symlink(sub, filepath.Join(dir, "absolute")); err != nil {
		t.Fatal(err)
	}
	if err := withFiles(outer, []string{dir, filepath.Join(dir, "absolute", "rules")}); err == nil {
		t.Error("it writes through a link")
	}
	if _, err := os.Stat(filepath.Join(sub, "rules")); err != nil {
		t.Error(err)
	}
}
