package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"knowngood/daemon/report"
)

// memoryGroup is a cgroup whose processes may use 24 MiB together.
type memoryGroup struct{ dir string }

// newMemoryGroup makes one below the cgroup of this process, and skips the test where
// that is not possible.
func newMemoryGroup(t *testing.T) *memoryGroup {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip(err)
	}
	settings := map[string]string{"memory.max": "24M", "memory.swap.max": "0"} // of version 2
	parent := ""
	for line := range strings.Lines(string(own)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch fields[1] {
		case "memory":
			parent, settings = filepath.Join("/sys/fs/cgroup/memory", fields[2]), map[string]string{"memory.limit_in_bytes": "24M", "memory.swappiness": "0"}
		case "":
			if parent == "" {
				parent = filepath.Join("/sys/fs/cgroup", fields[2])
			}
		}
	}
	dir, err := os.MkdirTemp(parent, "knowngood-test-")
	if err != nil {
		t.Skipf("making a cgroup takes rights that this process does not have: %v", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	for name, value := range settings {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil && !strings.Contains(name, "swap") {
			t.Skipf("this cgroup does not limit memory: %v", err)
		}
	}
	return &memoryGroup{dir}
}

func (g *memoryGroup) add(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

// killed reports whether the kernel killed a process because the memory was used up.
func (g *memoryGroup) killed(t *testing.T) bool {
	t.Helper()
	var all []byte
	for _, name := range []string{"memory.oom_control", "memory.events"} { // of versions 1 and 2
		b, _ := os.ReadFile(filepath.Join(g.dir, name)) // one of them is there
		all = append(all, b...)
	}
	return bytes.Contains(all, []byte("oom_kill ")) && !bytes.Contains(all, []byte("oom_kill 0\n"))
}

func TestDaemonOOM(t *testing.T) {
	t.Parallel()

	t.Run("a run that the kernel kills for its memory is reported", func(t *testing.T) {
		t.Parallel()
		group := newMemoryGroup(t)
		dir := t.TempDir()
		hang, hooks := filepath.Join(dir, "hang"), filepath.Join(dir, "hooks")
		hook := fmt.Sprintf(`[{command: [sh, -c, "echo $KNOWNGOOD_HOOK $KNOWNGOOD_RESULT >>%s"]}]`, hooks)
		s := newService(t, newMachine(t, filepath.Join(dir, "repo")), `environments:
  web:
    sources: [{command: [sh, -c, "if test -e %[1]s; then touch %[1]s.on; while test -e %[1]s; do sleep 0.05; done; head -c 200000000 /dev/urandom; fi; echo rows"], as: dump}]
    hooks: {after: %[2]s, on_failure: %[2]s}
`, hang, hook)
		if err := os.WriteFile(hang, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.up(t)
		if code, body := s.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
			t.Fatalf("%d %s", code, body)
		}
		waitFor(t, "the source hangs", func() bool { return found(t, hang+".on") > 0 })
		group.add(t, s.children(t)[0])
		if err := os.Remove(hang); err != nil {
			t.Fatal(err)
		}

		run := s.captured(t, "web", 1)[0]
		if !group.killed(t) {
			t.Fatalf("the kernel killed nothing: %+v", run)
		}
		if run.Result != report.Failed || !run.Died || run.Snapshot != "" || !strings.Contains(run.Error, "the run died: its process ended in the middle of it (signal: killed): it was killed, was out of memory, or crashed") {
			t.Errorf("the run: %+v", run)
		}
		if b, err := os.ReadFile(hooks); err != nil || string(b) != "after died\non_failure died\n" {
			t.Errorf("the hooks: %s, %v", b, err)
		}
		if out := s.ask(t, "status").stdout.String(); !strings.Contains(out, "DIED, found ") {
			t.Errorf("status: %s", out)
		}
		s.take(t, "web")
		s.stop(t)
	})
}
