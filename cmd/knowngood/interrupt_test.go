package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
	"knowngood/internal/treetest"
)

func TestInterrupt(t *testing.T) {
	t.Parallel()
	t.Run("a run of the daemon outlives who asked for it", testARunOfTheDaemonOutlivesWhoAskedForIt)
}

func TestInterruptSequentially(t *testing.T) {
	t.Run("interrupted commands report that they go on", testInterruptedCommandsReportThatTheyGoOn)
}

// testInterruptedCommandsReportThatTheyGoOn interrupts a command by each signal
// in the midst of its work: it reports that, keeps what was done, and goes on.
func testInterruptedCommandsReportThatTheyGoOn(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := filepath.Join(t.TempDir(), "repo")
			m, k := newMachine(t, repo), newKiller(t)
			src := t.TempDir()
			const files, size = 6, 8 << 20
			for i := range files {
				k.write(t, filepath.Join(src, fmt.Sprint("file-", i)), size)
			}

			packs := filepath.Join(repo, "hosts/*/packs/*/*")
			interrupt(t, m, signal, func() bool { return stored(t, packs) > 2*size },
				"snapshot", "--env", "web", "--limit-upload", "24MiB", src)
			if refs := m.refs(t); len(refs) > 0 {
				t.Fatalf("an interrupted run committed %v", refs)
			}
			m.must(t, "check")
			r := m.snapshot(t, "web", src)
			if r.Ref != "web@1" || r.Status != "complete" || r.NewBytes > files*size-size {
				t.Errorf("the run after the interrupted one: %+v; want fewer new bytes", r)
			}

			target := filepath.Join(t.TempDir(), "out")
			written := filepath.Join(target, "file-*")
			interrupt(t, m, signal, func() bool { return found(t, written) > 1 },
				"restore", "web:"+src, "--target", target, "--limit-download", "24MiB")
			m.must(t, "restore", "web:"+src, "--target", target)
			treetest.Equal(t, src, target, treetest.Options{})
		})
	}
}

// A client that is interrupted does not stop the run of the daemon, and reports that.
func testARunOfTheDaemonOutlivesWhoAskedForIt(t *testing.T) {
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	src := t.TempDir()
	grow(t, src, "a", 1000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}], hooks: {before: [{command: [sh, -c, \"touch %[2]s/before; while [ -d %[2]s -a ! -e %[2]s/go ]; do sleep 0.01; done\"]}]}}}\n", src, dir)
	s.up(t)
	cmd, o := s.program("snapshot", "web", "--json"), &outcome{args: []string{"snapshot", "web", "--json"}}
	stdout, err := os.Create(filepath.Join(dir, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd.Stdout, cmd.Stderr = stdout, &o.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the run is under way", func() bool { return found(t, filepath.Join(dir, "before")) > 0 })
	waitFor(t, "the program tells how far it is, again", func() bool {
		b, err := os.ReadFile(stdout.Name())
		return err == nil && strings.Count(string(b), `"type":"progress"`) > 1
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	o.code = cmd.ProcessState.ExitCode()
	o.exits(t, exit.Interrupted)
	if text := o.stderr.String(); !strings.Contains(text, "interrupted: the daemon's run goes on; knowngood status shows it\n") || strings.Contains(text, "again") {
		t.Errorf("it said: %s", text)
	}
	grow(t, dir, "go", 1)
	if run := s.captured(t, "web", 1)[0]; run.Snapshot != "web@1" || run.Result != report.Success {
		t.Errorf("the run: %+v", run)
	}
}

// interrupt signals a command when it has done something, and demands that it
// ends soon, and as it should.
func interrupt(t *testing.T, m *machine, signal os.Signal, begun func() bool, args ...string) {
	t.Helper()
	cmd, wait := m.start(t, args...)
	for deadline := time.Now().Add(30 * time.Second); !begun(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatalf("%v did nothing: %s", args, &wait().stderr)
		}
	}
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	signalled := time.Now()
	o := wait()
	o.exits(t, exit.Interrupted)
	if !strings.Contains(o.stderr.String(), "interrupted: what was done so far is kept, run the same command again to go on") {
		t.Errorf("%v said %q", args, &o.stderr)
	}
	if took := time.Since(signalled); took > 5*time.Second {
		t.Errorf("%v took %v to end", args, took)
	}
}

// stored is how many bytes the files hold that match a pattern.
func stored(t *testing.T, pattern string) (n int64) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil { // a temporary one may be gone
			n += info.Size()
		}
	}
	return n
}

func found(t *testing.T, pattern string) int {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
