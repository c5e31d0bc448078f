package prune_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func plainMemory() storage.Store { return storagetest.NewPlainMemory() }

// become has all that is stored in another store from now on, as if the versions of
// the bucket had been switched on or off.
func (w *world) become(to storage.Store) {
	w.t.Helper()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{}) {
		w.check(err)
		w.check(to.Put(w.Ctx, o.Key, w.copyOf(o.Key), storage.PutOptions{}))
	}
	w.Store = to
}

// objects are the keys of all packs and containers.
func (w *world) objects() (keys []string) {
	w.t.Helper()
	for _, p := range []string{layout.PrefixPacks(enginetest.Host, w.domain()), layout.PrefixManifests(enginetest.Host, w.domain())} {
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: p}) {
			w.check(err)
			keys = append(keys, o.Key)
		}
	}
	return keys
}

func TestStolenKey(t *testing.T) {
	t.Run("starts no clock of the prune on the host itself", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			trees, _ := w.days(4)
			w.announceAll()
			time.Sleep(8 * day)
			w.forget("web", 1, 2, 3)
			if d := w.free(); d.Deleted.Objects > 0 || d.Waiting.Objects == 0 {
				t.Fatalf("%d objects were deleted just after they were forgotten, %d wait", d.Deleted.Objects, d.Waiting.Objects)
			}
			w.undo("web", 1, 2, 3)
			for i, tree := range trees {
				w.Restores(fmt.Sprintf("web@%d", i+1), w.dir, tree)
			}
		})
	})
	t.Run("delays the prune on the host itself, and does not stop it", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(4)
			w.forget("web", 1, 2, 3)
			w.announceAll()
			w.free()
			time.Sleep(7*day - time.Hour)
			if d := w.free(); d.Deleted.Objects > 0 {
				t.Errorf("%d objects were deleted too early", d.Deleted.Objects)
			}
			time.Sleep(2 * time.Hour)
			if d := w.free(); d.Deleted.Objects == 0 {
				t.Errorf("nothing is deleted a week after it was seen: %+v", d)
			}
			w.Clean()
		})
	})
	t.Run("what this machine announced is deleted in time", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(4)
			w.forget("web", 1, 2, 3)
			if d := w.free(); d.Announced.Objects == 0 {
				t.Fatal("nothing is announced")
			}
			time.Sleep(8 * day)
			if d := w.free(); d.Deleted.Objects == 0 {
				t.Errorf("what this machine announced is not deleted in time: %+v", d)
			}
		})
	})
}

func TestPutAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("a root without versions is not forgotten by the policy of a pruner for its time", func(t *testing.T) {
		for name, memory := range map[string]bool{"seen before": true, "never seen before": false} {
			t.Run(name, func(t *testing.T) {
				simulated(t, plainMemory, func(w *world) {
					trees, _ := w.days(5)
					state := treetest.TempDir(t)
					run := func() *prune.Report {
						r := w.Open(state)
						if r.Unlock(w.ID); !memory {
							r = w.Bare()
						}
						report, err := prune.Run(w.Ctx, r, prune.Options{Host: enginetest.Host, Policy: func(string, string) *retention.Policy { return &retention.Policy{Daily: 7} }})
						w.check(err)
						return report
					}
					run()
					// All in their order, within an hour: a day has one place.
					for n := range uint64(5) {
						w.overwrite(key(n+1), w.copyOf(key(n+1)))
						time.Sleep(10 * time.Minute)
					}
					w.forget("web", 1, 2, 3, 4)
					var report *prune.Report
					for range 3 {
						report = run()
						time.Sleep(8 * day)
					}
					for i, tree := range trees {
						w.Restores(fmt.Sprintf("web@%d", i+1), w.dir, tree)
					}
					if !strings.Contains(strings.Join(report.Notes, "\n"), "the root of web@2 was put again") {
						t.Errorf("it is not named: %q", report.Notes)
					}
				})
			})
		}
	})
	t.Run("a root that is later than one with a higher number is not forgotten for its time", func(t *testing.T) {
		for name, at := range map[string]func() storage.Store{"without versions": plainMemory, "where versions were switched off since init": memory} {
			t.Run(name, func(t *testing.T) {
				simulated(t, at, func(w *world) {
					w.become(plainMemory())
					trees, _ := w.days(3)
					for n := range uint64(2) { // of which the last one gets the place of the day
						time.Sleep(10 * time.Minute)
						w.overwrite(key(n+1), w.copyOf(key(n+1)))
					}
					w.forget("web", 1, 2)
					for range 3 {
						w.under(&retention.Policy{Daily: 1})
						time.Sleep(8 * day)
					}
					w.Restores("web@1", w.dir, trees[0])
				})
			})
		}
	})
	t.Run("a late root in a store whose versions were switched off holds what it needs", func(t *testing.T) {
		for name, again := range map[string]bool{"put once": false, "put again": true} {
			t.Run(name, func(t *testing.T) {
				simulated(t, memory, func(w *world) {
					w.become(plainMemory())
					w.write("stays", 1000)
					w.capture("web") // 1
					w.write("precious", 2<<20)
					one := w.capture("web") // 2
					back := w.take("precious")
					w.capture("web") // 3
					w.forget("web", 2)
					time.Sleep(3 * day)
					object, _ := w.forge(4, sha256.Sum256(w.copyOf(key(3))), one.Body, time.Now())
					if d := w.owner(); d.Announced.Objects == 0 {
						t.Fatal("nothing is announced")
					}
					time.Sleep(20 * time.Hour)
					w.put(key(4), object)
					back()
					w.capture("web") // 5
					time.Sleep(6 * time.Hour)
					if again {
						w.overwrite(key(4), w.copyOf(key(4)))
					}
					time.Sleep(6*day - 3*time.Hour)
					w.forget("web", 4)
					time.Sleep(2 * time.Hour)
					w.owner()
					if _, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(4), Now: time.Now()}); err != nil {
						t.Errorf("it cannot be taken back: %v", err)
					}
				})
			})
		}
	})
	t.Run("what is put again every day does not stay young", func(t *testing.T) {
		for name, at := range map[string]func() storage.Store{"with versions": memory, "where versions were switched on since init": plainMemory} {
			t.Run(name, func(t *testing.T) {
				simulated(t, at, func(w *world) {
					w.become(memory())
					w.days(4)
					w.forget("web", 1, 2, 3)
					time.Sleep(3 * day)
					for _, key := range w.objects() {
						w.overwrite(key, w.copyOf(key))
					}
					if d := w.owner(); d.Announced.Objects < 6 || d.Young.Objects > 0 {
						t.Errorf("announced %d, young %d", d.Announced.Objects, d.Young.Objects)
					}
				})
			})
		}
	})
	t.Run("a byte in the place of a pack is no capture under way", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			junk := func(b byte) {
				w.put(layout.KeyPack(enginetest.Host, w.domain(), [32]byte{b}), []byte{b})
			}
			w.capture("other")
			junk(1)
			time.Sleep(time.Hour)
			w.days(4)
			w.forget("web", 1, 2, 3)
			time.Sleep(3 * day)
			junk(2)
			if d := w.free(); d.Young.Objects != 1 || d.Announced.Objects < 7 {
				t.Errorf("announced %d, young %d", d.Announced.Objects, d.Young.Objects)
			}
		})
	})
}

func TestReserve(t *testing.T) {
	t.Run("empty pieces are no reserve", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			for i := range 20 {
				w.put(fmt.Sprintf("%s%032x", layout.PrefixReserve(enginetest.Host), i), nil)
			}
			w.days(2)
			w.free()
			sum, pieces := int64(0), 0
			for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixReserve(enginetest.Host)}) {
				w.check(err)
				sum, pieces = sum+o.Size, pieces+1
			}
			if sum != 1<<20 || pieces != 8 {
				t.Errorf("%d bytes in %d pieces", sum, pieces)
			}
		})
	})
}
