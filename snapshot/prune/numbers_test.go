package prune_test

import (
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// rubbishAt puts something that is no root at a number.
func (w *world) rubbishAt(n uint64) (key string) {
	w.t.Helper()
	key = layout.KeyRoot(enginetest.Host, "web", n)
	w.put(key, []byte("rubbish"))
	return key
}

func TestNumbers(t *testing.T) {
	t.Run("a snapshot that takes the number of forgotten rubbish is not forgotten", testASnapshotThatTakesTheNumberOfForgottenRubbishIsNotForgotten)
	t.Run("a snapshot after a loss takes no forgotten number", testASnapshotAfterALossTakesNoForgottenNumber)
	t.Run("rubbish at the first number ends no capture", testRubbishAtTheFirstNumberEndsNoCapture)
	t.Run("a root far above whose key ended blocks nothing", testARootFarAboveWhoseKeyEndedBlocksNothing)
}

func testASnapshotThatTakesTheNumberOfForgottenRubbishIsNotForgotten(t *testing.T) {
	for name, store := range map[string]func() storage.Store{"with versions": memory, "without": func() storage.Store { return storagetest.NewPlainMemory() }} {
		t.Run(name, func(t *testing.T) {
			simulated(t, store, func(w *world) {
				w.write("stays", 1000)
				w.capture("web")
				gone := w.rubbishAt(2)
				w.rubbishAt(4)
				w.forget("web", 2, 4)
				w.check(w.host().Purge(w.Ctx, gone))
				w.write("stays", 1<<20)
				tree := treetest.Snapshot(t, w.dir)
				s := w.capture("web")
				if s.Number != 2 {
					t.Fatalf("the snapshot is %s", s.Ref())
				}
				w.write("stays", 1000)
				w.capture("web") // 3
				w.forget("web", 1)
				x, err := w.Bare().Tombstone(w.Ctx, enginetest.Host, "web")
				w.check(err)
				if x.Forgotten.Has(2) || !x.Forgotten.Has(1) || !x.Forgotten.Has(4) {
					t.Errorf("forgotten are %v", x.Forgotten)
				}
				deleted := uint64(0)
				for range 3 {
					time.Sleep(8 * day)
					deleted += w.free().Deleted.Objects
				}
				if deleted == 0 {
					t.Error("nothing of the first snapshot was deleted")
				}
				w.Restores(s.Ref(), w.dir, tree)

				w.forget("web", 2) // by its number, now that it is a snapshot
				if x, err = w.Bare().Tombstone(w.Ctx, enginetest.Host, "web"); err != nil || !x.Forgotten.Has(2) {
					t.Errorf("forgotten are %v, %v", x, err)
				}
			})
		})
	}
}

func testASnapshotAfterALossTakesNoForgottenNumber(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for range 4 {
			w.write("file", 1<<20)
			w.capture("web")
		}
		_, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(2, 3), Now: time.Now()})
		w.check(err)
		for n := range uint64(3) {
			w.check(w.host().Purge(w.Ctx, layout.KeyRoot(enginetest.Host, "web", n+2)))
		}
		// The host goes on with a new key, and remembers nothing.
		w.reenrol()
		w.write("file", 1<<20)
		s := w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		w.write("file", 1<<20)
		w.capture("web")
		for range 3 {
			time.Sleep(8 * day)
			w.present()
		}
		w.Restores(s.Ref(), w.dir, tree)
	})
}

func testRubbishAtTheFirstNumberEndsNoCapture(t *testing.T) {
	for name, body := range map[string][]byte{"small": []byte("x"), "too long to be read": make([]byte, 2<<20), "hidden": nil} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				key := layout.KeyRoot(enginetest.Host, "web", 1)
				w.put(key, body)
				if body == nil {
					w.check(w.Store.Delete(w.Ctx, key))
				}
				for n := range uint64(3) {
					w.write("file", 1000)
					if s := w.capture("web"); s.Number != n+2 {
						t.Errorf("the snapshot is %s", s.Ref())
					}
				}
				w.Restores("web@4", w.dir, treetest.Snapshot(t, w.dir))
			})
		})
	}
}

func testARootFarAboveWhoseKeyEndedBlocksNothing(t *testing.T) {
	for name, n := range map[string]uint64{"far": 1 << 40, "at the highest number": layout.MaxNumber} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				for range 3 {
					w.write("goes", 1<<20)
					w.capture("web")
				}
				old, err := w.host().Host(w.Ctx)
				w.check(err)
				s := w.opened("web@3")
				x := *s.Root
				y := &statement.Root{Repository: x.Repository, Host: x.Host, Environment: x.Environment, Number: n, Previous: s.ID, Certificate: old.Certificate,
					Domain: x.Domain, Epoch: x.Epoch, SealedDomain: x.SealedDomain, Salt: seal.NewSalt()}
				record, err := s.Body.AppendRecord(nil)
				w.check(err)
				y.SealedBody = seal.Once(old.Domain.RootKey(y.Salt), record, nil)
				object, err := y.Encode(old.SigningKey())
				w.check(err)
				w.put(layout.KeyRoot(enginetest.Host, "web", n), object)

				w.reenrol()
				w.write("goes", 1<<20)
				if s := w.capture("web"); s.Number != 4 {
					t.Errorf("the snapshot after it is %s", s.Ref())
				}
				w.forget("web", 1, 2)
				deleted := uint64(0)
				for range 3 {
					time.Sleep(8 * day)
					report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
					w.check(err)
					for _, b := range report.Blocked {
						t.Error(b)
					}
					for _, d := range report.Domains {
						deleted += d.Deleted.Objects
					}
				}
				if deleted == 0 {
					t.Error("nothing was deleted")
				}
			})
		})
	}
}
