package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wanted is what a hook prints.
func wanted(t *testing.T, env []string, argv ...string) int {
	t.Helper()
	n, err := strconv.Atoi(output(t, append([]string{"KNOWNGOOD_SCALE_MIN=2", "KNOWNGOOD_INSTANCE_UNITS="}, env...), argv...))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestScaleHooks(t *testing.T) {
	t.Parallel()
	t.Run("by CPU, cgroups of version 1", func(t *testing.T) { scaleByCPU(t, "cpuacct", "cpuacct.usage") })
	t.Run("by CPU, cgroups of version 2", func(t *testing.T) { scaleByCPU(t, "", "cpu.stat") })
	t.Run("by CPU, where nothing runs or can be read", scaleByNoCPU)
	t.Run("by requests", scaleByRequests)
}

// One of two instances is busy: what the hook prints is what its cgroup shows.
func scaleByCPU(t *testing.T, hierarchy, file string) {
	t.Parallel()
	needs(t, true)
	root := filepath.Join("/sys/fs/cgroup", hierarchy)
	if hierarchy == "" {
		if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
			root = "/sys/fs/cgroup/unified"
		}
	}
	name := fmt.Sprintf("knowngood-test-%s-%d", hierarchy, os.Getpid())
	var busy *exec.Cmd
	for n := 1; n <= 2; n++ {
		dir := filepath.Join(root, fmt.Sprintf("%s-%d", name, n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("no cgroup can be made: %v", err)
		}
		defer os.Remove(dir)
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Skipf("cgroups have no such account: %v", err)
		}
		busy = exec.Command("/bin/sh", "-c", "while :; do :; done")
		if n == 1 {
			busy = exec.Command("sleep", "600")
		}
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer busy.Wait()
		defer busy.Process.Kill()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(busy.Process.Pid)), 0o644); err != nil {
			t.Skipf("no process goes into a cgroup: %v", err)
		}
	}
	used := func() time.Duration {
		b, err := os.ReadFile(filepath.Join(root, name+"-2", file))
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := strings.CutPrefix(strings.Fields(string(b))[0], "usage_usec"); ok {
			n, _ := strconv.ParseInt(text+strings.Fields(string(b))[1], 10, 64)
			return time.Duration(n) * time.Microsecond
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return time.Duration(n)
	}
	env := []string{"KNOWNGOOD_INSTANCES=1 2"}
	began, before := time.Now(), used()
	got := wanted(t, env, hook(t, "scale-by-cpu"), "1", "1", name+"-{number}")
	percent := float64(used()-before) / float64(time.Since(began)) * 100
	if float64(got) < percent/2 || float64(got) > percent*2+1 {
		t.Errorf("it prints %d for instances that use %.1f percent, 1 each", got, percent)
	}
	busy.Process.Kill()
	if got := wanted(t, []string{"KNOWNGOOD_INSTANCES=1"}, hook(t, "scale-by-cpu"), "50", "1", name+"-{number}"); got > 1 {
		t.Errorf("it prints %d for an idle instance", got)
	}
}

func scaleByNoCPU(t *testing.T) {
	t.Parallel()
	if got := wanted(t, []string{"KNOWNGOOD_INSTANCES="}, hook(t, "scale-by-cpu"), "50", "1", "none-{number}"); got != 2 {
		t.Errorf("it prints %d before the first instance, want the least", got)
	}
	for _, args := range [][]string{{"50", "1", "none-{number}"}, {"0"}, {"x"}, {}, {"50", "1"}} {
		cmd := exec.Command(hook(t, "scale-by-cpu"), args...)
		cmd.Env = append(os.Environ(), "KNOWNGOOD_INSTANCES=1", "KNOWNGOOD_INSTANCE_UNITS=knowngood-instance@none.service", "KNOWNGOOD_SCALE_MIN=1")
		if out, err := cmd.Output(); err == nil || len(out) > 0 {
			t.Errorf("%v: it prints %q, %v", args, out, err)
		}
	}
}

func scaleByRequests(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "access.log")
	write := func(lines int) {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(strings.Repeat("127.0.0.1 - - \"GET / HTTP/1.1\" 200 5\n", lines))
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	write(1000) // before: they do not count
	during := func(do func()) int {
		done := make(chan struct{})
		go func() { defer close(done); time.Sleep(time.Second); do() }()
		defer func() { <-done }()
		return wanted(t, nil, hook(t, "scale-by-requests"), log, "10", "2")
	}
	for name, c := range map[string]struct {
		do   func()
		want int
	}{
		"no request":          {func() {}, 0},
		"45 in two seconds":   {func() { write(45) }, 3},
		"more after rotation": {func() { write(20); os.Rename(log, log+".1"); write(25) }, 3},
	} {
		if got := during(c.do); got != c.want {
			t.Errorf("%s: it prints %d, want %d", name, got, c.want)
		}
	}
	for _, args := range [][]string{{log + ".gone", "10"}, {log}, {log, "0"}, {log, "x"}} {
		if out, err := exec.Command(hook(t, "scale-by-requests"), args...).Output(); err == nil || len(out) > 0 {
			t.Errorf("%v: it prints %q, %v", args, out, err)
		}
	}
}
