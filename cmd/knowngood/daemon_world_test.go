package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/daemon/report"
	"knowngood/daemon/web"
)

// service is a daemon of a machine: the real program, with a configuration, a
// socket and a log of its own.
type service struct {
	*machine
	dir    string // short: a socket's address has room for little
	config string
	client *web.Client
	http   *http.Client // for what the client does not ask
	prefix []string     // programs that start it
	cmd    *exec.Cmd
	ended  chan error
}

// newService configures a daemon; the text is that of environments and what
// else the configuration has.
func newService(t *testing.T, m *machine, text string, args ...any) *service {
	t.Helper()
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{machine: m, dir: dir, config: filepath.Join(dir, "config.yaml")}
	t.Cleanup(func() {
		s.kill()
		s.client.Close()
		s.http.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the end of the daemon's log:\n%s", s.logEnd(t))
		}
		os.RemoveAll(dir)
	})
	if s.client, err = web.Dial(s.listen()); err != nil {
		t.Fatal(err)
	}
	s.http = &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
	}}}
	s.configure(t, text, args...)
	return s
}

func (s *service) socket() string  { return filepath.Join(s.dir, "s") }
func (s *service) listen() string  { return "unix://" + s.socket() }
func (s *service) logFile() string { return filepath.Join(s.dir, "log") }

// configure writes a configuration, which a daemon that runs has not read yet.
func (s *service) configure(t *testing.T, text string, args ...any) {
	t.Helper()
	s.write(t, fmt.Sprintf("repository: {url: %q}\nstate_dir: %s\nlisten: %s\n", s.repo, s.state, s.listen())+fmt.Sprintf(text, args...))
}

func (s *service) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// program is the program with only the configuration.
func (s *service) program(args ...string) *exec.Cmd {
	argv := append(append([]string{}, s.prefix...), append([]string{"knowngood"}, args...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "KNOWNGOOD_CONFIG="+s.config, "KNOWNGOOD_REPO=", "KNOWNGOOD_IDENTITY=", "KNOWNGOOD_STATE_DIR=", "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=")
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// ask runs a command of the program with the configuration.
func (s *service) ask(t *testing.T, args ...string) *outcome {
	t.Helper()
	cmd, o := s.program(args...), &outcome{args: args}
	cmd.Stdout, cmd.Stderr = &o.stdout, &o.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }).Stop()
	_ = cmd.Wait() // the exit code has it
	o.code = cmd.ProcessState.ExitCode()
	return o
}

// launch starts the daemon without waiting for anything.
func (s *service) launch(t *testing.T, env ...string) {
	t.Helper()
	log, err := os.OpenFile(s.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := s.program("daemon")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.cmd, s.ended = cmd, ended
}

// up starts the daemon and waits until it answers.
func (s *service) up(t *testing.T, env ...string) {
	t.Helper()
	s.launch(t, env...)
	s.until(t, "the daemon answers", func(*report.Report) bool { return true })
}

// kill ends the daemon as a crash does.
func (s *service) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
		s.cmd = nil
	}
}

func (s *service) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// stop ends the daemon as the service manager does, and demands that it ends
// well. It returns how long that took.
func (s *service) stop(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	s.signal(t, syscall.SIGTERM)
	select {
	case err := <-s.ended:
		s.cmd = nil
		if err != nil {
			t.Fatalf("the daemon was asked to end: %v", err)
		}
	case <-time.After(patience):
		s.signal(t, syscall.SIGQUIT)
		t.Fatal("the daemon does not end")
	}
	return time.Since(began)
}

// until waits until the report is as it must become.
func (s *service) until(t *testing.T, what string, is func(*report.Report) bool) *report.Report {
	t.Helper()
	var r *report.Report
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case ended := <-s.ended:
			s.ended <- ended
			t.Fatalf("the daemon ended before %s: %v", what, ended)
		default:
		}
		if r, err = s.client.Report(t.Context()); err == nil && is(r) {
			return r
		}
	}
	t.Fatalf("it never came to this: %s; %v, %+v", what, err, r)
	return nil
}

// captured waits until nothing runs and an environment has at least n runs
// that ended, and returns them.
func (s *service) captured(t *testing.T, name string, n int) []report.Run {
	t.Helper()
	r := s.until(t, fmt.Sprintf("%d runs of %s", n, name), func(r *report.Report) bool {
		e := environmentOf(r, name)
		return e != nil && len(e.Runs) >= n
	})
	return environmentOf(r, name).Runs
}

// take has the daemon capture an environment.
func (s *service) take(t *testing.T, name string) *report.Run {
	t.Helper()
	run, err := s.client.Snapshot(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Result != report.Success {
		t.Fatalf("the run of %s: %+v", name, run)
	}
	return run
}

func environmentOf(r *report.Report, name string) *report.Environment {
	for i := range r.Environments {
		if r.Environments[i].Name == name {
			return &r.Environments[i]
		}
	}
	return nil
}

func (s *service) log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(s.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func (s *service) logEnd(t *testing.T) string {
	text := s.log(t)
	return text[max(0, len(text)-8<<10):]
}

// proc is a field of a file of the daemon's process, such as RssAnon of status.
func (s *service) proc(t *testing.T, field string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return statusField(t, b, field)
}

func statusField(t *testing.T, status []byte, field string) int {
	t.Helper()
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), field+":"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the process tells no %s", field)
	return 0
}

// cpu is the processor time that the daemon and the processes of its runs have used.
func (s *service) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, and those of its children, in hundredths of a second
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// waitFor waits for what must come.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// fetch asks the daemon by HTTP.
func (s *service) fetch(t *testing.T, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
