package main

import (
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/storage/storagetest"
)

// interceptor stands between the program and a server. Requests that its
// function takes are answered by that; it may be changed at any time.
type interceptor struct {
	mu   sync.Mutex
	n    int // requests since set
	take func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) (taken bool)
}

func (i *interceptor) set(take func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n, i.take = 0, take
}

func (i *interceptor) requests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.n
}

func (i *interceptor) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.n++
		n, take := i.n, i.take
		i.mu.Unlock()
		if take == nil || !take(n, w, r, next) {
			next.ServeHTTP(w, r)
		}
	})
}

// interceptedMachine is a machine whose requests to a real server pass an
// interceptor, and the same machine without one.
func interceptedMachine(t *testing.T) (m, direct *machine, i *interceptor) {
	t.Helper()
	server := storagetest.VersityGW(t)
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	through, i := intercept(t, server)
	m = newMachine(t, through.URL("backups", "prod"), server.Env(t)...)
	direct = m.bare(t)
	direct.repo = server.URL("backups", "prod")
	return m, direct, i
}

// intercept puts an interceptor before a server.
func intercept(t *testing.T, server *storagetest.Server) (through *storagetest.Server, i *interceptor) {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	i = &interceptor{}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	proxy := httptest.NewServer(i.handler(&httputil.ReverseProxy{Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}))
	t.Cleanup(proxy.Close)
	t.Cleanup(transport.CloseIdleConnections)
	proxied := *server
	proxied.Endpoint = proxy.URL
	return &proxied, i
}

func welcome(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, "<html><body>Welcome to the guest network</body></html>")
}

// grow adds a file of random content to a directory.
func grow(t *testing.T, dir, name string, size int) {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(len(name)), byte(size)}).Read(b)
	copy(b, name)
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// growMany adds files whose chunks are enough for an index run, and whose content is
// enough for a manifest apart from it.
func growMany(t *testing.T, dir string) {
	t.Helper()
	for i := range 1030 {
		writeFile(t, filepath.Join(dir, fmt.Sprint("many-", i)), fmt.Sprint(i))
	}
	grow(t, dir, "large one", 1_100_000)
}

// contents are the files below a directory; none when it is not there.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}

// restores demands that a snapshot of dir comes back as want.
func restores(t *testing.T, m *machine, ref, dir string, want map[string]string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	m.must(t, "restore", ref+":"+dir, "--target", out)
	if !maps.Equal(contents(t, out), want) {
		t.Errorf("%s restores to something else", ref)
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	t.Run("puts that nothing proves", testPutsThatNothingProves)
}

func testPutsThatNothingProves(t *testing.T) {
	t.Parallel()
	t.Run("make a snapshot fail when something else answers them", func(t *testing.T) {
		t.Parallel()
		m, direct, between := interceptedMachine(t)
		src := t.TempDir()
		for _, folder := range []string{"/packs/", "/index/", "/manifests/", "/roots/"} {
			grow(t, src, strings.Trim(folder, "/"), 1_500_000)
			if folder == "/index/" {
				growMany(t, src)
			}
			between.set(func(_ int, w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, folder) {
					return false
				}
				welcome(w)
				return true
			})
			o := m.run(t, "snapshot", "--env", "web", src)
			if o.code != exit.Failed || !strings.Contains(o.stderr.String(), "the put was answered as done, but the store does not give the object back") || !strings.Contains(o.stderr.String(), "proxies on the way") {
				t.Errorf("puts of %s answered by something else: exit code %d: %s%s", folder, o.code, &o.stdout, &o.stderr)
			}
			if strings.Contains(o.stderr.String(), "complete") {
				t.Errorf("puts of %s answered by something else: %s", folder, &o.stderr)
			}
			between.set(nil)
			s := m.snapshot(t, "web", src)
			restores(t, direct, s.Ref, src, contents(t, src))
		}
		direct.must(t, "check", "--read-data")
	})
	t.Run("are read back, and status says so", func(t *testing.T) {
		t.Parallel()
		m, direct, between := interceptedMachine(t)
		src := t.TempDir()
		grow(t, src, "file", 300_000)
		bare := func(_ int, w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if r.Method != http.MethodPut {
				return false
			}
			reply := httptest.NewRecorder()
			next.ServeHTTP(reply, r)
			w.WriteHeader(reply.Code)
			_, _ = w.Write(reply.Body.Bytes())
			return true
		}
		const says = "This store does not prove puts"
		m.snapshot(t, "web", src)
		if out := m.must(t, "status"); strings.Contains(out, says) {
			t.Errorf("of a store that does: %s", out)
		}
		between.set(bare)
		grow(t, src, "more", 300_000)
		s := m.snapshot(t, "web", src)
		restores(t, direct, s.Ref, src, contents(t, src))
		if out := m.must(t, "status"); !strings.Contains(out, says) {
			t.Errorf("status does not say it: %s", out)
		}
		between.set(nil)
		m.snapshot(t, "web", src)
		if out := m.must(t, "status"); strings.Contains(out, says) {
			t.Errorf("of a store that does again: %s", out)
		}
	})
}
