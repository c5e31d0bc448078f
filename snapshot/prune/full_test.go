package prune_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

func TestFullStore(t *testing.T) {
	t.Run("a store that is too full for a repack is pruned all the same", testAStoreThatIsTooFullForARepackIsPrunedAllTheSame)
	t.Run("without room for the statement nothing is deleted", testWithoutRoomForTheStatementNothingIsDeleted)
	t.Run("a host for which the store has no room hinders no other", testAHostForWhichTheStoreHasNoRoomHindersNoOther)
}

func testAStoreThatIsTooFullForARepackIsPrunedAllTheSame(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.sparse()
		if d := w.free(); d.Announced.Objects == 0 {
			t.Fatalf("nothing was announced: %+v", d)
		}
		time.Sleep(8 * day)
		w.Store = storagetest.NewFaulty(w.Store, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Fault: storagetest.DiskFull()})
		report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{MaxRepack: 1 << 30})
		w.check(err)
		if d := report.Domains[0]; d.Deleted.Objects == 0 || d.Repacked.Objects > 0 {
			t.Errorf("deleted and repacked: %+v", d)
		}
		if notes := strings.Join(report.Notes, "\n"); !strings.Contains(notes, "nothing was repacked") || !strings.Contains(notes, storage.ErrFull.Error()) {
			t.Errorf("notes: %s", notes)
		}
		w.Clean()
	})
}

func testWithoutRoomForTheStatementNothingIsDeleted(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("a", 200_000)
		w.capture("web")
		w.write("a", 100_000)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		w.free()
		time.Sleep(8 * day)
		faulty := storagetest.NewFaulty(w.Store, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/pending/", Fault: storagetest.DiskFull()})
		w.Store = faulty
		packs, containers := w.stored()
		if _, err := prune.Run(w.Ctx, w.host(), prune.Options{}); !errors.Is(err, storage.ErrFull) || !strings.Contains(err.Error(), "KiB by other means") {
			t.Errorf("error %v", err)
		}
		if p, c := w.stored(); p != packs || c != containers {
			t.Errorf("%d of %d packs and %d of %d containers are left", p, packs, c, containers)
		}

		faulty.Clear()
		if d := w.free(); d.Deleted.Objects == 0 {
			t.Errorf("deleted: %+v", d)
		}
	})
}

func testAHostForWhichTheStoreHasNoRoomHindersNoOther(t *testing.T) {
	simulated(t, memory, func(w *world) {
		state := treetest.TempDir(t)
		r := w.Open(state)
		r.Unlock(w.ID)
		_, err := r.Join(w.Ctx, trust.JoinOptions{Host: "first", Now: time.Now()})
		w.check(err)
		first := *w.World
		first.State = state
		first.MustCapture("web", w.dir)

		w.write("a", 200_000)
		w.capture("web")
		w.write("a", 100_000)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		_, err = prune.Run(w.Ctx, w.Bare(), prune.Options{})
		w.check(err)
		time.Sleep(8 * day)

		w.Store = storagetest.NewFaulty(w.Store, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/first/", Fault: storagetest.DiskFull()})
		report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
		if !errors.Is(err, storage.ErrFull) || !strings.Contains(err.Error(), "prune host first: ") {
			t.Errorf("error %v", err)
		}
		if len(report.Domains) != 1 || report.Domains[0].Host != enginetest.Host || report.Domains[0].Deleted.Objects == 0 {
			t.Errorf("pruned: %+v", report.Domains)
		}
	})
}
