package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"knowngood/daemon/report"
	"knowngood/storage/storagetest"
)

// manager is what a service manager hears of a daemon.
type manager struct {
	socket string

	mu    sync.Mutex
	lines []string // each assignment, in order
	seen  int      // of them by until
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "kg") // short enough for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{socket: filepath.Join(dir, "n")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.lines = append(m.lines, strings.Split(strings.TrimSpace(string(b[:n])), "\n")...)
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *manager) env() []string { return []string{"NOTIFY_SOCKET=" + m.socket} }

func (m *manager) heard() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

// until waits for lines that begin so, in this order, after those that it was
// waited for before.
func (m *manager) until(t *testing.T, prefixes ...string) {
	t.Helper()
	for _, prefix := range prefixes {
		waitFor(t, "the service manager hears "+prefix, func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			for i := m.seen; i < len(m.lines); i++ {
				if strings.HasPrefix(m.lines[i], prefix) {
					m.seen = i + 1
					return true
				}
			}
			return false
		})
	}
}

// status is the newest one.
func (m *manager) status() string {
	for _, line := range slices.Backward(m.heard()) {
		if text, ok := strings.CutPrefix(line, "STATUS="); ok {
			return text
		}
	}
	return ""
}

// downtime stands between the program and a server, and answers or does not.
type downtime struct {
	target  *url.URL
	address string
	server  *httptest.Server
}

func (d *downtime) up(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", d.address)
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	d.server = httptest.NewUnstartedServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(d.target)
		r.Out.Host = r.In.Host // which is signed
	}})
	d.server.Listener.Close()
	d.server.Listener = l
	d.server.Start()
	t.Cleanup(d.down)
}

func (d *downtime) down() {
	if d.server != nil {
		d.server.CloseClientConnections()
		d.server.Close()
		d.server = nil
	}
}

func TestDaemonNotify(t *testing.T) {
	t.Parallel()
	t.Run("the service manager is notified of the state", testTheServiceManagerIsNotifiedOfTheState)
}

func testTheServiceManagerIsNotifiedOfTheState(t *testing.T) {
	t.Parallel()
	gateway := storagetest.VersityGW(t)
	gateway.Bucket(t, "backups", storagetest.VersionedBucket)
	target, err := url.Parse(gateway.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server := &downtime{target: target, address: "127.0.0.1:0"}
	server.up(t)
	at := *gateway
	at.Endpoint = "http://" + server.address
	m := newMachine(t, at.URL("backups", "prod"), gateway.Env(t)...)
	server.down()

	src := t.TempDir()
	s := newService(t, m, "environments: {web: {schedule: \"@every 1s\", retries: 0, sources: [{path: %s}]}}\n", src)
	manager := newManager(t)
	s.up(t, append(manager.env(), "WATCHDOG_USEC=1000000")...)
	manager.until(t, "STATUS=The daemon cannot do its work: ", "READY=1", "WATCHDOG=1", "WATCHDOG=1")
	if status := manager.status(); !strings.Contains(status, "refused") {
		t.Errorf("the status does not tell why: %s", status)
	}
	if code := s.get(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d while the server is away", code)
	}
	if code := s.get(t, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d while the server is away", code)
	}

	server.up(t)
	s.until(t, "a run succeeds when the server is there", func(r *report.Report) bool { return environmentOf(r, "web").Failures == 0 && r.Degraded == "" })
	manager.until(t, "STATUS=1 environment has a snapshot")
	if code := s.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz answers %d when the server is there", code)
	}
	s.hup(t)
	manager.until(t, "RELOADING=1", "MONOTONIC_USEC=", "READY=1", "WATCHDOG=1")
	s.stop(t)
	manager.until(t, "STOPPING=1")
	if all := manager.heard(); all[len(all)-1] != "STOPPING=1" && !slices.Contains(all[len(all)-3:], "STOPPING=1") {
		t.Errorf("the last words: %q", all[len(all)-3:])
	}

	// One that hangs is not waited for longer than for some seconds.
	if slow() {
		gateway.Signal(t, syscall.SIGSTOP)
		s.up(t, manager.env()...)
		manager.until(t, "STATUS=The daemon cannot do its work: the repository is not open yet", "READY=1")
		gateway.Signal(t, syscall.SIGCONT)
		s.until(t, "a run succeeds when the server goes on", func(r *report.Report) bool { return environmentOf(r, "web").Running == nil && r.Degraded == "" })
		s.take(t, "web")
		gateway.Signal(t, syscall.SIGSTOP)
		s.until(t, "a run hangs", func(r *report.Report) bool { return environmentOf(r, "web").Running != nil })
		if took := s.stop(t); took > 20*time.Second {
			t.Errorf("it took %v to end while the server hung", took)
		}
		gateway.Signal(t, syscall.SIGCONT)
	}

	// A bucket that is not there is no reason to give up either.
	wrong := *m
	wrong.repo = at.URL("elsewhere", "prod")
	s.machine = &wrong
	s.configure(t, "environments: {web: {sources: [{path: %s}]}}\n", src)
	s.up(t, manager.env()...)
	manager.until(t, "STATUS=The daemon cannot do its work: ", "READY=1")
	t.Logf("without the bucket: %s", manager.status())
	s.stop(t)
}

// get asks the daemon for a page and returns the status.
func (s *service) get(t *testing.T, path string) int {
	t.Helper()
	code, _ := s.fetch(t, http.MethodGet, path)
	return code
}
