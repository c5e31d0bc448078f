package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"knowngood/daemon/report"
)

// hup makes the daemon read its configuration, and waits until it has.
func (s *service) hup(t *testing.T) {
	t.Helper()
	taken := func() int {
		return strings.Count(s.log(t), "INFO configuration taken") + strings.Count(s.log(t), "the new configuration was not taken")
	}
	before := taken()
	s.signal(t, syscall.SIGHUP)
	waitFor(t, "the configuration is read", func() bool { return taken() > before })
}

func TestDaemonReload(t *testing.T) {
	t.Parallel()
	t.Run("a daemon takes a new configuration and no broken one", testADaemonTakesANewConfigurationAndNoBrokenOne)
}

func testADaemonTakesANewConfigurationAndNoBrokenOne(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src, dir := t.TempDir(), t.TempDir()
	told, gate := filepath.Join(dir, "told"), filepath.Join(dir, "gate")
	notify := fmt.Sprintf("notify: {command: [sh, -c, \"cat >>%s\"]}\n", told)
	hourly := fmt.Sprintf("environments: {web: {schedule: \"0 0 1 1 *\", catch_up: 0s, keep: {last: 2}, sources: [{path: %s}]}}\n", src) + notify
	s := newService(t, m, "%s", hourly)
	manager := newManager(t)
	s.up(t, manager.env()...)
	s.take(t, "web")

	s.configure(t, "environments: {web: {shedule: \"@every 1s\"}}\n")
	s.hup(t)
	s.hup(t) // who tries it again gets the same answer
	r := s.until(t, "a warning tells of the broken configuration", func(r *report.Report) bool { return len(r.Warnings) == 1 })
	if w := r.Warnings[0].Text; !strings.Contains(w, "the old one stays in force") || !strings.Contains(w, "shedule") {
		t.Errorf("the warning: %s", w)
	}
	manager.until(t, "STATUS=The new configuration was not taken", "READY=1")
	s.take(t, "web")
	if e := environmentOf(r, "web"); e == nil || e.Schedule != "0 0 1 1 *" {
		t.Errorf("the old configuration is not in force: %+v", e)
	}

	// Another source: it is named until a run has captured it, also by a daemon that is started again.
	added := t.TempDir()
	s.configure(t, "environments: {web: {schedule: \"0 0 1 1 *\", catch_up: 0s, sources: [{path: %s}, {path: %s}]}}\n%s", src, added, notify)
	s.hup(t)
	lacks := func(r *report.Report) bool {
		e := environmentOf(r, "web")
		return e != nil && slices.Equal(e.Uncaptured, []string{added})
	}
	s.until(t, "the new source is named", lacks)
	s.stop(t)
	s.up(t, manager.env()...)
	s.until(t, "the new source is named after a start", lacks)
	s.take(t, "web")
	s.until(t, "it is captured", func(r *report.Report) bool { return environmentOf(r, "web").Uncaptured == nil })

	// Added, and another schedule.
	s.configure(t, "environments:\n  web: {schedule: \"@every 1s\", sources: [{path: %s}]}\n  db: {sources: [{command: [sh, -c, \"while test -e %s; do sleep 0.05; done; echo rows\"], as: dump}]}\n%s", src, gate, notify)
	s.hup(t)
	manager.until(t, "RELOADING=1", "READY=1", "STATUS=")
	if status := manager.status(); strings.Contains(status, "not taken") {
		t.Errorf("after a good configuration was taken the status is %q", status)
	}
	r = s.until(t, "the new schedule holds", func(r *report.Report) bool {
		return environmentOf(r, "db") != nil && environmentOf(r, "web").Last.Trigger == "schedule"
	})
	if len(r.Warnings) > 0 {
		t.Errorf("after a good configuration was taken there are warnings: %+v", r.Warnings)
	}

	// Removed while it runs.
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := make(chan *outcome, 1)
	go func() { db <- s.ask(t, "snapshot", "db") }()
	s.until(t, "db is captured", func(r *report.Report) bool {
		e := environmentOf(r, "db")
		return e.Running != nil && e.Running.Phase == "capture"
	})
	s.configure(t, "%s", hourly)
	s.hup(t)
	s.until(t, "db is gone", func(r *report.Report) bool { return environmentOf(r, "db") == nil })
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the run under way is committed", func() bool { return strings.Contains(s.log(t), `"snapshot": "db@1"`) })
	<-db // whatever it printed: what became of its run, nobody can report to it

	// Another repository.
	other := *m
	other.repo = filepath.Join(t.TempDir(), "other")
	other.must(t, "init", "--identity-type", "x25519")
	s.machine = &other
	s.configure(t, "%s", hourly)
	s.hup(t)
	r = s.until(t, "the other repository is open", func(r *report.Report) bool { return strings.HasSuffix(r.Repository, "/other") && r.Degraded == "" })
	if e := environmentOf(r, "web"); !e.Newest.IsZero() {
		t.Errorf("the other repository has no snapshot, and the newest is of %v", e.Newest)
	}
	if run := s.take(t, "web"); run.Snapshot != "web@1" || run.Forgotten != 0 {
		t.Errorf("the first run into it: %+v", run)
	}
	if refs := other.refs(t); len(refs) != 1 {
		t.Errorf("it has %v", refs)
	}
	s.stop(t)

	// A repository that changed between two starts.
	s.machine = m
	s.configure(t, "%s", hourly)
	s.up(t)
	s.until(t, "the first repository is open", func(r *report.Report) bool { return r.Degraded == "" && !environmentOf(r, "web").Newest.IsZero() })
	s.take(t, "web")
	if s.stop(t); len(m.refs(t)) < 3 {
		t.Errorf("the first repository has %v", m.refs(t))
	}
	if b, err := os.ReadFile(told); !os.IsNotExist(err) {
		t.Errorf("nothing failed, and this was told: %s", b)
	}
}
