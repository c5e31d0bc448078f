package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/daemon/report"
)

func TestDaemonHarm(t *testing.T) {
	t.Parallel()
	t.Run("a hook cannot hang or fill the daemon", testAHookCannotHangOrFillTheDaemon)
	t.Run("a hook after a run may end when the daemon is stopped", testAHookAfterARunMayEndWhenTheDaemonIsStopped)
	t.Run("a daemon outlives a full disk", testADaemonOutlivesAFullDisk)
	t.Run("a daemon with a damaged key reports it and works again with a whole one", testADaemonWithADamagedKeyReportsItAndWorksAgainWithAWholeOne)
}

// A hook that leaves processes behind, floods and does not end fails its own
// run, and nothing else.
func testAHookCannotHangOrFillTheDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	hook := filepath.Join(src, "hook")
	script := "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! >" + filepath.Join(src, "left") + "\nyes flood | head -c 50000000\nyes flood | head -c 50000000 >&2\nsleep 1000\n"
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newService(t, m, `environments:
  bad: {sources: [{path: %[1]s}], hooks: {before: [{command: [%[2]s], timeout: 3s}], after: [{command: [touch, %[1]s/after]}], on_failure: [{command: [sh, -c, "echo $KNOWNGOOD_ERROR >%[1]s/failed"]}]}}
  good: {schedule: "@every 1s", sources: [{path: %[1]s}]}
`, src, hook)
	s.up(t)
	if code, body := s.fetch(t, "POST", "/api/v1/environments/bad/snapshot"); code != 202 {
		t.Fatalf("%d %s", code, body)
	}
	s.until(t, "the hook runs", func(r *report.Report) bool {
		e := environmentOf(r, "bad").Running
		return e != nil && e.Phase == "before"
	})
	good := len(environmentOf(s.until(t, "it answers", func(*report.Report) bool { return true }), "good").Runs)
	beside := s.captured(t, "good", good+2)
	r := s.until(t, "the run with the hook ends", func(r *report.Report) bool { return environmentOf(r, "bad").Last != nil })
	run := environmentOf(r, "bad").Last
	if run.Result != report.Failed || run.Snapshot != "" || !strings.Contains(run.Error, "nothing was captured: hook before, command 1") || !strings.Contains(run.Error, "timeout of 3s") {
		t.Errorf("the run with the hook: %+v", run)
	}
	if last := beside[len(beside)-1]; last.Started.Before(run.Started) || last.Started.After(run.Finished) {
		t.Errorf("beside the hook from %v to %v nothing was captured: %v", run.Started, run.Finished, last.Started)
	}
	for _, name := range []string{"after", "failed"} {
		if _, err := os.Stat(filepath.Join(src, name)); err != nil {
			t.Errorf("a hook did not run: %v", err)
		}
	}
	if size := len(s.log(t)); size > 1<<20 {
		t.Errorf("the log has %d bytes", size)
	}
	left, err := os.ReadFile(filepath.Join(src, "left"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", bytes.TrimSpace(left))); err == nil && string(b) == "sleep\x001000\x00" {
		t.Errorf("process %s is left behind", left)
	}
	s.stop(t)
}

// A hook that takes back what was done before the run comes to its end, also
// when the daemon is stopped meanwhile.
func testAHookAfterARunMayEndWhenTheDaemonIsStopped(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src, dir := t.TempDir(), t.TempDir()
	begun, done := filepath.Join(dir, "begun"), filepath.Join(dir, "done")
	s := newService(t, m, "environments: {web: {sources: [{path: %s}], hooks: {after: [{command: [sh, -c, \"touch %s; sleep 2; touch %s\"]}]}}}\n", src, begun, done)
	s.up(t)
	if code, body := s.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
		t.Fatalf("%d %s", code, body)
	}
	waitFor(t, "the hook runs", func() bool { return found(t, begun) > 0 })
	s.stop(t)
	if found(t, done) == 0 {
		t.Error("the hook was ended within its work")
	}
	if !strings.Contains(s.log(t), `run done {"result": "success"`) {
		t.Error("the log does not tell that the run was done")
	}
}

// A daemon that is stopped waits for hooks that clean up, and not for ever.
func testHooksThatHangDoNotHoldADaemonThatIsStopped(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	hang := `[{command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"], timeout: 1h}]`
	s := newService(t, m, "environments: {web: {sources: [{path: %s}], hooks: {before: %[2]s, after: %[2]s, on_failure: %[2]s}}}\n", t.TempDir(), hang)
	s.up(t)
	if code, body := s.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
		t.Fatalf("%d %s", code, body)
	}
	s.until(t, "the hook runs", func(r *report.Report) bool {
		e := environmentOf(r, "web").Running
		return e != nil && e.Phase == "before"
	})
	took := s.stop(t)
	t.Logf("it took %v", took)
	if took > 110*time.Second { // the unit kills it after two minutes
		t.Errorf("it took %v to end", took)
	}
}

// A disk without room under the state directory stops no daemon, and spoils
// nothing of what it remembers.
func testADaemonOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	needs(t, true)
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src, small, log := t.TempDir(), t.TempDir(), t.TempDir()
	made := m.state
	disk := *m
	disk.state = filepath.Join(small, "state")
	s := newService(t, &disk, "environments: {web: {retries: 0, keep: {last: 3}, sources: [{path: %s}]}}\n", src)
	// Only the daemon sees the disk; exec keeps its number.
	s.prefix = []string{"with-disk", small, "size=3m", "sh", "-ec", fmt.Sprintf("cp -a %s %s; exec \"$@\"", made, disk.state), "sh"}
	s.up(t)
	s.prefix = nil
	before := *s.take(t, "web")

	seen := fmt.Sprintf("/proc/%d/root%s", s.cmd.Process.Pid, small)
	other, err := os.Create(filepath.Join(seen, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for b := make([]byte, 64<<10); ; {
		if _, err := other.Write(b); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	results := map[report.Result]int{}
	for n := range 4 {
		if err := os.WriteFile(filepath.Join(src, "file"), fmt.Append(nil, n), 0o644); err != nil {
			t.Fatal(err)
		}
		run, err := s.client.Snapshot(t.Context(), "web", nil)
		if err != nil {
			t.Fatal(err)
		}
		results[run.Result]++
		if run.Result == report.Failed && !strings.Contains(run.Error, "no space left on device") {
			t.Errorf("a run on a full disk: %+v", run)
		}
		if n == 0 {
			t.Logf("a run on a full disk: %s %s", run.Result, run.Error)
		}
	}
	t.Logf("runs on a full disk: %v", results)
	full := filepath.Join(log, "full")
	output(t, nil, "cp", "-a", filepath.Join(seen, "state"), full)

	if err := other.Truncate(0); err != nil {
		t.Fatal(err)
	}
	after := s.take(t, "web")
	if after.Files != before.Files+1 {
		t.Errorf("the run after it: %+v", after)
	}
	s.stop(t)
	m.must(t, "check", "--read-data")

	// What a crash on the full disk would have left.
	crashed := *m
	crashed.state = full
	s.machine = &crashed
	s.configure(t, "environments: {web: {sources: [{path: %s}]}}\n", src)
	s.up(t)
	r := s.until(t, "the repository is open", func(r *report.Report) bool { return r.Degraded == "" })
	if e := environmentOf(r, "web"); len(r.Warnings) > 0 || e.Totals[report.Success]+e.Totals[report.Failed] != 5 || e.Last == nil {
		t.Errorf("a state from the full disk: %+v, warnings %+v", e.Job, r.Warnings)
	}
	s.take(t, "web")
	s.stop(t)
}

// A daemon that may not use the repository reports it, and goes on once it may.
func testADaemonWithADamagedKeyReportsItAndWorksAgainWithAWholeOne(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	keys, err := filepath.Glob(filepath.Join(m.state, "repos/*/host.key"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	whole, err := os.ReadFile(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys[0], whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\n", t.TempDir())
	manager := newManager(t)
	s.up(t, manager.env()...)
	manager.until(t, "STATUS=The daemon cannot do its work: ", "READY=1")
	if status := manager.status(); !strings.Contains(status, "host.key") {
		t.Errorf("the status: %s", status)
	}
	run, err := s.client.Snapshot(t.Context(), "web", nil)
	if err != nil || run.Result != report.Failed || !strings.Contains(run.Error, "host.key") {
		t.Errorf("a run without the key: %+v, %v", run, err)
	}
	if err := os.WriteFile(keys[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.take(t, "web")
	manager.until(t, "STATUS=1 environment has a snapshot")
	s.stop(t)
}
