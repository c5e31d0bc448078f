package restore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/chunk"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
)

// world is a repository with one host and the identity that opens it.
type world struct {
	t     treetest.T
	ctx   context.Context
	store storage.Store
	state string
	id    *identity.File
}

func newWorld(t treetest.T, store storage.Store) *world {
	w := &world{t: t, ctx: context.Background(), store: store, state: treetest.TempDir(t)}
	key, err := identity.Generate(identity.X25519)
	w.check(err)
	path := filepath.Join(w.state, "identity")
	w.check(identity.WriteFile(path, key, identity.WriteOptions{Created: time.Now()}))
	w.id, err = identity.Load(path, nil)
	w.check(err)
	_, _, err = repository.Init(w.ctx, store, repository.InitOptions{Recipients: []string{key.Recipient}, Host: "h", StateDir: w.state, URL: "test", Now: time.Now(),
		Chunker: chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}, PackSize: 1 << 20})
	w.check(err)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

// open opens the repository as the host does, or as a bare machine.
func (w *world) open(state string) *repository.Repository {
	w.t.Helper()
	r, err := repository.Open(w.ctx, w.store, repository.OpenOptions{StateDir: state, URL: "test", Now: time.Now()})
	w.check(err)
	return r
}

// capture takes a snapshot of env without any identity.
func (w *world) capture(env string, paths ...string) (*snapshot.Result, error) {
	r := w.open(w.state)
	host, err := r.Host(w.ctx)
	w.check(err)
	o := snapshot.Options{Environment: env, StateDir: r.LocalDir(), Describe: paths, Version: "test"}
	for _, p := range paths {
		o.Sources = append(o.Sources, walk.Source{Path: p})
	}
	return snapshot.Capture(w.ctx, r, host, o)
}

func (w *world) mustCapture(env string, paths ...string) *snapshot.Result {
	w.t.Helper()
	res, err := w.capture(env, paths...)
	w.check(err)
	for _, p := range res.Problems {
		w.t.Errorf("problem: %q: %s", p.Path, p.Reason)
	}
	return res
}

// bare opens the repository with the identity and nothing of the host.
func (w *world) bare() *repository.Repository {
	w.t.Helper()
	r := w.open("")
	r.Unlock(w.id)
	return r
}

func (w *world) tree(ref string) *snapshot.Tree {
	w.t.Helper()
	r := w.bare()
	parsed, _, err := repository.ParseRef(ref)
	w.check(err)
	s, err := r.Resolve(w.ctx, parsed, "h")
	w.check(err)
	tree, err := snapshot.OpenTree(w.ctx, r, s)
	w.check(err)
	return tree
}

func (w *world) restore(ref string, o restore.Options) *restore.Result {
	w.t.Helper()
	o.Tree = w.tree(ref)
	defer o.Tree.Reader.Close()
	res, err := restore.Run(w.ctx, o)
	w.check(err)
	return res
}

func noProblems(t treetest.T, res *restore.Result) {
	t.Helper()
	for _, p := range res.Problems {
		t.Errorf("problem: %q: %v", p.Path, p.Err)
	}
}

func under(path string) string { return path[1:] }

func TestRandomTreesRoundTripThroughSnapshots(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, storagetest.NewMemory())
		src := treetest.TempDir(rt)
		c := treetest.Rapid(rt)
		treetest.Generate(rt, src, c, treetest.Shape{Nodes: 40, MaxFile: 600 << 10})
		for i := 1; i <= 3; i++ {
			w.mustCapture("e", src)
			out := treetest.TempDir(rt)
			noProblems(rt, w.restore(fmt.Sprintf("e@%d", i), restore.Options{Under: under(src), Target: out}))
			treetest.Equal(rt, src, out, treetest.Options{Holes: true, HoleSlack: 64 << 10})
			treetest.Mutate(rt, src, c, 10, treetest.Shape{MaxFile: 200 << 10})
		}
	})
}

func TestRestoreInPlaceMakesAnyTreeTheSnapshot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, storagetest.NewMemory())
		src := treetest.TempDir(rt)
		c := treetest.Rapid(rt)
		treetest.Generate(rt, src, c, treetest.Shape{Nodes: 40, MaxFile: 600 << 10})
		w.mustCapture("e", src)
		out := treetest.TempDir(rt)
		noProblems(rt, w.restore("e", restore.Options{Under: under(src), Target: out}))
		treetest.Mutate(rt, out, c, 25, treetest.Shape{MaxFile: 200 << 10})
		o := restore.Options{Under: under(src), Target: out, InPlace: true, Delete: true}
		noProblems(rt, w.restore("e", o))
		treetest.Equal(rt, src, out, treetest.Options{})
		again := w.restore("e", o)
		noProblems(rt, again)
		if again.Created+again.Changed+again.Deleted > 0 {
			rt.Errorf("restored again: %+v", again)
		}
	})
}

func TestAnUnchangedTreeWritesOnlyARoot(t *testing.T) {
	w := newWorld(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	treetest.Generate(t, src, treetest.Seed(1), treetest.Shape{Nodes: 200})
	time.Sleep(60 * time.Millisecond) // files as young as a snapshot are read again
	first := w.mustCapture("e", src)
	before := len(w.store.(*storagetest.Memory).Keys())
	second := w.mustCapture("e", src)
	if n := len(w.store.(*storagetest.Memory).Keys()) - before; n != 1 {
		t.Errorf("%d new objects", n)
	}
	if second.Read != 0 || second.NewBytes != 0 || second.Totals != first.Totals {
		t.Errorf("second snapshot: %+v", second)
	}
	report, err := restore.Check(w.ctx, w.bare(), restore.CheckOptions{ReadData: 1})
	if err != nil || len(report.Damage) > 0 || len(report.Notes) > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
}
