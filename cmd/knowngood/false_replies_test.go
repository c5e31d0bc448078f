package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

// lie is what stands in the place of a reply of the server. The request is
// passed on to it or not; before is its last good reply to such a method, or nil.
type lie func(w http.ResponseWriter, r *http.Request, next http.Handler, before *httptest.ResponseRecorder)

func lies() map[string]lie {
	return map[string]lie{
		"a page of a proxy": func(w http.ResponseWriter, _ *http.Request, _ http.Handler, _ *httptest.ResponseRecorder) {
			welcome(w)
		},
		"an empty reply": func(http.ResponseWriter, *http.Request, http.Handler, *httptest.ResponseRecorder) {},
		"a reply from before": func(w http.ResponseWriter, _ *http.Request, _ http.Handler, before *httptest.ResponseRecorder) {
			if before != nil {
				send(w, before, before.Body.Bytes())
			}
		},
		"other bytes": func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *httptest.ResponseRecorder) {
			reply := ask(next, r)
			body := bytes.Clone(reply.Body.Bytes())
			slices.Reverse(body)
			reply.Code = http.StatusOK
			send(w, reply, body)
		},
		"a shorter reply": func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *httptest.ResponseRecorder) {
			reply := ask(next, r)
			half := reply.Body.Bytes()[:reply.Body.Len()/2]
			reply.Header().Set("Content-Length", fmt.Sprint(len(half)))
			send(w, reply, half)
		},
		"a reply that breaks off": func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *httptest.ResponseRecorder) {
			reply := ask(next, r)
			if n := reply.Body.Len(); n > 0 {
				reply.Header().Set("Content-Length", fmt.Sprint(n))
				send(w, reply, reply.Body.Bytes()[:n/2])
				_ = http.NewResponseController(w).Flush() // the client may have gone
			}
			panic(http.ErrAbortHandler)
		},
	}
}

func ask(next http.Handler, r *http.Request) *httptest.ResponseRecorder {
	reply := httptest.NewRecorder()
	next.ServeHTTP(reply, r)
	return reply
}

func send(w http.ResponseWriter, reply *httptest.ResponseRecorder, body []byte) {
	maps.Copy(w.Header(), reply.Header())
	w.WriteHeader(reply.Code)
	_, _ = w.Write(body) // the client may have gone
}

// lied is a machine whose repository lies behind a proxy that can lie.
type lied struct {
	*machine
	t       *testing.T
	server  *storagetest.Server
	between *interceptor
	prefix  string
	src     string
	tree    treetest.Tree // that src is
}

func newLied(t *testing.T, server *storagetest.Server, prefix string) *lied {
	t.Helper()
	through, between := intercept(t, server)
	dir := t.TempDir()
	l := &lied{t: t, server: server, between: between, prefix: prefix, src: filepath.Join(treetest.TempDir(t), "src"),
		machine: &machine{repo: through.URL("backups", prefix), identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "state"), env: server.Env(t)}}
	makeDir(t, l.src)
	treetest.Generate(t, l.src, treetest.Seed(3), treetest.Shape{Nodes: 20, MaxFile: 300 << 10, LargeDir: 20, Without: []treetest.Part{treetest.DeepPaths}})
	l.tree = treetest.Snapshot(t, l.src)
	return l
}

// lying runs the program while the n-th reply is a lie. It returns how many
// requests there were.
func (l *lied) lying(lie lie, n int, f func() *outcome) (o *outcome, requests int) {
	var mu sync.Mutex
	last := map[string]*httptest.ResponseRecorder{}
	l.between.set(func(k int, w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		mu.Lock()
		before := last[r.Method]
		mu.Unlock()
		if lie != nil && k == n {
			l.t.Logf("lied to %s %s", r.Method, r.URL.RequestURI())
			lie(w, r, next, before)
			return true
		}
		reply := ask(next, r)
		if reply.Code == http.StatusOK {
			mu.Lock()
			last[r.Method] = reply
			mu.Unlock()
		}
		send(w, reply, reply.Body.Bytes())
		return true
	})
	o = f()
	requests = l.between.requests()
	l.between.set(nil)
	return o, requests
}

func (l *lied) init() *outcome {
	return l.run(l.t, "init", "--identity-type", "x25519", "--host", "h")
}

func (l *lied) capture() *outcome {
	return l.run(l.t, "snapshot", "--host", "h", "--env", "e", l.src)
}

// snapshots makes a repository with so many snapshots, the tree of the last of
// them, and changes the tree.
func (l *lied) snapshots(n int) (last treetest.Tree) {
	l.t.Helper()
	l.init().exits(l.t, exit.Done)
	for i := range n {
		l.capture().exits(l.t, exit.Done)
		last = l.tree
		treetest.Mutate(l.t, l.src, treetest.Seed(uint64(9+i)), 10, treetest.Shape{MaxFile: 300 << 10})
		l.tree = treetest.Snapshot(l.t, l.src)
	}
	return last
}

// whole demands that a snapshot has a tree, and that the repository has no
// damage, as somebody sees it who was lied to never.
func (l *lied) whole(ref string, want treetest.Tree) {
	l.t.Helper()
	l.bare(l.t).restoresTo(l.t, "h/"+ref, l.src, want)
	l.bare(l.t).must(l.t, "check", "--read-data")
}

// captured demands that what a capture said holds, and that the next one
// succeeds in any case.
func (l *lied) captured(o *outcome) {
	l.t.Helper()
	if o.code == exit.Done {
		l.whole(strings.TrimSpace(o.stdout.String()), l.tree)
	}
	again := l.capture().exits(l.t, exit.Done)
	l.whole(strings.TrimSpace(again), l.tree)
}

// during runs the program while the proxy lies.
type during func(l *lied, f func() *outcome) *outcome

// claim is a run of the program that a proxy lies to, and what its success
// means.
type claim struct {
	name string
	run  func(l *lied, during during)
}

func claims() []claim {
	restored := func(l *lied, during during) {
		want := l.snapshots(1)
		out := filepath.Join(treetest.TempDir(l.t), "out")
		args := []string{"restore", "h/e@1:" + l.src, "--target", out}
		bare := l.bare(l.t)
		if o := during(l, func() *outcome { return bare.run(l.t, args...) }); o.code != exit.Done {
			bare.must(l.t, args...)
		}
		want.Equal(l.t, out, compareOptions())
	}
	return []claim{
		{"init", func(l *lied, during during) {
			if o := during(l, l.init); o.code != exit.Done {
				// It may have got as far as that, and promised nothing.
				if o = l.init(); o.code == exit.Exists {
					return
				}
				o.exits(l.t, exit.Done)
			}
			l.captured(l.capture())
		}},
		{"a first snapshot", func(l *lied, during during) {
			l.snapshots(0)
			l.captured(during(l, l.capture))
		}},
		{"a second snapshot", func(l *lied, during during) {
			first := l.snapshots(1)
			l.captured(during(l, l.capture))
			l.whole("e@1", first)
		}},
		{"list", func(l *lied, during during) {
			l.snapshots(2)
			o := during(l, func() *outcome { return l.run(l.t, "list", "--host", "h", "--json") })
			if o.code != exit.Done {
				return
			}
			list := decode[struct {
				Snapshots []struct{ Ref string }
			}](l.t, o.stdout.String())
			if len(list.Snapshots) != 2 || list.Snapshots[0].Ref != "e@1" || list.Snapshots[1].Ref != "e@2" {
				l.t.Errorf("listed are %v", list.Snapshots)
			}
		}},
		{"restore", restored},
		{"cat", func(l *lied, during during) {
			l.snapshots(0)
			writeFile(l.t, filepath.Join(l.src, "one"), "content")
			l.capture().exits(l.t, exit.Done)
			o := during(l, func() *outcome { return l.bare(l.t).run(l.t, "cat", "h/e:"+filepath.Join(l.src, "one")) })
			if text := o.stdout.String(); o.code == exit.Done && text != "content" || !strings.HasPrefix("content", text) {
				l.t.Errorf("exit code %d, and the file holds %q", o.code, text)
			}
		}},
		{"check of what is damaged", func(l *lied, during during) {
			l.snapshots(1)
			l.removePacks()
			bare := l.bare(l.t)
			if o := during(l, func() *outcome { return bare.run(l.t, "check", "--read-data") }); o.code == exit.Done {
				l.t.Errorf("a pack is gone, and check says:\n%s", &o.stdout)
			}
		}},
		{"forget", func(l *lied, during during) {
			l.snapshots(2)
			o := during(l, func() *outcome { return l.run(l.t, "forget", "--host", "h", "e@1") })
			if refs := l.refs(l.t, "--host", "h"); o.code == exit.Done && len(refs) != 1 {
				l.t.Errorf("e@1 is forgotten, and listed are %v", refs)
			} else if !slices.Contains(refs, "e@2") {
				l.t.Errorf("listed are %v", refs)
			}
		}},
	}
}

// removePacks removes all of them, behind the back of the proxy.
func (l *lied) removePacks() {
	l.t.Helper()
	client := l.server.Client(l.t)
	removed := 0
	for o := range client.ListObjects(l.t.Context(), "backups", minio.ListObjectsOptions{Prefix: l.prefix + "/hosts/", Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			l.t.Fatal(o.Err)
		}
		if !strings.Contains(o.Key, "/packs/") {
			continue
		}
		if err := client.RemoveObject(l.t.Context(), "backups", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
			l.t.Fatal(err)
		}
		removed++
	}
	if removed == 0 {
		l.t.Fatal("there are no packs")
	}
}

func TestFalseReplies(t *testing.T) {
	t.Parallel()
	t.Run("no run believes a false reply", testNoRunBelievesAFalseReply)
}

// Whatever the reply to any one request is replaced by: no run succeeds with
// less than it claims, and no later one suffers from it.
func testNoRunBelievesAFalseReply(t *testing.T) {
	t.Parallel()
	server := storagetest.VersityGW(t)
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	seed := chosenSeed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	var runs atomic.Int64
	try := func(t *testing.T, c claim, lie lie, n int) (requests int) {
		c.run(newLied(t, server, fmt.Sprint("prefix-", runs.Add(1))), func(l *lied, f func() *outcome) *outcome {
			o, asked := l.lying(lie, n, f)
			if lie != nil {
				t.Logf("exit code %d\n%s%s", o.code, &o.stdout, &o.stderr)
			}
			requests = asked
			return o
		})
		return requests
	}
	for _, c := range claims() {
		t.Run(c.name, func(t *testing.T) {
			requests := try(t, c, nil, 0)
			for name, lie := range lies() {
				for n := 1; n <= requests; n++ {
					// A few of them where there is no time for all.
					if !slow() && random.IntN(2*requests) > 0 {
						continue
					}
					t.Run(fmt.Sprintf("%s as reply %d of %d", name, n, requests), func(t *testing.T) {
						t.Parallel()
						try(t, c, lie, n)
					})
				}
			}
		})
	}
}
