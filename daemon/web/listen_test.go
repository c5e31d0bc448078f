package web

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knowngood/daemon/report"
)

// socket is a path that fits into a socket's address.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "api.sock")
}

// daemon serves f at addr until stop is called, which returns how serving ended.
func daemon(t *testing.T, addr string, f *fake) (at string, stop func() error) {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, Handler(f, f)) }()
	stop = func() error { cancel(); return <-ended }
	if strings.HasPrefix(addr, "unix:") {
		return addr, stop
	}
	return l.Addr().String(), stop
}

func dial(t *testing.T, addr string) *Client {
	t.Helper()
	c, err := Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.every = time.Millisecond
	t.Cleanup(c.Close)
	return c
}

func TestListen(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a daemon answers on its socket and its port":                            aDaemonIsAskedOverItsSocketAndItsPort,
		"only the group of the socket may connect":                               onlyTheSocketsGroupMayAsk,
		"the socket of a dead daemon is replaced, and that of a live one is not": theSocketOfADeadDaemonIsTakenOverAndThatOfALiveOneIsNot,
		"an address that others can reach is refused":                            anAddressThatOthersReachIsRefused,
		"a run is requested and waited for":                                      aRunIsAskedForAndWaitedFor,
		"another server is not mistaken for a daemon":                            whatIsNoDaemonIsToldFromOne,
	} {
		t.Run(name, test)
	}
}

func aDaemonIsAskedOverItsSocketAndItsPort(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := socket(t)
	for _, listen := range []string{"unix://" + path, "127.0.0.1:0", "tcp://localhost:0"} {
		f := &fake{r: sample()}
		addr, stop := daemon(t, listen, f)
		c := dial(t, addr)
		r, err := c.Report(t.Context())
		if err != nil || r.Host != "web-7" || len(r.Environments) != 3 {
			t.Errorf("%s: %v %v", listen, r, err)
		}
		c.Close()
		if err := stop(); err != nil {
			t.Errorf("%s ended with %v", listen, err)
		}
		if _, err := c.Report(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "systemctl start knowngood") {
			t.Errorf("%s: a daemon that was stopped: %v", listen, err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stays behind: %v", err)
	}
}

func onlyTheSocketsGroupMayAsk(t *testing.T) {
	t.Parallel()
	path := socket(t)
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func theSocketOfADeadDaemonIsTakenOverAndThatOfALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := socket(t)
	os.MkdirAll(filepath.Dir(path), 0o755)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	live, err := Listen("unix://" + path)
	if err != nil {
		t.Fatalf("a dead daemon's: %v", err)
	}
	if _, err := Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "a daemon runs already") {
		t.Errorf("a live daemon's: %v", err)
	}
	live.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Errorf("a file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is lost")
	}
}

func anAddressThatOthersReachIsRefused(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:9321", ":9321", "192.168.1.1:9321", "example.com:1", "unix://relative", "http://localhost:1", ""} {
		if l, err := Listen(addr); err == nil {
			l.Close()
			t.Errorf("it listens at %q", addr)
		}
		if _, err := Dial(addr); err == nil {
			t.Errorf("it dials %q", addr)
		}
	}
}

func aRunIsAskedForAndWaitedFor(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	f.start = func(env string) error { // called with the lock held
		if env != "web" {
			return ErrUnknown
		}
		e := find(&f.r, "web")
		if len(f.started) > 1 {
			return ErrRunning
		}
		e.Running = &report.Progress{Started: f.r.Now, Phase: "capture", Files: 7}
		return nil
	}
	addr, stop := daemon(t, "unix://"+socket(t), f)
	defer stop()
	c := dial(t, addr)
	looks := 0
	run, err := c.Snapshot(t.Context(), "web", func(p report.Progress) {
		looks++
		if begun := looks == 1; begun != (p == report.Progress{}) || !begun && p.Files != 7 {
			t.Errorf("progress %v", p)
		}
		if looks == 3 {
			f.set(func(r *report.Report) {
				e := *find(r, "web")
				e.Running, e.Last = nil, &report.Run{Started: r.Now, Finished: r.Now.Add(time.Second), Result: report.Success, Snapshot: "web@500"}
				envs := append([]report.Environment{e}, r.Environments[2:]...)
				r.Environments = envs
			})
		}
	})
	if err != nil || run.Snapshot != "web@500" {
		t.Errorf("%v %v", run, err)
	}
	if _, err := c.Snapshot(t.Context(), "web", nil); !errors.Is(err, ErrRunning) {
		t.Errorf("running already: %v", err)
	}
	if _, err := c.Snapshot(t.Context(), "no such", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
}

func whatIsNoDaemonIsToldFromOne(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }))
	defer s.Close()
	if _, err := dial(t, s.Listener.Addr().String()).Report(t.Context()); err == nil || !strings.Contains(err.Error(), "no knowngood daemon") {
		t.Error(err)
	}
}
