package outside

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// server answers each connection to a socket until the test ends.
func server(t *testing.T, allowed func([]string) (Permission, error)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = Serve(t.Context(), conn.(*net.UnixConn), allowed)
			}()
		}
	}()
	return socket
}

func anything([]string) (Permission, error) { return Hook, nil }

// only allows one command.
func only(hook []string) func([]string) (Permission, error) {
	return func(argv []string) (Permission, error) {
		if slices.Equal(argv, hook) {
			return Hook, nil
		}
		return No, nil
	}
}

// ask runs a command at the server, and returns what it wrote.
func ask(t *testing.T, ctx context.Context, socket string, env []string, argv ...string) (status int, stdout, stderr string, err error) {
	t.Helper()
	var said [2]bytes.Buffer
	status, err = Run(ctx, socket, argv, env, &said[0], &said[1])
	return status, said[0].String(), said[1].String(), err
}

func TestOutside(t *testing.T) {
	t.Parallel()

	t.Run("a command runs with the output and variables of who asks", func(t *testing.T) {
		t.Parallel()
		status, stdout, stderr, err := ask(t, t.Context(), server(t, anything), []string{"KNOWNGOOD_HOOK=before", "LD_PRELOAD=/evil", "PATH=/evil"},
			"sh", "-c", `echo "$KNOWNGOOD_HOOK ${LD_PRELOAD-none}"; echo amiss >&2; exit 7`)
		if err != nil || status != 7 || stdout != "before none\n" || stderr != "amiss\n" {
			t.Errorf("status %d, %q, %q, %v", status, stdout, stderr, err)
		}
	})

	t.Run("a long request arrives whole", func(t *testing.T) {
		t.Parallel()
		long := strings.Repeat("x", 100<<10)
		_, stdout, _, err := ask(t, t.Context(), server(t, anything), []string{"KNOWNGOOD_ERROR=" + long, "KNOWNGOOD_HOST=" + long}, "sh", "-c", "echo ${#KNOWNGOOD_ERROR} ${#KNOWNGOOD_HOST}")
		if err != nil || stdout != "102400 102400\n" {
			t.Errorf("%q, %v", stdout, err)
		}
		_, _, _, err = ask(t, t.Context(), server(t, anything), nil, "true", strings.Repeat(long, 11))
		if err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("what cannot arrive is answered with %v", err)
		}
	})

	t.Run("what is not allowed is not run", func(t *testing.T) {
		t.Parallel()
		made := filepath.Join(t.TempDir(), "made")
		hook := []string{"touch", made + ".allowed"}
		socket := server(t, only(hook))
		if status, _, _, err := ask(t, t.Context(), socket, nil, hook...); err != nil || status != 0 {
			t.Errorf("a hook: status %d, %v", status, err)
		}
		_, _, _, err := ask(t, t.Context(), socket, nil, "touch", made)
		if err == nil || !strings.Contains(err.Error(), "touch, with these arguments, is nothing with outside: true") {
			t.Errorf("another command: %v", err)
		}
		if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it ran: %v", err)
		}
		if _, _, _, err := ask(t, t.Context(), server(t, func([]string) (Permission, error) { return No, errors.New("the configuration is broken") }), nil, "true"); err == nil || !strings.Contains(err.Error(), "is broken") {
			t.Errorf("an error of the check is reported as %v", err)
		}
	})

	t.Run("a program that is not there is an error", func(t *testing.T) {
		t.Parallel()
		if _, _, _, err := ask(t, t.Context(), server(t, anything), nil, "/nowhere/at/all"); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%v", err)
		}
		if _, _, _, err := ask(t, t.Context(), "/nowhere/knowngood-outside.sock", nil, "true"); err == nil || !strings.Contains(err.Error(), "systemctl start knowngood-outside.socket") {
			t.Errorf("%v", err)
		}
	})

	t.Run("who asks no more ends the command with its group", func(t *testing.T) {
		t.Parallel()
		socket := server(t, anything)
		dir := t.TempDir()
		pipe := filepath.Join(dir, "ready")
		script := `sleep 1000 & echo $! >` + dir + `/child; exec sh -c 'trap "echo asked >&2; exit 9" TERM; echo >` + pipe + `; while :; do wait; sleep 1 & wait; done'`
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer cancel()
			if _, err := os.ReadFile(pipe); err != nil { // which waits for the command
				t.Error(err)
			}
		}()
		status, _, stderr, err := ask(t, ctx, socket, nil, "sh", "-c", script)
		if err != nil || status != 9 || stderr != "asked\n" {
			t.Errorf("status %d, %q, %v", status, stderr, err)
		}
		pid, err := os.ReadFile(filepath.Join(dir, "child"))
		if err != nil {
			t.Fatal(err)
		}
		// A process that is killed may take a moment, and be a zombie until its
		// parent looks; one that is not sleeps on until the test is out of time.
		for {
			stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
			if err != nil || bytes.Contains(stat, []byte(") Z ")) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	})

	t.Run("nonsense is refused", func(t *testing.T) {
		t.Parallel()
		for name, text := range map[string]string{"no JSON": "hello\n", "no program": `{"argv":[]}` + "\n", "an empty program": `{"argv":[""]}` + "\n", "no end": `{"argv":["true"]`} {
			ends, err := socketpair()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ends[0].Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			ends[0].CloseWrite()
			if err := Serve(t.Context(), ends[1], func([]string) (Permission, error) { t.Errorf("%s was looked at", name); return Hook, nil }); err == nil {
				t.Errorf("%s was served", name)
			}
		}
	})

	t.Run("a long output arrives whole and the two streams apart", func(t *testing.T) {
		t.Parallel()
		script := `head -c 5000000 /dev/zero | tr '\0' o; head -c 3000000 /dev/zero | tr '\0' e >&2; echo end`
		status, stdout, stderr, err := ask(t, t.Context(), server(t, anything), nil, "sh", "-c", script)
		if err != nil || status != 0 || stdout != strings.Repeat("o", 5_000_000)+"end\n" || stderr != strings.Repeat("e", 3_000_000) {
			t.Errorf("status %d, %d and %d bytes, %v", status, len(stdout), len(stderr), err)
		}
	})

	t.Run("output that nobody takes ends the command", func(t *testing.T) {
		t.Parallel()
		_, err := Run(t.Context(), server(t, anything), []string{"sh", "-c", "while :; do echo more; done"}, nil, full{}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "no room") {
			t.Errorf("%v", err)
		}
	})

	t.Run("output that is held open fails where it is captured", func(t *testing.T) {
		t.Parallel()
		for may, fails := range map[Permission]bool{Hook: false, Captured: true} {
			_, stdout, _, err := ask(t, t.Context(), server(t, func([]string) (Permission, error) { return may, nil }), nil, "sh", "-c", escapes, "sh", filepath.Join(t.TempDir(), "pid"))
			if fails != (err != nil) || fails && !strings.Contains(err.Error(), "keeps its output open") {
				t.Errorf("permission %d: %v", may, err)
			}
			pid, perr := strconv.Atoi(strings.TrimSpace(stdout))
			if perr != nil {
				t.Fatalf("%q, %v", stdout, perr)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})

	t.Run("a client that reads nothing is disconnected and its command ends", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "pid")
		conn, done := dialImpatient(t, time.Minute, 100*time.Millisecond)
		if _, err := conn.Write([]byte(`{"argv": ["sh", "-c", "echo $$ >` + file + `; exec yes"]}` + "\n")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it is kept alive")
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			t.Errorf("the command %s is still there (%v)", b, err)
		}
	})

	t.Run("a client that sends no request is disconnected", func(t *testing.T) {
		t.Parallel()
		_, done := dialImpatient(t, 100*time.Millisecond, time.Minute)
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it is kept alive")
		}
	})
}

// full takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no room") }

// escapes leaves a process in a session of its own, which outlives its
// parent, and writes its number.
const escapes = `setsid sh -c 'echo $$ >"$1"; exec sleep 30' sh "$1" & while [ ! -s "$1" ]; do :; done; cat "$1"`

// dialImpatient connects to a server that gives up clients soon, and returns what Serve
// returns in the end.
func dialImpatient(t *testing.T, asking, unread time.Duration) (*net.UnixConn, <-chan error) {
	t.Helper()
	ends, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends[0].Close() })
	done := make(chan error, 1)
	go func() {
		defer ends[1].Close()
		done <- serve(t.Context(), ends[1], anything, asking, unread)
	}()
	return ends[0], done
}
