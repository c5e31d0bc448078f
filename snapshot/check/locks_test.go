package check_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

func newLocked(t *testing.T, store storage.Store, mode storage.RetentionMode) *world {
	t.Helper()
	w := &world{World: enginetest.NewLocked(t, store, trust.Lock{Mode: mode, Keep: time.Hour}), t: t, src: filepath.Join(treetest.TempDir(t), "src")}
	w.memory, _ = store.(*storagetest.Memory)
	for i := range 8 {
		w.write(i, uint64(i))
	}
	return w
}

// unlock puts an object again without its lock.
func (w *world) unlock(key string) {
	w.t.Helper()
	b, err := storage.Append(w.Ctx, nil, w.Store, key, 0, -1)
	w.Check(err)
	w.memory.Forget(key)
	w.Check(w.Store.Put(w.Ctx, key, b, storage.PutOptions{}))
}

func TestLocks(t *testing.T) {
	t.Run("locks", testLocks)
	t.Run("a lock that somebody shortened on a server", aLockThatSomebodyShortenedOnAServer)
}

func testLocks(t *testing.T) {
	t.Parallel()
	t.Run("as long as roots say are no damage, and are counted", func(t *testing.T) {
		t.Parallel()
		w := newLocked(t, storagetest.NewMemory(), storage.Compliance)
		w.MustCapture("e", w.src)
		r := w.run(check.Options{})
		least := len(w.keys("hosts/h/packs/")) + len(w.keys("hosts/h/manifests/")) + len(w.keys("hosts/h/roots/")) + len(w.keys("keys/")) + len(w.keys("certs/")) + 2
		if len(r.Damage)+len(r.Notes) > 0 || r.Locks < uint64(least) {
			t.Errorf("damage %q, notes %q, %d of %d locks", damage(r), r.Notes, r.Locks, least)
		}
	})

	t.Run("are not asked for where the repository has none", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		if r := w.run(check.Options{Locks: true}); r.Locks > 0 || len(r.Notes) > 0 {
			t.Errorf("%d locks, notes %q", r.Locks, r.Notes)
		}
	})

	for _, prefix := range []string{"hosts/h/packs/", "hosts/h/manifests/", "hosts/h/roots/", "keys/", "certs/h/", "epochs/", "descriptor"} {
		t.Run("that an object below "+prefix+" lacks are named with the snapshot that says it has one", func(t *testing.T) {
			t.Parallel()
			w := newLocked(t, storagetest.NewMemory(), storage.Compliance)
			w.MustCapture("e", w.src)
			key := w.keys(prefix)[0]
			w.unlock(key)
			if prefix == "keys/" || prefix == "certs/h/" || prefix == "epochs/" {
				w.MustCapture("e", w.src) // what is put after a root is not what it means
			}
			r := w.run(check.Options{})
			if len(r.Damage) != 1 || !r.Damage[0].Lock || !strings.HasPrefix(damage(r)[0], "locks of h/e@") || !contains(damage(r), key+" is not locked, though e@") {
				t.Errorf("damage %q", damage(r))
			}
		})
	}

	t.Run("of older snapshots are asked for when all are", func(t *testing.T) {
		t.Parallel()
		w := newLocked(t, storagetest.NewMemory(), storage.Compliance)
		w.MustCapture("e", w.src)
		key := w.keys("hosts/h/roots/")[0]
		w.write(0, 100)
		w.MustCapture("e", w.src)
		w.unlock(key)
		if r := w.run(check.Options{}); len(r.Damage) > 0 {
			t.Errorf("of the newest: %q", damage(r))
		}
		if r := w.run(check.Options{Locks: true}); len(r.Damage) != 1 || r.Damage[0].Object != "locks of h/e@1" {
			t.Errorf("of all: %q", damage(r))
		}
	})
}

func aLockThatSomebodyShortenedOnAServer(t *testing.T) {
	server := storagetest.MinIO(t)
	server.Setenv(t)
	server.Bucket(t, "locks", storagetest.LockBucket)
	store, err := stores.Open(t.Context(), server.URL("locks", "repo"), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newLocked(t, store, storage.Governance)
	w.MustCapture("e", w.src)
	if r := w.run(check.Options{}); len(r.Damage)+len(r.Notes) > 0 || r.Locks == 0 {
		t.Fatalf("damage %q, notes %q, %d locks", damage(r), r.Notes, r.Locks)
	}

	key := w.keys("hosts/h/packs/")[0]
	mode, until := minio.Governance, time.Now().Add(10*time.Minute).UTC().Truncate(time.Second)
	w.Check(server.Client(t).PutObjectRetention(t.Context(), "locks", "repo/"+key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, GovernanceBypass: true}))
	r := w.run(check.Options{})
	if want := key + " is locked until " + until.Format(time.RFC3339) + " only, though e@1 says that all it needs is locked until "; len(r.Damage) != 1 || !r.Damage[0].Lock || !contains(damage(r), want) {
		t.Errorf("damage %q, not %q", damage(r), want)
	}
}
