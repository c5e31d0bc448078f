package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

func TestDaemonDrill(t *testing.T) {
	t.Parallel()
	t.Run("a scheduled drill proves and fails and recovers", testAScheduledDrillProvesFailsIsToldAndRecovers)
	t.Run("a daemon that is killed in a drill leaves nothing", testADaemonThatIsKilledInADrillLeavesNothing)
}

func drillOf(r *report.Report, name string) *report.Drill {
	for i := range r.Drills {
		if r.Drills[i].Name == name {
			return &r.Drills[i]
		}
	}
	return nil
}

// drilled waits until the last run of a drill is as it must become.
func (s *service) drilled(t *testing.T, what string, is func(*report.Run) bool) *report.Run {
	t.Helper()
	r := s.until(t, what, func(r *report.Report) bool {
		d := drillOf(r, "web")
		return d != nil && d.Last != nil && is(d.Last)
	})
	return drillOf(r, "web").Last
}

func testAScheduledDrillProvesFailsIsToldAndRecovers(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	source, told := t.TempDir(), filepath.Join(t.TempDir(), "told")
	page := filepath.Join(source, "page")
	write(t, page, "hello")
	s := newService(t, m, `identity: %s
environments:
  web:
    sources: [{path: %s}]
    rto: 1h
    shrink: 0%%
    drill: {schedule: "@every 1s", isolation: static, probes: [{name: page, file: {path: %s, not_empty: true}}]}
notify: {command: [sh, -c, "cat >>%s"]}
`, m.identity, source, page, told)
	s.up(t)
	s.take(t, "web")
	run := s.drilled(t, "a drill passed", func(r *report.Run) bool { return r.Result == report.Success })
	if d := run.Drilled[0]; !d.Passed || d.Level != "probed" || !strings.HasSuffix(d.Snapshot, "/web@1") || d.RTOSeconds <= 0 || d.RTOPromised != 3600 || run.Unproven != 0 {
		t.Errorf("the run: %+v", run)
	}
	if o := s.ask(t, "show", "web@known-good", "--json"); o.code != 0 || !strings.Contains(o.stdout.String(), `"web@1"`) {
		t.Errorf("what is known-good: %s%s", &o.stdout, &o.stderr)
	}

	write(t, page, "")
	s.take(t, "web")
	run = s.drilled(t, "a drill failed", func(r *report.Run) bool { return r.Result == report.Failed })
	if d := run.Drilled[0]; d.Passed || d.ExitCode != 14 || !strings.Contains(run.Error, "web@2 failed its drill: page: ") {
		t.Errorf("the run: %+v", run)
	}
	if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "web@2 failed its drill: page: ") {
		t.Errorf("status: %s", &o.stdout)
	}
	if _, text := s.fetch(t, "GET", "/metrics"); !strings.Contains(text, `knowngood_drill_runs_total{drill="web",result="failed"}`) || !strings.Contains(text, "knowngood_never_proven 0") {
		t.Errorf("the metrics: %s", text)
	}
	write(t, page, "hello again")
	s.take(t, "web")
	s.drilled(t, "a drill passed again", func(r *report.Run) bool { return r.Result == report.Success })
	waitFor(t, "the recovery is reported", func() bool { return slices.Contains(kinds(messages(t, told)), notify.Recovery) })
	s.stop(t)
	// The first drills may have come before the first snapshot.
	list := slices.DeleteFunc(messages(t, told), func(m notify.Message) bool {
		return strings.Contains(m.Text, "run again") || m.Kind == notify.DrillNotRun
	})
	if !slices.Equal(kinds(list), []notify.Kind{notify.DrillFailed, notify.Recovery}) || !strings.Contains(list[0].Text, "web@2 failed its drill: page") || list[0].Environment != "web" {
		t.Errorf("told: %+v", list)
	}
}

func testADaemonThatIsKilledInADrillLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("programs of drills are tested as root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "drill") // not below /dev: a cell has one of its own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write(t, filepath.Join(dir, "page"), "hello")
	m := &machine{repo: filepath.Join(dir, "repo"), identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "state")}
	m.must(t, "init", "--identity-type", "x25519")
	// So many seconds that no other process has them as an argument.
	const sleep = "86437"
	s := newService(t, m, `identity: %s
environments:
  web:
    sources: [{path: %s}]
    drill: {schedule: "@every 1s", base: host, isolation: namespaces, probes: [{name: long, command: [/usr/bin/sleep, "%s"], timeout: 1h}]}
`, m.identity, filepath.Join(dir, "page"), sleep)
	sleeps := func() bool {
		found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		return slices.ContainsFunc(found, func(f string) bool {
			b, _ := os.ReadFile(f)
			return strings.Contains(string(b), "sleep\x00"+sleep)
		})
	}
	scratch := func() []string {
		left, _ := filepath.Glob(filepath.Join(m.state, "drills", "*"))
		return left
	}
	m.must(t, "snapshot", "--env", "web", filepath.Join(dir, "page"))
	s.up(t)
	waitFor(t, "the probe runs", sleeps)
	killed := scratch()
	if len(killed) != 1 {
		t.Fatalf("a drill has one scratch space: %v", killed)
	}
	s.kill()
	waitFor(t, "the probe is killed with the daemon", func() bool { return !sleeps() })

	began := time.Now()
	s.up(t)
	run := s.drilled(t, "the drill is recorded as died", func(r *report.Run) bool { return r.Died })
	if run.Result != report.Failed || !strings.Contains(run.Error, "died: knowngood or the machine ended in the middle of it") || run.Finished.Before(began) {
		t.Errorf("the run: %+v", run)
	}
	waitFor(t, "it is repeated", sleeps)
	if left := scratch(); len(left) != 1 || left[0] == killed[0] { // that of the one that was killed is gone
		t.Errorf("the scratch spaces: %v, before the kill %v", left, killed)
	}
	if r := s.until(t, "it answers", func(*report.Report) bool { return true }); !strings.Contains(r.Warnings[len(r.Warnings)-1].Text, "the drill of web died") {
		t.Errorf("the warnings: %+v", r.Warnings)
	}
	s.stop(t)
	if sleeps() || len(scratch()) > 0 {
		t.Errorf("after the stop the probe runs: %v; left: %v", sleeps(), scratch())
	}
}
