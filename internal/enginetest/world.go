// Package enginetest makes repositories for tests of capture and restore: one
// host, the identity that opens what it captures, and a store of the test's
// choice.
package enginetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/replay"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// Host is the name of the host that a World has.
const Host = "h"

// small are chunk sizes that give small test files several chunks.
var small = chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}

// packSize gives a test tree several packs, in bytes.
const packSize = 1 << 20

// World is a repository with one host and the identity that opens it.
type World struct {
	T     treetest.T
	Ctx   context.Context
	Store storage.Store
	URL   string // that Store is known by
	State string // the host's state directory
	ID    *identity.File
	Key   string   // the identity as its file holds it
	Pin   [32]byte // of the repository
	// Apart is snapshot.Options.Apart of captures, true in a new world: trees are small.
	Apart bool

	findings *authentic.Findings // of all that was opened
}

// New makes a repository in an empty store.
func New(t treetest.T, store storage.Store) *World {
	t.Helper()
	return NewLocked(t, store, trust.Lock{})
}

// NewLocked is New with locks.
func NewLocked(t treetest.T, store storage.Store, lock trust.Lock) *World {
	t.Helper()
	w := &World{T: t, Ctx: context.Background(), Store: store, URL: "test", State: treetest.TempDir(t), Apart: true, findings: &authentic.Findings{}}
	key, err := identity.Generate(identity.X25519)
	w.Check(err)
	file := filepath.Join(treetest.TempDir(t), "identity")
	w.Check(identity.WriteFile(file, key, identity.WriteOptions{Created: time.Now()}))
	b, err := os.ReadFile(file)
	w.Check(err)
	w.Key = string(b)
	w.ID, err = identity.Load(file, nil)
	w.Check(err)
	_, made, err := repository.Init(w.Ctx, store, trust.InitOptions{Recipients: []string{key.Recipient}, Host: Host, StateDir: w.State, URL: "test",
		Now: time.Now(), Chunker: small, PackSize: packSize, Lock: lock})
	w.Check(err)
	w.Pin = made.Pin
	return w
}

// With is the same host and identity over another store and a copy of the
// state directory, for t.
func (w *World) With(t treetest.T, store storage.Store) *World {
	t.Helper()
	c := *w
	c.T, c.Store, c.State, c.findings = t, store, treetest.TempDir(t), &authentic.Findings{}
	c.Check(os.CopyFS(c.State, os.DirFS(w.State)))
	return &c
}

// Over is the same host, with its state directory, over another store. What it finds is
// not among the warnings of w.
func (w *World) Over(store storage.Store) *World {
	c := *w
	c.Store, c.findings = store, &authentic.Findings{}
	return &c
}

// Check fails the test when err is not nil.
func (w *World) Check(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatalf("%v", err)
	}
}

// Open opens the repository with a state directory, which may be "".
func (w *World) Open(state string) *repository.Repository {
	w.T.Helper()
	r, err := repository.Open(w.Ctx, w.Store, repository.Options{Options: trust.Options{StateDir: state, URL: w.URL, Now: time.Now(), Report: w.findings.Add}})
	w.Check(err)
	return r
}

// Child opens the repository as the process of a daemon's run does, which is handed
// what the store answered to others. Each run has one of its own.
func (w *World) Child(replies *replay.Replies) *repository.Repository {
	w.T.Helper()
	r, err := repository.Open(w.Ctx, replay.New(w.Store, replies), repository.Options{Options: trust.Options{StateDir: w.State, URL: w.URL, Now: time.Now(), Fresh: time.Hour}})
	w.Check(err)
	return r
}

// Bare opens the repository as a machine does that has the identity and
// nothing of the host.
func (w *World) Bare() *repository.Repository {
	w.T.Helper()
	r := w.Open("")
	r.Unlock(w.ID)
	return r
}

// Warnings takes what was found wrong and worked around since the last call.
func (w *World) Warnings() (errs []error) {
	for _, f := range w.findings.Take() {
		errs = append(errs, f.Err)
	}
	return errs
}

// Capture takes a snapshot of env, without any identity. Files are believed to
// be unchanged soon after they were written; see
// snapshot.Options.WritebackWindow. edit may be nil.
func (w *World) Capture(env string, edit func(*snapshot.Options), paths ...string) (*snapshot.Result, error) {
	r, err := repository.Open(w.Ctx, w.Store, repository.Options{Options: trust.Options{StateDir: w.State, URL: w.URL, Now: time.Now(), Report: w.findings.Add}})
	if err != nil {
		return nil, err
	}
	host, err := r.Host(w.Ctx)
	if err != nil {
		return nil, err
	}
	o := snapshot.Options{Environment: env, StateDir: r.State.Dir(), Version: "test", WritebackWindow: 1, Apart: w.Apart}
	for _, p := range paths {
		o.Sources = append(o.Sources, walk.Source{Path: p})
	}
	if edit != nil {
		edit(&o)
	}
	return snapshot.Capture(w.Ctx, r, host, o)
}

// MustCapture is Capture of paths without any problem.
func (w *World) MustCapture(env string, paths ...string) *snapshot.Result {
	w.T.Helper()
	res, err := w.Capture(env, nil, paths...)
	w.Check(err)
	for _, p := range res.Problems {
		w.T.Errorf("problem: %q: %s", p.Path, p.Reason)
	}
	return res
}

// Snapshot resolves a reference on a bare machine.
func (w *World) Snapshot(ref string) (*repository.Repository, *history.Snapshot, error) {
	r, err := repository.Open(w.Ctx, w.Store, repository.Options{Options: trust.Options{Report: w.findings.Add}})
	if err != nil {
		return nil, nil, err
	}
	r.Unlock(w.ID)
	parsed, _, err := history.ParseRef(ref)
	w.Check(err)
	s, err := r.Resolve(w.Ctx, parsed, Host)
	return r, s, err
}

// Tree opens the manifest of a snapshot on a bare machine.
func (w *World) Tree(ref string) *snapshot.Tree {
	w.T.Helper()
	r, s, err := w.Snapshot(ref)
	w.Check(err)
	tree, err := snapshot.OpenTree(w.Ctx, r, s)
	w.Check(err)
	return tree
}

// TryRestore restores a snapshot on a bare machine; o.Tree is set here.
func (w *World) TryRestore(ref string, o restore.Options) (*restore.Result, error) {
	r, s, err := w.Snapshot(ref)
	if err != nil {
		return nil, err
	}
	if o.Tree, err = snapshot.OpenTree(w.Ctx, r, s); err != nil {
		return nil, err
	}
	defer o.Tree.Reader.Close()
	return restore.Run(w.Ctx, o)
}

// Restore restores a snapshot without any problem.
func (w *World) Restore(ref string, o restore.Options) *restore.Result {
	w.T.Helper()
	res, err := w.TryRestore(ref, o)
	w.Check(err)
	for _, p := range res.Problems {
		w.T.Errorf("restore %s: %q: %v", ref, p.Path, p.Err)
	}
	return res
}

// Restores asserts that a snapshot of the tree that was at path restores to
// what it was.
func (w *World) Restores(ref, path string, want treetest.Tree) {
	w.T.Helper()
	out := treetest.TempDir(w.T)
	w.Restore(ref, restore.Options{Under: Under(path), Target: out})
	want.Equal(w.T, out, treetest.Options{})
}

// Clean asserts that a check of everything, every byte read, finds no damage.
func (w *World) Clean() {
	w.T.Helper()
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
	w.Check(err)
	for _, d := range report.Damage {
		w.T.Errorf("check: %s: %v, affects %q", d.Object, d.Err, d.Affected)
	}
	for _, n := range report.Notes {
		w.T.Errorf("check: %s", n)
	}
}

// Under is the manifest path of an absolute path.
func Under(path string) string { return strings.TrimPrefix(path, "/") }

// Slow reports whether the long tests are wanted: KNOWNGOOD_SLOW=1.
func Slow() bool { return os.Getenv("KNOWNGOOD_SLOW") != "" }

// InMemory puts temporary directories into memory, so that tests that sync file
// systems do not wait for the disk: where the system has a place for that which
// is large enough and keeps extended attributes, as the servers of tests need
// them. It does not when TMPDIR or the slow tests are asked for.
func InMemory() error {
	const (
		place = "/dev/shm"
		room  = 4 << 30 // bytes
	)
	if Slow() || os.Getenv("TMPDIR") != "" {
		return nil
	}
	dir, err := os.MkdirTemp(place, "knowngood-")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	var free unix.Statfs_t
	unfit := errors.Join(unix.Setxattr(dir, "user.test", []byte("x"), 0), unix.Statfs(dir, &free))
	if err := os.Remove(dir); err != nil {
		return err
	}
	if unfit != nil || free.Bavail*uint64(free.Bsize) < room {
		return nil
	}
	return os.Setenv("TMPDIR", place)
}
