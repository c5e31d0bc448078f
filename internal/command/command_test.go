package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
)

// killedHook is set where the test binary is the process that is killed: a
// command for the shell.
const killedHook = "KNOWNGOOD_TEST_KILLED_HOOK"

func TestMain(m *testing.M) {
	if script := os.Getenv(killedHook); script != "" {
		err := (&Command{Argv: []string{"sh", "-c", script}}).Run(context.Background())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// sh is a command that the shell runs, and the lines that it prints.
func sh(script string, args ...string) (*Command, *[]string) {
	said := &[]string{}
	return &Command{
		Argv:  append([]string{"sh", "-c", script, "sh"}, args...),
		Line:  func(stream, line string) { *said = append(*said, stream+": "+line) },
		grace: 300 * time.Millisecond,
	}, said
}

// failure demands that a command fails.
func failure(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("it ended with %v, want an *Error", err)
	}
	return e
}

// long is how long a test waits for what must come.
const long = time.Minute

// run runs a command that must end by itself, long before what it waits for.
func run(t *testing.T, c *Command) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Run(context.Background()) }()
	select {
	case err := <-done:
		return err
	case <-time.After(long):
		buf := make([]byte, 1<<20)
		t.Fatalf("it hangs:\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// pidFrom waits for a process to write its number.
func pidFrom(t *testing.T, file string) int {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(file)
		if text, ok := strings.CutSuffix(string(b), "\n"); ok {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("%s was not written", file)
	return 0
}

// alive distinguishes a process that runs from one that is gone, reaped or not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// gone waits for a process to be gone.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(long); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()

	t.Run("lines of both streams are logged", func(t *testing.T) {
		t.Parallel()
		c, said := sh(`echo one; echo; printf 'two\rthree\n'; printf 'no end'; printf '\033[31mred\377\t$SECRET' >&2`)
		c.Env = []string{"SECRET=x"}
		if err := run(t, c); err != nil {
			t.Fatal(err)
		}
		want := map[string][]string{"stdout": {"one", "two", "three", "no end"}, "stderr": {`\x1b[31mred\xff $SECRET`}}
		got := map[string][]string{}
		for _, line := range *said {
			stream, text, _ := strings.Cut(line, ": ")
			got[stream] = append(got[stream], text)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("lines %q, want %q", got, want)
		}
	})

	t.Run("output that is captured comes whole and errors go to the log", func(t *testing.T) {
		t.Parallel()
		c, said := sh(`echo "$1 $NAME"; head -c 3000000 /dev/zero; echo warned >&2`, "argument")
		var out bytes.Buffer
		c.Env, c.Stdout = []string{"NAME=value"}, &out
		if err := run(t, c); err != nil {
			t.Fatal(err)
		}
		if want := append([]byte("argument value\n"), make([]byte, 3000000)...); !bytes.Equal(out.Bytes(), want) {
			t.Errorf("captured %d bytes, want %d", out.Len(), len(want))
		}
		if !reflect.DeepEqual(*said, []string{"stderr: warned"}) {
			t.Errorf("lines %q", *said)
		}
	})

	t.Run("captured output waits for its taker longer than for a process", func(t *testing.T) {
		t.Parallel()
		c, _ := sh(`head -c 60000 /dev/zero`)
		gate := make(chan struct{})
		out := &slowWriter{gate: gate}
		c.Stdout, c.grace = out, 10*time.Millisecond
		time.AfterFunc(20*c.grace, func() { close(gate) })
		if err := run(t, c); err != nil || out.Len() != 60000 {
			t.Errorf("captured %d bytes, want 60000: %v", out.Len(), err)
		}
	})

	t.Run("a failure names the program and its exit status and its last lines", func(t *testing.T) {
		t.Parallel()
		c, _ := sh(`seq 1 2000 >&2; echo no such database >&2; exit 7`, "hunter2")
		c.Env = []string{"PASSWORD=hunter3"}
		e := failure(t, run(t, c))
		if e.ExitCode != 7 || e.Signal != 0 || e.TimedOut || e.Err != nil {
			t.Errorf("%+v", e)
		}
		if !strings.HasSuffix(e.Tail, "\n1999\n2000\nno such database") || len(e.Tail) > tailLimit || len(e.Tail) < tailLimit/2 {
			t.Errorf("tail of %d bytes: %q", len(e.Tail), e.Tail)
		}
		first, _, _ := strings.Cut(e.Tail, "\n")
		if n, err := strconv.Atoi(first); err != nil || n < 1000 {
			t.Errorf("the tail begins within a line: %q", first)
		}
		text := e.Error()
		if !strings.HasPrefix(text, "sh: exit status 7: ") || strings.ContainsAny(text, "\n") || !strings.HasSuffix(text, "; 2000; no such database") {
			t.Errorf("error %q", text)
		}
		if strings.Contains(text, "hunter") {
			t.Errorf("the error tells arguments or variables: %s", text)
		}
	})

	t.Run("the signal that ended a program is named", func(t *testing.T) {
		t.Parallel()
		c, _ := sh(`kill -9 $$`)
		e := failure(t, run(t, c))
		if e.Signal != syscall.SIGKILL || e.ExitCode != -1 || e.Error() != "sh: ended by a signal: killed" {
			t.Errorf("%+v: %v", e, e)
		}
	})

	t.Run("the reason is named when a program does not start", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for text, argv := range map[string][]string{"executable file not found": {"no-such-program-here"}, "permission denied": {file}, "no program is named": nil} {
			e := failure(t, run(t, &Command{Argv: argv, Stdin: strings.NewReader("x")}))
			if !strings.Contains(e.Error(), text) || e.ExitCode != -1 {
				t.Errorf("%q: %v", argv, e)
			}
		}
	})

	t.Run("a flood of output is cut off in the log and in memory", func(t *testing.T) {
		t.Parallel()
		for name, script := range map[string]string{
			"lines":         `yes a line | head -n 1000000`,
			"one long line": `head -c 200000000 /dev/zero | tr '\0' x`,
			"long lines":    `x=$(head -c 3000 /dev/zero | tr '\0' x); yes $x | head -c 100000000`,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, said := sh(script + "; echo flood >&2; exit 3")
				e := failure(t, run(t, c))
				if e.ExitCode != 3 || e.Tail != "flood" {
					t.Errorf("%+v", e)
				}
				total := 0
				for _, line := range *said {
					total += len(line)
					if len(line) > lineLimit+20 {
						t.Errorf("a line of %d bytes", len(line))
					}
				}
				if len(*said) == 0 || len(*said) > linesLimit+1 || total > logLimit+20*linesLimit {
					t.Errorf("%d lines of %d bytes", len(*said), total)
				}
				left := 0
				for _, line := range *said {
					if strings.HasSuffix(line, "... more output is left out") {
						left++
					}
				}
				if want := 1; name != "one long line" && left != want {
					t.Errorf("%d lines say that some are left out", left)
				}
			})
		}
	})

	t.Run("a program that hangs is ended at its timeout", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		// The shell waits for a child: both must go.
		c, _ := sh(`sleep 1000 & echo $! >"$1"; echo half >&2; wait`, filepath.Join(dir, "child"))
		c.Timeout = 500 * time.Millisecond
		e := failure(t, run(t, c))
		if !e.TimedOut || e.Signal != syscall.SIGTERM || e.Error() != "sh: it took longer than its timeout of 500ms: half" {
			t.Errorf("%+v: %v", e, e)
		}
		gone(t, pidFrom(t, filepath.Join(dir, "child")))
	})

	t.Run("a program that ignores SIGTERM is killed with its group", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		c, _ := sh(`trap '' TERM; sleep 1000 >/dev/null 2>&1 & echo $! >"$1"; while :; do sleep 1000; done`, filepath.Join(dir, "child"))
		c.Timeout = 500 * time.Millisecond
		e := failure(t, run(t, c))
		if !e.TimedOut || e.Signal != syscall.SIGKILL {
			t.Errorf("%+v", e)
		}
		gone(t, pidFrom(t, filepath.Join(dir, "child")))
	})

	t.Run("a timeout kills the group though its leader ended at SIGTERM", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		c, _ := sh(`(trap '' TERM; sh -c 'echo $PPID' >"$1"; while :; do sleep 1000; done) >/dev/null 2>&1 & wait`, filepath.Join(dir, "child"))
		c.Timeout = 500 * time.Millisecond
		if e := failure(t, run(t, c)); !e.TimedOut || e.Signal != syscall.SIGTERM {
			t.Errorf("%+v", e)
		}
		gone(t, pidFrom(t, filepath.Join(dir, "child")))
	})

	t.Run("a timeout gives time to clean up", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "thawed")
		c, _ := sh(`trap 'echo thawed >"$1"; exit 0' TERM; while :; do sleep 0.01; done`, file)
		c.Timeout, c.grace = 300*time.Millisecond, long
		e := failure(t, run(t, c))
		if !e.TimedOut || e.ExitCode != 0 {
			t.Errorf("%+v", e)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "thawed\n" {
			t.Errorf("it was not asked: %q %v", b, err)
		}
	})

	t.Run("a cancelled context ends the program and is the cause", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "pid")
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		c, _ := sh(`echo $$ >"$1"; sleep 1000`, file)
		stop := errors.New("the daemon stops")
		go func() {
			pidFrom(t, file)
			cancel(stop)
		}()
		err := c.Run(ctx)
		if e := failure(t, err); !errors.Is(err, stop) || e.TimedOut {
			t.Errorf("%+v", e)
		}
		gone(t, pidFrom(t, file))
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run in a context that is done: %v", err)
		}
	})

	t.Run("a process in the background is not waited for", func(t *testing.T) {
		t.Parallel()
		for name, script := range leave {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "pid")
				c, said := sh(`echo begun; `+script, file)
				if err := run(t, c); err != nil {
					t.Error(err)
				}
				if len(*said) == 0 || (*said)[0] != "stdout: begun" {
					t.Errorf("lines %q", *said)
				}
				kill(t, file)
			})
		}
	})

	t.Run("captured output that a process in the background holds is no success", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "pid")
		c, _ := sh(leave["a session"], file)
		c.Stdout = io.Discard
		if e := failure(t, run(t, c)); !errors.Is(e, errOutputOpen) || e.ExitCode != 0 {
			t.Errorf("%+v", e)
		}
		kill(t, file)
	})

	t.Run("a process that leaves the group cannot hold up a timeout", func(t *testing.T) {
		t.Parallel()
		for _, captured := range []bool{false, true} {
			t.Run(fmt.Sprintf("captured %v", captured), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "pid")
				c, _ := sh(leave["a session"]+`; sleep 1000`, file)
				if captured {
					c.Stdout = io.Discard
				}
				c.Timeout = time.Second
				if e := failure(t, run(t, c)); !e.TimedOut {
					t.Errorf("%+v", e)
				}
				kill(t, file)
			})
		}
	})

	t.Run("a taker that fails ends the program", func(t *testing.T) {
		t.Parallel()
		c, _ := sh(`trap '' PIPE; while :; do echo output; done 2>/dev/null`)
		full := errors.New("the store is full")
		pr, pw := io.Pipe()
		pr.CloseWithError(full)
		c.Stdout = pw
		if err := run(t, c); !errors.Is(err, full) {
			t.Errorf("%v, want %v", err, full)
		}
	})

	t.Run("a taker that hangs does not hold up a timeout", func(t *testing.T) {
		t.Parallel()
		c, _ := sh(`yes`)
		pr, pw := io.Pipe()
		defer pr.Close()
		c.Stdout, c.Timeout = pw, 300*time.Millisecond
		if e := failure(t, run(t, c)); !e.TimedOut {
			t.Errorf("%+v", e)
		}
	})

	t.Run("input is read", func(t *testing.T) {
		t.Parallel()
		in := bytes.Repeat([]byte("0123456789abcde\n"), 100_000)
		c, _ := sh(`cat`)
		var out bytes.Buffer
		c.Stdin, c.Stdout = bytes.NewReader(in), &out
		if err := run(t, c); err != nil || !bytes.Equal(in, out.Bytes()) {
			t.Errorf("%d bytes came back of %d: %v", out.Len(), len(in), err)
		}
		c, said := sh(`head -n 1`)
		c.Stdin = bytes.NewReader(in)
		if err := run(t, c); err != nil || !reflect.DeepEqual(*said, []string{"stdout: 0123456789abcde"}) {
			t.Errorf("a program that reads little: %q %v", *said, err)
		}
		c, _ = sh(`read x`) // fails at the end of its input
		if e := failure(t, run(t, c)); e.ExitCode != 1 {
			t.Errorf("without input: %v", e)
		}
	})

	t.Run("half an input does not pass for a whole one", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "restored")
		lost := errors.New("connection lost")
		c, _ := sh(`cat >/dev/null; echo restored >"$1"`, file)
		c.Stdin = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(lost))
		if err := run(t, c); !errors.Is(err, lost) {
			t.Errorf("%v, want %v", err, lost)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Error("the program took half the input for a whole one")
		}
	})

	t.Run("a program and its group die with the process that runs it", func(t *testing.T) {
		t.Parallel()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		cmd := exec.Command(self)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), killedHook+`=sleep 1000 & echo $! >job; sh -c 'echo $$ >child; exec sleep 1000' & trap '' TERM; echo $$ >program; wait`)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		for _, name := range []string{"program", "job", "child"} {
			pid := pidFrom(t, filepath.Join(dir, name))
			defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
			pids = append(pids, pid)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		for _, pid := range pids {
			gone(t, pid)
		}
	})

	// The kernel takes the thread that started a program for its parent. Threads end
	// here as they do in a program that locks and never unlocks them.
	t.Run("a program outlives the threads that end", func(t *testing.T) {
		t.Parallel()
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					runtime.LockOSThread() // never unlocked: the thread ends here
				}()
				<-ended
			}
		}()
		for range 20 {
			c, _ := sh(`sleep 0.02; exit 7`)
			if e := failure(t, run(t, c)); e.ExitCode != 7 {
				t.Errorf("it ended with %v", e)
			}
		}
		close(stop)
		<-done
	})
}

// slowWriter takes the first bytes only when released, as a store does that is
// waited for.
type slowWriter struct {
	bytes.Buffer
	gate <-chan struct{}
}

func (w *slowWriter) Write(b []byte) (int, error) {
	<-w.gate
	return w.Buffer.Write(b)
}

// leave lists ways to leave a process behind that holds the output open.
var leave = map[string]string{
	"a job":     `sleep 1000 & echo $! >"$1"`,
	"nohup":     `nohup sleep 1000 & echo $! >"$1"`,
	"a session": `setsid sh -c 'echo $$ >"$1"; exec sleep 1000' sh "$1" & while ! grep -q . "$1" 2>/dev/null; do sleep 0.01; done`,
	"a flood":   `setsid sh -c 'echo $$ >"$1"; exec yes' sh "$1" & while ! grep -q . "$1" 2>/dev/null; do sleep 0.01; done`,
}

// kill ends a process that a command left behind.
func kill(t *testing.T, file string) {
	t.Helper()
	pid := pidFrom(t, file)
	if !alive(pid) && !strings.HasSuffix(t.Name(), "flood") { // whose pipe was closed
		t.Errorf("process %d, left in the background, is gone", pid)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	gone(t, pid)
}

func TestOutside(t *testing.T) {
	t.Parallel()

	t.Run("is refused without systemd", func(t *testing.T) {
		t.Parallel()
		if booted() {
			t.Skip("systemd is here")
		}
		if os.Geteuid() != 0 {
			t.Skip("who is not root asks a server")
		}
		if err := run(t, &Command{Argv: []string{"true"}, Outside: true}); err == nil || !strings.Contains(err.Error(), "was not booted with it") {
			t.Error(err)
		}
	})

	t.Run("runs in a unit of its own", func(t *testing.T) {
		t.Parallel()
		if !booted() || os.Geteuid() != 0 {
			t.Skip("needs root on a machine booted with systemd")
		}
		c, said := sh(`cat /proc/self/cgroup; echo "$TOKEN"`)
		c.Env, c.Outside = []string{"TOKEN=a value"}, true
		if err := run(t, c); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(*said, "\n"); !strings.Contains(text, "/knowngood-") || !strings.HasSuffix(text, "stdout: a value") {
			t.Errorf("it said %s", text)
		}
		c, _ = sh(`sleep 1000`)
		c.Outside, c.Timeout, c.grace = true, time.Second, grace
		if e := failure(t, run(t, c)); !e.TimedOut {
			t.Error(e)
		}
		if out, _ := exec.Command("systemctl", "list-units", "--plain", "--no-legend", "knowngood-*").Output(); len(out) > 0 {
			t.Errorf("left running: %s", out)
		}
	})
}

// The stand-in takes what systemd-run documents: options, then -- and the
// program, and exits with that one's status.
func TestOutsideSequentially(t *testing.T) {
	t.Run("gives systemd-run the program and keeps secrets from its arguments", func(t *testing.T) {
		dir := t.TempDir()
		script := "#!/bin/sh\necho \"$@\" >&2\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, "systemd-run"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		c, said := sh(`echo "$1 $TOKEN"; exit 4`, "two words")
		c.Env, c.Timeout = []string{"TOKEN=hunter2"}, time.Minute
		argv, unit, err := c.outside(true)
		if err != nil {
			t.Fatal(err)
		}
		c.Argv = argv
		if e := failure(t, run(t, c)); e.ExitCode != 4 {
			t.Error(e)
		}
		var options string
		for _, line := range *said {
			if text, ok := strings.CutPrefix(line, "stderr: "); ok {
				options, _, _ = strings.Cut(text, " -- ")
			} else if line != "stdout: two words hunter2" {
				t.Errorf("it said %q", line)
			}
		}
		for _, want := range []string{"--wait", "--pipe", "--collect", "--service-type=exec", "--setenv=TOKEN", "--unit=" + unit, "--property=RuntimeMaxSec=71"} {
			if !strings.Contains(" "+options+" ", " "+want+" ") {
				t.Errorf("%s is not among the options %s", want, options)
			}
		}
		if strings.Contains(options, "hunter2") {
			t.Error("the value of a variable shows in the process list")
		}
	})
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	c, said := sh("pwd -P")
	c.Dir = dir
	if err := c.Run(t.Context()); err != nil || len(*said) != 1 || !strings.HasSuffix((*said)[0], dir) {
		t.Errorf("a program that runs in %s printed %q: %v", dir, *said, err)
	}
}
