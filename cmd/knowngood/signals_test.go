package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
)

// hooked is a configuration of an environment web, of which before waits for the
// file go, and after writes the file after. Its hooks leave files in dir.
func hooked(t *testing.T, m *machine, dir string) (config string) {
	t.Helper()
	src := t.TempDir()
	grow(t, src, "file", 1000)
	return m.configured(t, `environments:
  web:
    sources: [{path: %[1]q}]
    hooks:
      before: [{command: [sh, -c, "touch %[2]s/before; while [ -d %[2]s -a ! -e %[2]s/go ]; do sleep 0.01; done"]}]
      after: [{command: [sh, -c, "touch %[2]s/after-began; while [ -d %[2]s -a ! -e %[2]s/end ]; do sleep 0.01; done; touch %[2]s/after"]}]
`, src, dir)
}

func TestSignals(t *testing.T) {
	t.Parallel()
	t.Run("a lost terminal ends a run by hand in order", testALostTerminalEndsARunByHandInOrder)
	t.Run("a run under nohup outlives its terminal", testARunUnderNohupOutlivesItsTerminal)
	t.Run("a pipe that nobody reads", testAPipeThatNobodyReads)
}

// testALostTerminalEndsARunByHandInOrder sends what a terminal sends when it goes
// away, between the hooks of a run: a first SIGHUP, and another one.
func testALostTerminalEndsARunByHandInOrder(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored")
	}
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	cmd, wait := m.start(t, "snapshot", "web", "--config", hooked(t, m, dir))
	waitFor(t, "before runs", func() bool { return found(t, at("before")) > 0 })
	hangUp(t, cmd)
	waitFor(t, "after runs", func() bool { return found(t, at("after-began")) > 0 })
	hangUp(t, cmd)
	grow(t, dir, "end", 1)
	o := wait()
	o.exits(t, exit.Interrupted)
	if found(t, at("after")) == 0 {
		t.Errorf("after was not run to its end: %s", &o.stderr)
	}
	if refs := m.refs(t); len(refs) > 0 {
		t.Errorf("it committed %v", refs)
	}
}

func testARunUnderNohupOutlivesItsTerminal(t *testing.T) {
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	args := []string{"snapshot", "web", "--config", hooked(t, m, dir)}
	cmd := m.command(args...)
	cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`, cmd.Path}, args...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = sh
	o := &outcome{args: args}
	cmd.Stdout, cmd.Stderr = &o.stdout, &o.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer hung.Stop()
	waitFor(t, "before runs", func() bool { return found(t, filepath.Join(dir, "before")) > 0 })
	hangUp(t, cmd)
	grow(t, dir, "go", 1)
	grow(t, dir, "end", 1)
	_ = cmd.Wait()
	o.code = cmd.ProcessState.ExitCode()
	o.exits(t, exit.Done)
	if refs := m.refs(t); !slices.Equal(refs, []string{"web@1"}) {
		t.Errorf("it committed %v", refs)
	}
}

func hangUp(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// testAPipeThatNobodyReads is that of knowngood ... | head, when head has ended.
func testAPipeThatNobodyReads(t *testing.T) {
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	config := hooked(t, m, dir)
	grow(t, dir, "go", 1)
	grow(t, dir, "end", 1)

	t.Run("as standard output does not end a run between its hooks", func(t *testing.T) {
		cmd, o := m.command("snapshot", "web", "--config", config, "--json"), &outcome{}
		cmd.Stdout, cmd.Stderr = unread(t), &o.stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != exit.Failed || !strings.Contains(o.stderr.String(), "knowngood: write the output: ") {
			t.Errorf("%v: %s", cmd.ProcessState, &o.stderr)
		}
		if refs := m.refs(t); !slices.Equal(refs, []string{"web@1"}) || found(t, filepath.Join(dir, "after")) == 0 {
			t.Errorf("it committed %v, and left %d files of after", refs, found(t, filepath.Join(dir, "after")))
		}
	})
	t.Run("as standard error does not end it either", func(t *testing.T) {
		cmd, o := m.command("snapshot", "web", "--config", config), &outcome{}
		cmd.Stdout, cmd.Stderr = &o.stdout, unread(t)
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != exit.Failed || o.stdout.String() != "web@2\n" {
			t.Errorf("%v: %s", cmd.ProcessState, &o.stdout)
		}
	})
	t.Run("ends a command that does nothing but print", func(t *testing.T) {
		cmd, o := m.command("--quiet", "list"), &outcome{}
		cmd.Stdout, cmd.Stderr = unread(t), &o.stderr
		_ = cmd.Run()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGPIPE {
			t.Errorf("%v: %s", cmd.ProcessState, &o.stderr)
		}
	})
}

// unread is the end of a pipe that nobody reads.
func unread(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}
