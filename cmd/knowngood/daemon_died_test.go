package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

// mortal is a service whose environment web has a source that hangs while a
// file is there, and hooks that write their variables.
type mortal struct {
	*service
	hang, hangAfter   string // while these exist, the source hangs, or the hook after
	pids, hooks, told string // who hangs, and what hooks and notifications write
}

func newMortal(t *testing.T) *mortal {
	t.Helper()
	dir := t.TempDir()
	m := &mortal{hang: filepath.Join(dir, "hang"), hangAfter: filepath.Join(dir, "hang-after"), pids: filepath.Join(dir, "pids"), hooks: filepath.Join(dir, "hooks"), told: filepath.Join(dir, "told")}
	hang := func(file string) string {
		return fmt.Sprintf("if test -e %s; then echo $$ >>%s; exec sleep 20; fi", file, m.pids)
	}
	say := func(more string) string {
		return fmt.Sprintf(`[{command: [sh, -c, "%secho $KNOWNGOOD_HOOK $KNOWNGOOD_ENVIRONMENT $KNOWNGOOD_RESULT ${KNOWNGOOD_STARTED:+since} $KNOWNGOOD_TRIGGER >>%s"]}]`, more, m.hooks)
	}
	m.service = newService(t, newMachine(t, filepath.Join(t.TempDir(), "repo")), `environments:
  other: {sources: [{path: %s}]}
  web:
    sources: [{command: [sh, -c, "%s; echo rows"], as: dump}]
    hooks: {before: %s, after: %s, on_failure: %s}
notify: {command: [sh, -c, "cat >>%s"]}
`, t.TempDir(), hang(m.hang), say(""), say(hang(m.hangAfter)+"; "), say(""), m.told)
	t.Cleanup(m.reap)
	return m
}

// reap ends what those who died left behind.
func (m *mortal) reap() {
	b, _ := os.ReadFile(m.pids) // nobody may have hung
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	os.Remove(m.pids)
}

// dies lets die, by kill, who gets to where it hangs because of the file.
func (m *mortal) dies(t *testing.T, file string, begin, kill func()) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	begin()
	waitFor(t, "something hangs", func() bool { return found(t, m.pids) > 0 })
	kill()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	m.reap()
}

// dieInRun has a daemon die in the middle of a run of web.
func (m *mortal) dieInRun(t *testing.T) {
	t.Helper()
	m.up(t)
	m.dies(t, m.hang, func() {
		if code, body := m.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
			t.Fatalf("%d %s", code, body)
		}
	}, m.kill)
}

// dieByHand has a run by hand die.
func (m *mortal) dieByHand(t *testing.T) {
	t.Helper()
	var cmd *exec.Cmd
	m.dies(t, m.hang, func() {
		cmd = m.program("snapshot", "web")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
}

// said demands what the hooks have written since the last call.
func (m *mortal) said(t *testing.T, want ...string) {
	t.Helper()
	b, err := os.ReadFile(m.hooks)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(b) == 0 {
		got = nil
	}
	if !slices.Equal(got, want) {
		t.Errorf("the hooks were told %q, want %q", got, want)
	}
	os.Remove(m.hooks)
}

// settled waits until the daemon has looked after the dead, and returns web.
func (m *mortal) settled(t *testing.T) *report.Environment {
	t.Helper()
	m.take(t, "other") // which begins after that
	return environmentOf(m.until(t, "it answers", func(*report.Report) bool { return true }), "web")
}

func TestDaemonDied(t *testing.T) {
	t.Parallel()
	t.Run("a daemon that died in a run cleans up behind it once at its next start", testADaemonThatDiedInARunCleansUpBehindItOnceAtItsNextStart)
	t.Run("hooks behind a run that died run again when they die too", testHooksBehindARunThatDiedRunAgainWhenTheyDieToo)
	t.Run("a run by hand that died is cleaned up behind", testARunByHandThatDiedIsCleanedUpBehind)
	t.Run("a run that lives is not taken for dead", testARunThatLivesIsNotTakenForDead)
	t.Run("the record of what is not configured any more is dropped", testTheRecordOfWhatIsNotConfiguredAnyMoreIsDropped)
	t.Run("a run that is stopped is interrupted", testARunThatIsStoppedIsInterrupted)
}

func testADaemonThatDiedInARunCleansUpBehindItOnceAtItsNextStart(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	m.dieInRun(t)
	m.said(t, "before web since hand")
	m.up(t)
	r := m.until(t, "the run that died is counted", func(r *report.Report) bool { return environmentOf(r, "web").Last != nil })
	e := environmentOf(r, "web")
	if l := e.Last; l.Result != report.Failed || !l.Died || !strings.Contains(l.Error, "died: knowngood or the machine ended in the middle of it") || l.Trigger != "hand" || e.Failures != 1 || len(e.Runs) != 1 {
		t.Errorf("the run that died: %+v, %d failures, %d runs", l, e.Failures, len(e.Runs))
	}
	if level, text := e.Verdict(); level == report.Well {
		t.Errorf("after a run that died: %s", text)
	}
	m.said(t, "after web died since hand", "on_failure web died since hand")
	waitFor(t, "it is told", func() bool { return len(messages(t, m.told)) > 0 })
	if o := m.ask(t, "status"); !strings.Contains(o.stdout.String(), "DIED, found ") {
		t.Errorf("status: %s", &o.stdout)
	}

	for range 2 { // it is dealt with, whatever comes after
		m.kill()
		m.up(t)
	}
	if e := m.settled(t); e.Failures != 1 || e.Totals[report.Failed] != 1 {
		t.Errorf("after two more starts: %+v", e.Job)
	}
	m.said(t)
	m.take(t, "web")
	m.said(t, "before web since hand", "after web success since hand")
	m.stop(t)
	if list := kinds(messages(t, m.told)); !slices.Equal(list, []notify.Kind{notify.Failure, notify.Recovery}) {
		t.Errorf("told: %v", list)
	}
	for _, line := range []string{`INFO daemon started {"version": `, `"environments": 2}`, `INFO run started {"environment": "web", "trigger": "hand"}`} {
		if !strings.Contains(m.log(t), line) {
			t.Errorf("the log has no %q", line)
		}
	}
}

func testHooksBehindARunThatDiedRunAgainWhenTheyDieToo(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	m.dieInRun(t)
	m.dies(t, m.hangAfter, func() { m.up(t) }, m.kill)
	m.said(t, "before web since hand")
	m.up(t)
	m.until(t, "the run that died is counted", func(r *report.Report) bool { return environmentOf(r, "web").Failures == 1 })
	m.said(t, "after web died since hand", "on_failure web died since hand")
	m.stop(t)
	m.up(t)
	if e := m.settled(t); e.Totals[report.Failed] != 1 {
		t.Errorf("counted: %+v", e.Job)
	}
	m.said(t)
}

func testARunByHandThatDiedIsCleanedUpBehind(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	// By the next one by hand.
	m.dieByHand(t)
	m.said(t, "before web since hand")
	o := m.ask(t, "snapshot", "web")
	if out := o.exits(t, exit.Done); out != "web@1\n" || !strings.Contains(o.stderr.String(), "a run of this environment died") {
		t.Errorf("the one after it: %s%s", out, &o.stderr)
	}
	m.said(t, "after web died since hand", "on_failure web died since hand", "before web since hand", "after web success since hand")
	m.ask(t, "snapshot", "web").exits(t, exit.Done)
	m.said(t, "before web since hand", "after web success since hand")
	// A daemon counts it later; what came after it counts more.
	m.up(t)
	if e := m.settled(t); e.Totals[report.Failed] != 1 || e.Failures != 0 || len(e.Runs) != 1 || !e.Runs[0].Died {
		t.Errorf("a daemon counted %+v, %+v", e.Job, e.Runs)
	}
	m.said(t)
	m.stop(t)

	// By a daemon that starts.
	m.dieByHand(t)
	m.said(t, "before web since hand")
	m.up(t)
	m.until(t, "the run that died is counted", func(r *report.Report) bool { return environmentOf(r, "web").Failures == 1 })
	m.said(t, "after web died since hand", "on_failure web died since hand")
	m.stop(t)
	list := kinds(messages(t, m.told))
	if len(list) == 3 && list[1] == notify.Recovery { // the daemon before counted it first, and opened the repository then
		list = list[2:]
	}
	if !slices.Equal(list, []notify.Kind{notify.Failure}) {
		t.Errorf("messages: %v", list)
	}
}

func testARunThatLivesIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	var cmd *exec.Cmd
	m.dies(t, m.hang, func() {
		cmd = m.program("snapshot", "web")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		m.up(t)
		if e := m.settled(t); e.Last != nil || e.Failures > 0 {
			t.Errorf("beside a run by hand: %+v", e.Job)
		}
		m.said(t, "before web since hand")
	})
	if err := cmd.Wait(); err == nil {
		t.Error("the run whose source was killed succeeded")
	}
	m.said(t, "after web failed since hand", "on_failure web failed since hand")
	m.stop(t)
}

func testTheRecordOfWhatIsNotConfiguredAnyMoreIsDropped(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	m.dieInRun(t)
	m.said(t, "before web since hand")
	with, err := os.ReadFile(m.config)
	if err != nil {
		t.Fatal(err)
	}
	m.configure(t, "environments: {other: {sources: [{path: %s}]}}\n", t.TempDir())
	m.up(t)
	m.take(t, "other")
	m.stop(t)
	if want := `a run died of an environment that is not configured any more: its hooks do not run, and its record is dropped {"environment": "web"}`; !strings.Contains(m.log(t), want) {
		t.Errorf("the log has no %q", want)
	}
	m.write(t, string(with))
	m.up(t)
	if e := m.settled(t); e.Last != nil {
		t.Errorf("it was counted: %+v", e.Last)
	}
	m.said(t)
	m.stop(t)
}

// What ends by a stop did not fail, and did not succeed.
func testARunThatIsStoppedIsInterrupted(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	// By hand.
	var cmd *exec.Cmd
	m.dies(t, m.hang, func() {
		cmd = m.program("snapshot", "web")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exit.Interrupted {
			t.Errorf("Ctrl-C: exit code %d", code)
		}
	})
	m.said(t, "before web since hand", "after web interrupted since hand")
	// With the daemon, between two that fail.
	m.up(t)
	m.dies(t, m.hang, func() {
		if code, body := m.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
			t.Fatalf("%d %s", code, body)
		}
	}, func() { m.stop(t) })
	m.said(t, "before web since hand", "after web interrupted since hand")
	m.up(t)
	r := m.until(t, "the interrupted run is there", func(r *report.Report) bool { return environmentOf(r, "web").Last != nil })
	e := environmentOf(r, "web")
	if l := e.Last; l.Result != report.Interrupted || l.Died || e.Failures != 0 || e.LastSuccess != nil || e.Totals[report.Interrupted] != 1 || e.Totals[report.Failed] != 0 || len(e.Runs) != 1 {
		t.Errorf("the interrupted run: %+v, %+v", l, e.Job)
	}
	if _, metrics := m.fetch(t, "GET", "/metrics"); !strings.Contains(metrics, `knowngood_runs_total{environment="web",result="interrupted"} 1`) {
		t.Error("the metrics do not count it")
	}
	if _, page := m.fetch(t, "GET", "/environments/web"); !strings.Contains(page, "1 interrupted, the newest: interrupted") {
		t.Errorf("the page does not show it:\n%s", page)
	}
	if o := m.ask(t, "status"); !strings.Contains(o.stdout.String(), "interrupted ") || strings.Contains(o.stdout.String(), "FAILED") {
		t.Errorf("status: %s", &o.stdout)
	}
	m.stop(t)
	if list := messages(t, m.told); len(list) > 0 {
		t.Errorf("told: %+v", list)
	}
}
