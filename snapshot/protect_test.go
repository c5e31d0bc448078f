package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

const day = 24 * time.Hour

// firstLock is when the first lock ends of all that a restore of the snapshot
// needs, as the store reports it.
func firstLock(t *testing.T, w *enginetest.World, ref string) time.Time {
	t.Helper()
	r, s, err := w.Snapshot(ref)
	w.Check(err)
	rd := r.NewReader(s.Host, s.Domain)
	defer rd.Close()
	objects, err := rd.Objects(w.Ctx, s.Body)
	w.Check(err)
	keys := []string{layout.KeyDescriptor, layout.KeyRoot(s.Host, s.Environment, s.Number)}
	for _, o := range objects {
		if o.Kind == wire.KindManifest {
			keys = append(keys, layout.KeyManifest(s.Host, s.Domain.ID, o.Hash))
		} else {
			keys = append(keys, layout.KeyPack(s.Host, s.Domain.ID, o.Hash))
		}
	}
	for _, prefix := range []string{"keys/", "epochs/", "certs/"} {
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: prefix}) {
			w.Check(err)
			keys = append(keys, o.Key)
		}
	}
	versions, _ := storage.Capability[storage.Versioner](w.Store)
	retainer, ok := storage.Capability[storage.Retainer](w.Store)
	if !ok {
		t.Fatal("the store has no locks")
	}
	var first time.Time
	for _, key := range keys {
		var oldest storage.Version
		for v, err := range versions.Versions(w.Ctx, key) {
			w.Check(err)
			if !v.Marker {
				oldest = v
			}
		}
		lock, err := retainer.Retention(w.Ctx, key, oldest.ID)
		w.Check(err)
		if lock.Mode != storage.Compliance {
			t.Errorf("%s is not locked", key)
		}
		if first.IsZero() || lock.Until.Before(first) {
			first = lock.Until
		}
	}
	return first
}

// locked is a repository with locks of 30 days in a bubble of time, with a
// tree of several packs.
func locked(t *testing.T, f func(w *enginetest.World, store *storagetest.Faulty, src string)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src := filepath.Join(treetest.TempDir(t), "src")
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			write(t, filepath.Join(src, fmt.Sprintf("file-%d", i)), random(uint64(i), 400<<10))
		}
		time.Sleep(365 * 100 * day) // files are older than the bubble
		store := storagetest.NewFaulty(storagetest.NewMemory())
		f(enginetest.NewLocked(t, store, trust.Lock{Mode: storage.Compliance, Keep: 30 * day}), store, src)
	})
}

func retained(store *storagetest.Faulty) (n int) {
	for _, o := range store.Log() {
		if o.Op == storagetest.Retain {
			n++
		}
	}
	return n
}

func TestProtect(t *testing.T) {
	t.Run("a snapshot is locked as long as the repository says whatever it reuses", aSnapshotIsLockedAsLongAsTheRepositorySaysWhateverItReuses)
	t.Run("a host that forgot its locks looks at all of them", aHostThatForgotItsLocksLooksAtAllOfThem)
	t.Run("a lock that cannot be extended is reported and the snapshot taken", aLockThatCannotBeExtendedIsSaidAndTheSnapshotTaken)
	t.Run("a copy of a repository is not taken for locked as the first was", aCopyOfARepositoryIsNotTakenForLockedAsTheFirstWas)
	t.Run("who may not extend locks is not refused for each object", whoMayNotExtendLocksIsNotRefusedForEachObject)
	t.Run("a hidden or overwritten pack is locked in its own version", aHiddenOrOverwrittenPackIsLockedInItsOwnVersion)
	t.Run("servers extend the locks of what is reused", serversExtendTheLocksOfWhatIsReused)
}

func aSnapshotIsLockedAsLongAsTheRepositorySaysWhateverItReuses(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		extended := 0
		for i := range 80 {
			if i%9 == 5 {
				write(t, filepath.Join(src, "file-3"), random(uint64(100+i), 400<<10))
			}
			store.Clear()
			res := w.MustCapture("web", src)
			extended += retained(store)
			b := res.Snapshot.Body
			if b.ProtectedUntil.Before(b.Started.Add(30 * day)) {
				t.Fatalf("capture %d, of %v, says that it is protected until %v", i, b.Started, b.ProtectedUntil)
			}
			if first := firstLock(t, w, "web@latest"); first.Before(b.ProtectedUntil) {
				t.Fatalf("capture %d: the first lock ends %v, the root says %v", i, first, b.ProtectedUntil)
			}
			time.Sleep(day)
		}
		// About 10 objects, each again after seven days and a half.
		if extended == 0 || extended > 12*13 {
			t.Errorf("%d locks were extended", extended)
		}
	})
}

func aHostThatForgotItsLocksLooksAtAllOfThem(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		w.MustCapture("web", src)
		time.Sleep(20 * day)
		os.RemoveAll(w.Open(w.State).State.Dir().Path("env"))
		os.RemoveAll(w.Open(w.State).State.Dir().Path("stores"))
		b := w.MustCapture("web", src).Snapshot.Body
		if first := firstLock(t, w, "web@2"); first.Before(b.ProtectedUntil) || b.ProtectedUntil.Before(b.Started.Add(30*day)) {
			t.Errorf("of %v: protected until %v, locked until %v", b.Started, b.ProtectedUntil, first)
		}
	})
}

func aLockThatCannotBeExtendedIsSaidAndTheSnapshotTaken(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		w.MustCapture("web", src)
		first := firstLock(t, w, "web@1")
		time.Sleep(20 * day)
		store.Add(storagetest.Rule{Op: storagetest.Retain, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.FailBefore(storage.ErrDenied)})
		r := w.Open(w.State)
		host, err := r.Host(w.Ctx)
		w.Check(err)
		res, err := snapshot.Capture(w.Ctx, r, host, snapshot.Options{Environment: "web", StateDir: r.State.Dir(), Sources: []walk.Source{{Path: src}}})
		w.Check(err)
		if b := res.Snapshot.Body; !b.ProtectedUntil.Equal(first.Truncate(time.Second)) {
			t.Errorf("protected until %v; the lock that was not extended ends %v", b.ProtectedUntil, first)
		}
		said := w.Warnings()
		if len(said) != 1 || !strings.Contains(said[0].Error(), "locks that the snapshots of h need could not be extended to 720h") || !strings.Contains(said[0].Error(), "hosts/h/packs/") {
			t.Errorf("said: %q", said)
		}
		// The next one does what was left.
		b := w.MustCapture("web", src).Snapshot.Body
		if first := firstLock(t, w, "web@3"); first.Before(b.ProtectedUntil) || b.ProtectedUntil.Before(b.Started.Add(30*day)) {
			t.Errorf("of %v: protected until %v, locked until %v", b.Started, b.ProtectedUntil, first)
		}
	})
}

func aCopyOfARepositoryIsNotTakenForLockedAsTheFirstWas(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		w.MustCapture("web", src)
		copied := w.With(t, storagetest.NewMemory())
		copied.URL = "copied"
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{}) {
			w.Check(err)
			b, err := storage.Append(w.Ctx, nil, w.Store, o.Key, 0, -1)
			w.Check(err)
			w.Check(copied.Store.Put(w.Ctx, o.Key, b, storage.PutOptions{}))
		}
		b := copied.MustCapture("web", src).Snapshot.Body
		if first := firstLock(t, copied, "web@2"); first.Before(b.ProtectedUntil) || b.ProtectedUntil.Before(b.Started.Add(30*day)) {
			t.Errorf("of %v: protected until %v, locked until %v", b.Started, b.ProtectedUntil, first)
		}
	})
}

func whoMayNotExtendLocksIsNotRefusedForEachObject(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		for i := range 32 { // more packs than are locked at once
			write(t, filepath.Join(src, fmt.Sprintf("more-%d", i)), random(uint64(50+i), 1<<20))
		}
		w.MustCapture("web", src)
		time.Sleep(20 * day)
		store.Clear()
		store.Add(storagetest.Rule{Op: storagetest.Retain, Fault: storagetest.FailBefore(storage.ErrDenied)})
		w.MustCapture("web", src)
		if n := retained(store); n == 0 || n > 20 {
			t.Errorf("it was refused %d times", n)
		}
	})
}

func aHiddenOrOverwrittenPackIsLockedInItsOwnVersion(t *testing.T) {
	locked(t, func(w *enginetest.World, store *storagetest.Faulty, src string) {
		w.MustCapture("web", src)
		memory := store.Unwrap().(*storagetest.Memory)
		hidden, n := "", 0
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/packs/"}) {
			w.Check(err)
			switch n++; n {
			case 1:
				hidden = o.Key
			case 2:
				memory.Overwrite(o.Key, make([]byte, o.Size))
			}
		}
		w.Check(w.Store.Delete(w.Ctx, hidden))
		time.Sleep(20 * day)
		b := w.MustCapture("web", src).Snapshot.Body
		if first := firstLock(t, w, "web@2"); first.Before(b.ProtectedUntil) || b.ProtectedUntil.Before(b.Started.Add(30*day)) {
			t.Errorf("of %v: protected until %v, locked until %v", b.Started, b.ProtectedUntil, first)
		}
	})
}

// Locks of a few seconds, because nobody can set the clock of a server: what was
// captured before is reused once a quarter of that is over.
func serversExtendTheLocksOfWhatIsReused(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *storagetest.Server{"versitygw": storagetest.VersityGW, "minio": storagetest.MinIO} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			server.Setenv(t)
			server.Bucket(t, "locks", storagetest.LockBucket)
			store, err := stores.Open(t.Context(), server.URL("locks", "repo"), stores.Options{})
			if err != nil {
				t.Fatal(err)
			}
			src := treetest.TempDir(t)
			write(t, filepath.Join(src, "file"), random(1, 3<<20))
			const keep = 4 * time.Second
			w := enginetest.NewLocked(t, store, trust.Lock{Mode: storage.Compliance, Keep: keep})
			was := w.MustCapture("web", src).Snapshot.Body.Started
			for time.Since(was) < keep/4+2*time.Second {
				time.Sleep(100 * time.Millisecond)
			}
			b := w.MustCapture("web", src).Snapshot.Body
			if b.ProtectedUntil.Before(b.Started.Add(keep)) {
				t.Errorf("of %v: protected until %v", b.Started, b.ProtectedUntil)
			}
			if first := firstLock(t, w, "web@2"); first.Before(b.ProtectedUntil.Truncate(time.Second)) {
				t.Errorf("the first lock ends %v, the root says %v", first, b.ProtectedUntil)
			}
		})
	}
}
