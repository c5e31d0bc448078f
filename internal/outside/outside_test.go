package outside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// server answers each connection to a socket until the test ends.
func server(t *testing.T, allowed func([]string) (bool, error)) string {
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

func anything([]string) (bool, error) { return true, nil }

// ask runs a command at the server, and returns what it wrote.
func ask(t *testing.T, ctx context.Context, socket string, env []string, argv ...string) (status int, stdout, stderr string, err error) {
	t.Helper()
	files := [2]*os.File{}
	for i := range files {
		if files[i], err = os.CreateTemp(t.TempDir(), ""); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	status, err = Run(ctx, socket, argv, env, files[0], files[1])
	said := [2]string{}
	for i, f := range files {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		said[i] = string(b)
	}
	return status, said[0], said[1], err
}

func TestACommandRunsWithTheOutputAndVariablesOfWhoAsks(t *testing.T) {
	t.Parallel()
	status, stdout, stderr, err := ask(t, t.Context(), server(t, anything), []string{"KNOWNGOOD_HOOK=before", "LD_PRELOAD=/evil", "PATH=/evil"},
		"sh", "-c", `echo "$KNOWNGOOD_HOOK ${LD_PRELOAD-none}"; echo amiss >&2; exit 7`)
	if err != nil || status != 7 || stdout != "before none\n" || stderr != "amiss\n" {
		t.Errorf("status %d, %q, %q, %v", status, stdout, stderr, err)
	}
}

func TestALongRequestArrivesWhole(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10)
	_, stdout, _, err := ask(t, t.Context(), server(t, anything), []string{"KNOWNGOOD_A=" + long, "KNOWNGOOD_B=" + long}, "sh", "-c", "echo ${#KNOWNGOOD_A} ${#KNOWNGOOD_B}")
	if err != nil || stdout != "102400 102400\n" {
		t.Errorf("%q, %v", stdout, err)
	}
	_, _, _, err = ask(t, t.Context(), server(t, anything), nil, "true", strings.Repeat(long, 11))
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("what cannot arrive is answered with %v", err)
	}
}

func TestWhatIsNotAllowedIsNotRun(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	hook := []string{"touch", made + ".allowed"}
	socket := server(t, func(argv []string) (bool, error) { return slices.Equal(argv, hook), nil })
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
	if _, _, _, err := ask(t, t.Context(), server(t, func([]string) (bool, error) { return false, errors.New("the configuration is broken") }), nil, "true"); err == nil || !strings.Contains(err.Error(), "is broken") {
		t.Errorf("an error of the check is told as %v", err)
	}
}

func TestAProgramThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	if _, _, _, err := ask(t, t.Context(), server(t, anything), nil, "/nowhere/at/all"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
	if _, _, _, err := ask(t, t.Context(), "/nowhere/socket", nil, "true"); err == nil || !strings.Contains(err.Error(), "systemctl start knowngood-outside.socket") {
		t.Errorf("%v", err)
	}
}

func TestWhoAsksNoMoreEndsTheCommandWithItsGroup(t *testing.T) {
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
}

func TestNonsenseIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"no JSON": "hello\n", "no program": `{"argv":[]}` + "\n", "an empty program": `{"argv":[""]}` + "\n", "no end": `{"argv":["true"]`} {
		ends, err := socketpair()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ends[0].WriteMsgUnix([]byte(text), rights(t), nil); err != nil {
			t.Fatal(err)
		}
		ends[0].CloseWrite()
		if err := Serve(t.Context(), ends[1], func([]string) (bool, error) { t.Errorf("%s was looked at", name); return true, nil }); err == nil {
			t.Errorf("%s was served", name)
		}
	}
	ends, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(request{Argv: []string{"true"}})
	if _, err := ends[0].Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), ends[1], anything); err == nil || !strings.Contains(err.Error(), "0 descriptors came") {
		t.Errorf("without descriptors: %v", err)
	}
}
