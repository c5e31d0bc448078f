package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"knowngood/daemon/report"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

// requestLog stands between the program and a server, and keeps what was asked.
type requestLog struct {
	mu   sync.Mutex
	list []string
}

func (l *requestLog) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.list = append(l.list, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Range"))
		l.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// atMost demands that f makes the program send no more than n requests, and
// returns how many.
func (l *requestLog) atMost(t *testing.T, n int, what string, f func()) int {
	t.Helper()
	l.mu.Lock()
	l.list = nil
	l.mu.Unlock()
	f()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%s: %d requests", what, len(l.list))
	if len(l.list) > n {
		t.Errorf("%s takes %d requests, want at most %d:\n%s", what, len(l.list), n, strings.Join(l.list, "\n"))
	}
	return len(l.list)
}

// loggedMachine is a machine with a repository on a real server.
func loggedMachine(t *testing.T) (*machine, *requestLog) {
	t.Helper()
	server := storagetest.VersityGW(t)
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	log := &requestLog{}
	proxy := httptest.NewServer(log.serve(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}))
	t.Cleanup(proxy.Close)
	s := *server
	s.Endpoint = proxy.URL
	return newMachine(t, s.URL("backups", "prod"), server.Env(t)...), log
}

func TestRequests(t *testing.T) {
	t.Parallel()
	t.Run("a daemon with a warm index requests little", testADaemonWithAWarmIndexRequestsLittle)
}

func TestRequestsSequentially(t *testing.T) {
	t.Run("requests to a server are few", testRequestsToAServerAreFew)
	t.Run("what is proven takes few requests", testWhatIsProvenTakesFewRequests)
}

// Not parallel: other tests change the directory that all are in.
func testRequestsToAServerAreFew(t *testing.T) {
	m, log := loggedMachine(t)

	dir := treetest.TempDir(t)
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Generate(t, src, treetest.Seed(5), treetest.Shape{Nodes: 200})
	file := filepath.Join(src, "the-file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.snapshot(t, "web", src)
	// Three of a restore list what was attested of the snapshot, and marks.
	log.atMost(t, 11, "a file of the first snapshot restored on a bare machine", func() {
		m.bare(t).must(t, "restore", "web:"+file, "--target", filepath.Join(dir, "out-1"))
	})
	for range 2 {
		m.snapshot(t, "web", src)
	}
	log.atMost(t, 8, "an unchanged snapshot", func() {
		if r := m.snapshot(t, "web", src); r.ReadFiles != 0 {
			t.Errorf("it read %d files", r.ReadFiles)
		}
	})
	bare := m.bare(t)
	log.atMost(t, 12, "a file restored on a bare machine", func() {
		bare.must(t, "restore", "web@4:"+file, "--target", filepath.Join(dir, "out"))
	})
	log.atMost(t, 10, "the newest version of a file restored", func() {
		bare.must(t, "restore", "web:"+file, "--target", filepath.Join(dir, "out-2"))
	})
	m.must(t, "list")
	log.atMost(t, 10, "a list of what was listed before", func() { m.must(t, "list") }) // attestations, and marks of two kinds
	log.atMost(t, 12, "statistics of four snapshots", func() { m.must(t, "stats") })    // a root and a manifest each
	log.atMost(t, 6, "the snapshots that a shell is offered", func() { m.must(t, "__complete", "show", "web@") })
	log.atMost(t, 14, "one that lists what the store holds", func() { m.snapshot(t, "web", "--verify", src) })
	if b, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(b) != "content" {
		t.Errorf("restored %q, %v", b, err)
	}
}

func testADaemonWithAWarmIndexRequestsLittle(t *testing.T) {
	t.Parallel()
	m, log := loggedMachine(t)
	src := t.TempDir()
	grow(t, src, "file", 100_000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\n", src)
	s.up(t)
	for range 2 {
		s.take(t, "web")
	}
	log.atMost(t, 4, "an unchanged snapshot by the daemon", func() { s.take(t, "web") })
	grow(t, src, "more", 100_000)
	log.atMost(t, 5, "a snapshot of one new file by the daemon", func() { s.take(t, "web") }) // a pack besides
	log.atMost(t, 4, "an unchanged one after it", func() { s.take(t, "web") })

	for _, name := range []string{"file", "more"} {
		if err := os.Remove(filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
	}
	suspect := func() {
		if run, err := s.client.Snapshot(t.Context(), "web", nil); err != nil || run.Result != report.Suspect {
			t.Errorf("the run: %+v, %v", run, err)
		}
	}
	suspect()
	log.atMost(t, 5, "an unchanged suspect one", suspect) // acceptances are listed
}

func testWhatIsProvenTakesFewRequests(t *testing.T) {
	m, log := loggedMachine(t)
	src := t.TempDir()
	drill := m.bare(t)
	for n := range 4 {
		grow(t, src, fmt.Sprint("file", n), 1000)
		m.snapshot(t, "web", src)
		for range 5 {
			drill.attests(t, fmt.Sprintf("web@%d", n+1), nil)
		}
	}
	host := *m
	host.identity = ""
	log.atMost(t, 33, "the first list with 20 attestations", func() { host.must(t, "list") }) // each, and the key
	log.atMost(t, 12, "a list of them again", func() { host.must(t, "list") })                // keys and damage, too, are listed
	log.atMost(t, 15, "a status of them again", func() { host.must(t, "status") })
	drill.attests(t, "web@4", nil)
	log.atMost(t, 13, "a list after one more", func() { host.must(t, "list") })
}
