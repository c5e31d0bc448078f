package prune_test

import (
	"context"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
)

// aged is a store whose listings show objects that were there at a moment to
// be older than they are: nobody can set the clock of a server.
type aged struct {
	storage.Store
	storage.Versioner
	until atomic.Pointer[time.Time] // of the store; nil: none is
	by    time.Duration
}

func newAged(s storage.Store) *aged {
	v, _ := storage.Capability[storage.Versioner](s)
	return &aged{Store: s, Versioner: v, by: 10 * day}
}

func (a *aged) Unwrap() storage.Store { return a.Store }

func (a *aged) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for x, err := range a.Store.List(ctx, o) {
			x.Modified = a.age(x.Modified)
			if !yield(x, err) {
				return
			}
		}
	}
}

func (a *aged) Versions(ctx context.Context, key string) iter.Seq2[storage.Version, error] {
	return func(yield func(storage.Version, error) bool) {
		for v, err := range a.Versioner.Versions(ctx, key) {
			v.Modified = a.age(v.Modified)
			if !yield(v, err) {
				return
			}
		}
	}
}

func (a *aged) age(at time.Time) time.Time {
	if until := a.until.Load(); until != nil && !at.After(*until) {
		return at.Add(-a.by)
	}
	return at
}

// pass makes all that is there now older, and waits until the server's clock,
// which counts seconds, has gone on.
func (a *aged) pass(w *world) {
	w.t.Helper()
	newest := func() (at time.Time) {
		for o, err := range a.Store.List(w.Ctx, storage.ListOptions{}) {
			w.check(err)
			if o.Modified.After(at) {
				at = o.Modified
			}
		}
		return at
	}
	until := newest()
	a.until.Store(&until)
	for {
		now, err := w.host().StoreTime(w.Ctx, enginetest.Host)
		w.check(err)
		if now.After(until) {
			return
		}
	}
}

func TestPruningServers(t *testing.T) {
	for name, c := range map[string]struct {
		start func(testing.TB) *storagetest.Server
		kind  storagetest.BucketKind
	}{
		"versitygw without versions": {storagetest.PlainVersityGW, storagetest.PlainBucket},
		"versitygw with versions":    {storagetest.VersityGW, storagetest.VersionedBucket},
		"minio without versions":     {storagetest.MinIO, storagetest.PlainBucket},
		"minio with versions":        {storagetest.MinIO, storagetest.VersionedBucket},
		"minio with locks":           {storagetest.MinIO, storagetest.LockBucket},
	} {
		t.Run(name, func(t *testing.T) {
			server := c.start(t)
			server.Setenv(t)
			server.Bucket(t, "prune", c.kind)
			s, err := stores.Open(t.Context(), server.URL("prune", "repo"), stores.Options{})
			if err != nil {
				t.Fatal(err)
			}
			store := newAged(s)
			dir := filepath.Join(treetest.TempDir(t), "tree")
			w := &world{World: enginetest.New(t, store), t: t, dir: dir, rand: rand.New(rand.NewPCG(1, 2))}
			w.check(os.Mkdir(dir, 0o755))
			w.write("stays", 100<<10)
			w.write("goes", 3<<20)
			w.capture("web")
			w.write("goes", 10)
			w.capture("web")
			packs, containers := w.stored()
			w.forget("web", 1)
			if d := w.free(); d.Young.Objects == 0 || d.Announced.Objects > 0 {
				t.Fatalf("what is young: %+v", d)
			}
			store.pass(w)
			if d := w.free(); d.Announced.Objects < 2 || d.Deleted.Objects > 0 {
				t.Fatalf("not announced: %+v", d)
			}
			store.pass(w)
			if d := w.free(); d.Deleted.Objects < 2 || d.Locked.Objects > 0 {
				t.Fatalf("not deleted: %+v", d)
			}
			if p, c := w.stored(); p >= packs || c >= containers {
				t.Errorf("%d packs and %d containers are left of %d and %d, with those that are hidden", p, c, packs, containers)
			}
			w.Restores("web@2", dir, treetest.Snapshot(t, dir))
			w.Clean()
			if d := w.prune(prune.Options{}).Domains[0]; d.Announced.Objects+d.Deleted.Objects > 0 {
				t.Errorf("there was more to do: %+v", d)
			}
		})
	}
}
