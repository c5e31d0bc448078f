package prune_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestAnOlderStateDirectoryThatCameBackLosesNothing(t *testing.T) {
	simulated(t, memory, func(w *world) {
		// So many that there are segments without the directories above, whose
		// times nobody here can set.
		const files = 8000
		first := time.Now().Add(-9 * day)
		stamp := func(at time.Time) {
			for i := range files {
				w.check(os.Chtimes(filepath.Join(w.dir, fmt.Sprint(i)), at, at))
			}
		}
		for i := range files {
			w.check(os.WriteFile(filepath.Join(w.dir, fmt.Sprint(i)), nil, 0o644))
		}
		stamp(first)
		w.capture("web")
		saved := treetest.TempDir(t)
		w.check(os.CopyFS(saved, os.DirFS(w.State)))
		// So much is deleted that no statement in force tells of the first.
		for n := range uint64(3) {
			stamp(first.Add(time.Duration(n+1) * time.Hour))
			w.capture("web")
			w.forget("web", n+1)
			time.Sleep(3 * day)
			w.free()
			time.Sleep(8 * day)
			if d := w.free(); d.Deleted.Objects == 0 {
				t.Fatalf("nothing was deleted: %+v", d)
			}
		}
		// The machine and all on it are set back to the first day.
		w.check(os.RemoveAll(w.State))
		w.check(os.CopyFS(w.State, os.DirFS(saved)))
		stamp(first)
		if _, err := w.Capture("web", nil, w.dir); !errors.Is(err, repository.ErrOvertaken) {
			t.Errorf("segments that were deleted are taken over: %v", err)
		}
		w.capture("web")
		w.Restores("web@5", w.dir, treetest.Snapshot(t, w.dir))
		w.Clean()
	})
}

func TestWhatADeadRunLeftIsNotReliedOnOnceItIsPruned(t *testing.T) {
	for name, prefix := range map[string]string{"and its packs are in the index": "hosts/h/roots/", "and nothing names its packs": "hosts/h/index/"} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.write("first", 100<<10)
				w.capture("web")
				w.write("second", 2<<20)
				dying := *w.World
				dying.Store = storagetest.NewFaulty(m, storagetest.Rule{Op: storagetest.Put, Prefix: prefix, Fault: storagetest.FailBefore(nil)})
				if _, err := dying.Capture("web", nil, w.dir); !errors.Is(err, storagetest.ErrInjected) {
					t.Fatal(err)
				}
				time.Sleep(3 * day)
				if d := w.free(); d.Announced.Bytes < 1<<20 {
					t.Fatalf("not announced: %+v", d)
				}
				time.Sleep(8 * day)
				if d := w.free(); d.Deleted.Bytes < 1<<20 {
					t.Fatalf("not deleted: %+v", d)
				}
				w.capture("web")
				w.Restores("web@2", w.dir, treetest.Snapshot(t, w.dir))
				w.Clean()
			})
		})
	}
}

func TestATombstoneIsHeededOnlyAsFarAsItMay(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for range 3 {
			w.write("file", 1000)
			w.capture("web")
		}
		kept := func(r *repository.Repository) (numbers []uint64) {
			for s, err := range r.Kept(w.Ctx, enginetest.Host, "web") {
				w.check(err)
				numbers = append(numbers, s.Number)
			}
			return numbers
		}
		want := func(what string, numbers ...uint64) {
			t.Helper()
			got := kept(w.Bare())
			if len(got) != len(numbers) {
				t.Fatalf("%s: kept are %v, want %v", what, got, numbers)
			}
			for i := range got {
				if got[i] != numbers[i] {
					t.Fatalf("%s: kept are %v, want %v", what, got, numbers)
				}
			}
		}
		host, err := w.host().Host(w.Ctx)
		w.check(err)
		x := &statement.Tombstone{Repository: w.host().ID(), Host: enginetest.Host, Environment: "web", Serial: 1, Forgotten: statement.NumbersOf(1, 2, 3, 4, 5), Made: time.Now(), Certificate: host.Certificate}
		object, err := x.Encode(host.SigningKey())
		w.check(err)
		w.check(w.Store.Put(w.Ctx, statement.KeyTombstone(enginetest.Host, "web", 1), object, storage.PutOptions{}))
		want("a taken host forgets all", 3)
		w.write("file", 1000)
		w.capture("web")
		want("and more are taken", 4)

		r := w.Bare()
		_, err = r.Forget(w.Ctx, enginetest.Host, "web", repository.Change{Undo: statement.NumbersOf(1, 2), Now: time.Now()})
		w.check(err)
		want("the owner takes it back", 4, 2, 1)

		// One that nobody signed counts for nothing, and is told.
		w.check(w.Store.Put(w.Ctx, statement.KeyTombstone(enginetest.Host, "web", 3), append(object[:len(object)-1:len(object)-1], object[len(object)-1]^1), storage.PutOptions{}))
		r = w.Bare()
		if got := kept(r); len(got) != 3 || len(r.Warnings()) != 1 {
			t.Errorf("with a forged tombstone kept are %v", got)
		}
		w.forget("web", 2)
		want("another is written over it", 4, 1)

		// Tombstones of a key that ended count no more.
		state := treetest.TempDir(t)
		again := w.Open(state)
		again.Unlock(w.ID)
		_, err = again.Join(w.Ctx, repository.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
		w.check(err)
		want("the host was enrolled again, and what the owner signed holds", 4, 2, 1)
	})
}
