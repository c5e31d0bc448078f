package prune_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	capture "knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/replay"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

func TestStale(t *testing.T) {
	t.Run("an older state directory that came back loses nothing", testAnOlderStateDirectoryThatCameBackLosesNothing)
	t.Run("what a dead run left is not relied on once it is pruned", testWhatADeadRunLeftIsNotReliedOnOnceItIsPruned)
	t.Run("a tombstone counts only as far as it may", testATombstoneCountsOnlyAsFarAsItMay)
	t.Run("what was deleted under a long run is not published", testWhatWasDeletedUnderALongRunIsNotPublished)
	t.Run("what a failed run left is not relied on once it is pruned", testWhatAFailedRunLeftIsNotReliedOnOnceItIsPruned)
}

func testAnOlderStateDirectoryThatCameBackLosesNothing(t *testing.T) {
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
		// So much is deleted that no statement in force has the first.
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
		for _, ref := range []string{"web@5", "web@6"} { // what was deleted is stored again, and stays
			w.capture("web")
			w.Restores(ref, w.dir, treetest.Snapshot(t, w.dir))
		}
		w.Clean()
	})
}

func testWhatADeadRunLeftIsNotReliedOnOnceItIsPruned(t *testing.T) {
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

func testATombstoneCountsOnlyAsFarAsItMay(t *testing.T) {
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
		w.check(w.Store.Put(w.Ctx, layout.KeyTombstone(enginetest.Host, "web", 1), object, storage.PutOptions{}))
		want("a taken host forgets all", 3)
		w.write("file", 1000)
		w.capture("web")
		want("and more are taken", 4)

		r := w.Bare()
		_, err = r.Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1, 2), Now: time.Now()})
		w.check(err)
		want("the owner takes it back", 4, 2, 1)

		// One that nobody signed counts for nothing, and is reported.
		w.check(w.Store.Put(w.Ctx, layout.KeyTombstone(enginetest.Host, "web", 3), append(object[:len(object)-1:len(object)-1], object[len(object)-1]^1), storage.PutOptions{}))
		w.Warnings() // of before
		r = w.Bare()
		if got := kept(r); len(got) != 3 || len(w.Warnings()) != 1 {
			t.Errorf("with a forged tombstone kept are %v", got)
		}
		w.forget("web", 2)
		want("another is written over it", 4, 1)

		// Tombstones of a key that ended count no more.
		state := treetest.TempDir(t)
		again := w.Open(state)
		again.Unlock(w.ID)
		_, err = again.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
		w.check(err)
		want("the host was enrolled again, and the owner forgot nothing", 4, 3, 2, 1)
	})
}

func testWhatWasDeletedUnderALongRunIsNotPublished(t *testing.T) {
	for name, keep := range map[string]bool{"and the next run looks": false, "and the next run believes what it saw": true} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.write("early", 100<<10)
				w.capture("web")
				// Its first packs come at once, its last one when they are long
				// taken for those of a run that died.
				slow := storagetest.NewFaulty(m)
				for nth := 3; nth < 8; nth++ {
					slow.Add(storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: nth, Fault: storagetest.Delayed(12 * day)})
				}
				w.write("late", 4<<20)
				over, replies := *w.World, &replay.Replies{}
				over.Store = slow
				run := func() error {
					if !keep {
						replies = &replay.Replies{}
					}
					daemon := over.Child(replies)
					host, err := daemon.Host(w.Ctx)
					w.check(err)
					_, err = capture.Capture(w.Ctx, daemon, host, capture.Options{Environment: "db", StateDir: daemon.State.Dir(), Sources: []walk.Source{{Path: w.dir}}})
					return err
				}
				done := make(chan error, 1)
				go func() { done <- run() }()
				synctest.Wait()
				// Others of the host go on beside it, from another state
				// directory of its own.
				deleted := uint64(0)
				other := filepath.Join(treetest.TempDir(t), "other")
				w.check(os.MkdirAll(other, 0o755))
				for n := range uint64(11) {
					time.Sleep(day)
					w.check(os.WriteFile(filepath.Join(other, "file"), fmt.Appendf(nil, "%d", n), 0o644))
					w.MustCapture("other", other)
					if n > 0 {
						w.forget("other", n)
					}
					d := w.prune(prune.Options{Announce: prune.MinAnnounce}).Domains[0]
					deleted += d.Deleted.Bytes
				}
				if deleted < 1<<20 {
					t.Fatalf("%d bytes were deleted under the run", deleted)
				}
				if err := <-done; !errors.Is(err, objects.ErrLost) && !errors.Is(err, objects.ErrOvertaken) {
					t.Errorf("the run ends with %v", err)
				}
				w.check(run())
				w.Restores("db@1", w.dir, treetest.Snapshot(t, w.dir))
				w.Clean()
			})
		})
	}
}

func testWhatAFailedRunLeftIsNotReliedOnOnceItIsPruned(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		for range 5 {
			w.write("early", 100<<10)
			w.capture("web")
		}
		failing := storagetest.NewFaulty(m, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 3, Fault: storagetest.FailBefore(nil)})
		w.write("late", 4<<20)
		over, replies := *w.World, &replay.Replies{}
		over.Store = failing
		run := func() error {
			daemon := over.Child(replies)
			host, err := daemon.Host(w.Ctx)
			w.check(err)
			_, err = capture.Capture(w.Ctx, daemon, host, capture.Options{Environment: "db", StateDir: daemon.State.Dir(), Sources: []walk.Source{{Path: w.dir}}})
			return err
		}
		if err := run(); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatal(err)
		}
		// The machine sleeps, and another one prunes.
		deleted := uint64(0)
		for n := range uint64(4) {
			_, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(n + 1), Now: time.Now()})
			w.check(err)
			time.Sleep(3 * day)
			report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{Announce: prune.MinAnnounce})
			w.check(err)
			deleted += report.Domains[0].Deleted.Bytes
		}
		if deleted < 1<<20 {
			t.Fatalf("%d bytes were deleted", deleted)
		}
		w.check(run())
		w.Restores("db@1", w.dir, treetest.Snapshot(t, w.dir))
		w.Clean()
	})
}
