package jobfiles

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/userdir"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a lock file records a run that died":                       aLockFileRemembersARunThatDied,
		"a lock file that cannot be read counts as a run that died": aLockFileThatCannotBeReadIsOfARunThatDied,
	} {
		t.Run(name, test)
	}
}

func aLockFileRemembersARunThatDied(t *testing.T) {
	t.Parallel()
	dir := Locks(t.TempDir())
	take := func() *Lock {
		t.Helper()
		l, err := TryLock(dir, "web", "a test")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	did := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := dir.Stat("web"); err != nil || info.Size() != RecordSize {
			t.Errorf("the file: %v, %v", info.Size(), err)
		}
	}
	run := &report.Run{Trigger: "schedule", Scheduled: time.Now().Add(-time.Minute), Started: time.Now(), Missed: 3}

	l := take()
	if l.Record != (Record{}) {
		t.Errorf("a new file holds %+v", l.Record)
	}
	did(l.Begin(run))
	var held *HeldError
	if _, err := TryLock(dir, "web", "another"); !errors.As(err, &held) || !strings.HasSuffix(held.Holder, time.Now().Format("-07:00")) && !strings.HasSuffix(held.Holder, "Z") {
		t.Errorf("while a run is under way: %v", err)
	}
	l.Release() // as the kernel does for the dead

	l = take()
	if r := l.Record.Run; r == nil || !r.Started.Equal(run.Started) || !r.Scheduled.Equal(run.Scheduled) || r.Missed != 3 || r.Trigger != "schedule" {
		t.Fatalf("of a run that died it remembers %+v", l.Record)
	}
	did(l.Bury(report.Run{Started: run.Started, Error: strings.Repeat("é", RecordSize), Died: true}))
	did(l.Begin(run))
	did(l.End())
	l.Release()

	l = take()
	if r := l.Record.Died; l.Record.Run != nil || r == nil || !r.Started.Equal(run.Started) || !r.Died {
		t.Errorf("of one that nobody has counted it remembers %+v", l.Record)
	}
	did(l.Counted())
	l.Release()
	l = take()
	if l.Record != (Record{}) {
		t.Errorf("at last it remembers %+v", l.Record)
	}
	l.Release()
}

func aLockFileThatCannotBeReadIsOfARunThatDied(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		died bool
	}{
		"an empty one":          {"", false},
		"one with words alone":  {"process 7 (the daemon) since 2026-11-29T00:00:00Z\n", false},
		"one that is cut short": {"process 7 (the daemon) since 2026-11-29T00:00:00Z\nruns {\"run\":{\"trig", true},
		"one that names no run": {"process 7\nruns {}\n", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "web"), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := TryLock(userdir.At(dir), "web", "a test")
		if err != nil {
			t.Fatal(err)
		}
		if r := l.Record.Run; (r != nil) != c.died || r != nil && time.Since(r.Started) > time.Hour {
			t.Errorf("%s: %+v", name, l.Record)
		}
		l.Release()
	}
}
