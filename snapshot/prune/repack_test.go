package prune_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// unlocked is the host with an identity at hand.
func (w *world) unlocked() *repository.Repository {
	w.t.Helper()
	r := w.host()
	r.Unlock(w.ID)
	return r
}

// repack prunes with a budget, on the host and with an identity.
func (w *world) repack(budget uint64) prune.Domain {
	w.t.Helper()
	w.Warnings() // of before
	report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{MaxRepack: budget})
	w.check(err)
	for _, b := range report.Blocked {
		w.t.Fatal(b)
	}
	for _, n := range report.Notes {
		w.t.Errorf("note: %s", n)
	}
	for _, warning := range w.Warnings() {
		w.t.Errorf("warning: %v", warning)
	}
	return report.Domains[0]
}

// bytes are those of all packs in the store, hidden ones too.
func (w *world) bytes() uint64 {
	w.t.Helper()
	sum := uint64(0)
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/packs/", Hidden: true}) {
		w.check(err)
		sum += uint64(o.Size)
	}
	return sum
}

// sparse captures 24 files of 200 KiB, of which one in six stays as it is, and
// waits until packs may be rewritten. The owner accepts that so little is left.
// It returns the trees of web@2 and web@3.
func (w *world) sparse() (second, third treetest.Tree) {
	w.t.Helper()
	for i := range 24 {
		w.write(fmt.Sprintf("file-%02d", i), 200<<10)
	}
	w.capture("web")
	for i := range 24 {
		if i%6 != 0 {
			w.write(fmt.Sprintf("file-%02d", i), 100)
		}
	}
	w.accept(w.Bare(), w.capture("web"))
	second = treetest.Snapshot(w.t, w.dir)
	w.write("more", 100)
	w.capture("web")
	third = treetest.Snapshot(w.t, w.dir)
	w.forget("web", 1)
	time.Sleep(3 * day)
	return second, third
}

func TestRepack(t *testing.T) {
	t.Run("a sparse pack is rewritten and freed", testASparsePackIsRewrittenAndFreed)
	t.Run("a pack whose manifest nobody needs is rewritten", testAPackWhoseManifestNobodyNeedsIsRewritten)
	t.Run("a pack is rewritten twice", testAPackIsRewrittenTwice)
	t.Run("the budget of a repack holds", testTheBudgetOfARepackHolds)
	t.Run("without an identity or elsewhere nothing is repacked", testWithoutAnIdentityOrElsewhereNothingIsRepacked)
	t.Run("a pack that stays locked is not rewritten", testAPackThatStaysLockedIsNotRewritten)
	t.Run("a hidden pack ends no prune", testAHiddenPackEndsNoPrune)
	t.Run("a snapshot that was not examined spares the old packs", testASnapshotThatWasNotExaminedSparesTheOldPacks)
	t.Run("a run under way is not hurt by a repack", testARunUnderWayIsNotHurtByARepack)
	t.Run("a repack that dies anywhere loses nothing", testARepackThatDiesAnywhereLosesNothing)
	t.Run("repacks of any history keep every snapshot", testRepacksOfAnyHistoryKeepEverySnapshot)
	t.Run("a restore from rewritten packs requests little more of the store", testARestoreFromRewrittenPacksRequestsLittleMoreOfTheStore)
}

func testASparsePackIsRewrittenAndFreed(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		before := w.bytes()
		if d := w.free(); d.Announced.Bytes > before/3 {
			t.Fatalf("whole packs are free: %+v", d)
		}
		d := w.repack(1 << 30)
		if d.Repacked.Objects == 0 || d.Rewritten == 0 || d.Rewritten > before/3 || d.Announced.Objects < d.Repacked.Objects {
			t.Fatalf("not repacked: %+v", d)
		}
		intact := func() {
			t.Helper()
			w.Clean()
			w.Restores("web@2", w.dir, second)
			w.Restores("web@3", w.dir, third)
		}
		intact()
		if again := w.repack(1 << 30); again.Repacked.Objects > 0 || again.Spared.Objects > 0 {
			t.Errorf("there was more to do: %+v", again)
		}
		// What nobody changed is not read again, though it lies elsewhere now.
		if res := w.MustCapture("web", w.dir); res.Read > 0 || res.NewBytes > 0 {
			t.Errorf("%d files were read, %d bytes stored anew", res.Read, res.NewBytes)
		}
		w.Restores("web@4", w.dir, third)
		time.Sleep(8 * day)
		if d := w.free(); d.Deleted.Objects == 0 || d.Spared.Objects > 0 {
			t.Fatalf("not deleted: %+v", d)
		}
		if after := w.bytes(); after > before/3 {
			t.Errorf("%d bytes of packs are left of %d", after, before)
		}
		intact()
		if _, _, err := w.Snapshot("web@1"); !errors.Is(err, history.ErrPruned) {
			t.Errorf("web@1: %v", err)
		}
		// The record outlives the statement that made it.
		for range 3 {
			w.turn()
			intact()
		}
		w.saysOnlyWhatHolds("web@2", "web@3")
		if err := w.host().Whole(w.Ctx, w.opened("web@2")); err != nil {
			t.Errorf("web@2 is not whole: %v", err)
		}
	})
}

func (w *world) newest(env string) uint64 {
	w.t.Helper()
	s, err := w.host().Head(w.Ctx, enginetest.Host, env)
	w.check(err)
	return s.Number
}

func (w *world) opened(ref string) *history.Snapshot {
	w.t.Helper()
	_, s, err := w.Snapshot(ref)
	w.check(err)
	return s
}

// What was rewritten is rewritten again once less of it is needed, and a
// snapshot that names the first packs is led from one to the next.
func testAPackWhoseManifestNobodyNeedsIsRewritten(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.Apart = false
		for i := range 12 {
			w.write("often", 600<<10)
			w.write(fmt.Sprintf("once-%02d", i), 1000)
			w.capture("web")
		}
		tree := treetest.Snapshot(t, w.dir)
		w.forget("web", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
		time.Sleep(3 * day)
		w.repack(1 << 30)
		w.Clean()
		w.Restores("web@12", w.dir, tree)
		for range 2 {
			time.Sleep(8 * day)
			w.repack(1 << 30)
		}
		w.Clean()
		w.Restores("web@12", w.dir, tree)
		if n := w.bytes(); n > 3*600<<10 {
			t.Errorf("%d bytes of packs are left", n)
		}
	})
}

func testAPackIsRewrittenTwice(t *testing.T) {
	simulated(t, memory, func(w *world) {
		trees := map[string]treetest.Tree{}
		a, b := filepath.Join(w.dir, "a"), filepath.Join(w.dir, "b")
		for i := range 24 {
			w.write(fmt.Sprintf("file-%02d", i), 200<<10)
		}
		w.capture("web")
		w.check(os.Mkdir(a, 0o755))
		w.check(os.Mkdir(b, 0o755))
		for i := range 24 { // each pack has files of both, and others
			name := fmt.Sprintf("file-%02d", i)
			switch i % 8 {
			case 0:
				w.check(os.Rename(filepath.Join(w.dir, name), filepath.Join(a, name)))
			case 1, 2:
				w.check(os.Rename(filepath.Join(w.dir, name), filepath.Join(b, name)))
			}
		}
		w.MustCapture("a", a)
		w.MustCapture("b", b)
		trees["a"], trees["b"] = treetest.Snapshot(t, a), treetest.Snapshot(t, b)
		w.check(os.RemoveAll(w.dir))
		w.check(os.MkdirAll(b, 0o755))
		w.write("alone", 100)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		first := w.repack(1 << 30)
		if first.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", first)
		}
		w.MustCapture("b", b)
		w.forget("b", 1)
		for range 2 {
			time.Sleep(8 * day)
			w.repack(1) // which is too little
			w.Clean()
			w.Restores("a@1", a, trees["a"])
		}
		second := w.repack(1 << 30)
		if second.Repacked.Objects == 0 || second.Rewritten > 700<<10 {
			t.Fatalf("not repacked again: %+v", second)
		}
		w.Clean()
		w.Restores("a@1", a, trees["a"])
		for range 3 {
			time.Sleep(8 * day)
			w.free()
			w.Clean()
			w.Restores("a@1", a, trees["a"])
		}
		w.saysOnlyWhatHolds("a@1")
		// The first repack may have put a file of each into a pack of their own,
		// of which too much is needed to be rewritten.
		if n := w.bytes(); n > 2*600<<10+50<<10 {
			t.Errorf("%d bytes of packs are left", n)
		}
		w.check(w.unlocked().Whole(w.Ctx, w.opened("a@1")))
		if _, _, err := w.Snapshot("b@1"); !errors.Is(err, history.ErrPruned) {
			t.Errorf("b@1: %v", err)
		}
	})
}

func testTheBudgetOfARepackHolds(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		if d := w.repack(1000); d.Repacked.Objects > 0 {
			t.Errorf("with 1000 bytes: %+v", d)
		}
		rounds := 0
		for done := uint64(0); ; rounds++ {
			d := w.repack(2500 << 10)
			if d.Repacked.Bytes > 2500<<10 || d.Rewritten > d.Repacked.Bytes {
				t.Fatalf("beyond the budget: %+v", d)
			}
			if done += d.Repacked.Bytes; d.Repacked.Objects == 0 {
				break
			}
			time.Sleep(3 * day)
		}
		if rounds < 2 {
			t.Errorf("all was rewritten in %d rounds", rounds)
		}
		time.Sleep(8 * day)
		w.free()
		w.Clean()
		w.Restores("web@2", w.dir, second)
		w.Restores("web@3", w.dir, third)
	})
}

func testWithoutAnIdentityOrElsewhereNothingIsRepacked(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.sparse()
		for name, r := range map[string]*repository.Repository{"that takes an identity": w.host(), "only its host": w.Bare()} {
			report, err := prune.Run(w.Ctx, r, prune.Options{MaxRepack: 1 << 30})
			w.check(err)
			if len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "nothing was repacked: "+name) || report.Domains[0].Repacked.Objects > 0 {
				t.Errorf("%s: notes %q, %+v", name, report.Notes, report.Domains[0])
			}
		}
	})
}

func testAPackThatStaysLockedIsNotRewritten(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.sparse()
		for _, key := range m.Keys() {
			if strings.Contains(key, "/packs/") {
				w.check(m.Retain(w.Ctx, key, "", storage.Retention{Mode: storage.Compliance, Until: time.Now().Add(30 * day)}))
			}
		}
		if d := w.repack(1 << 30); d.Repacked.Objects > 0 {
			t.Errorf("rewritten: %+v", d)
		}
		time.Sleep(20 * day)
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Errorf("not rewritten when the locks end soon: %+v", d)
		}
	})
}

func testAHiddenPackEndsNoPrune(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, _ := w.sparse()
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, w.domain())}) {
			w.check(err)
			w.check(w.Store.Delete(w.Ctx, o.Key))
		}
		report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{MaxRepack: 1 << 30})
		w.check(err)
		for _, b := range report.Blocked {
			t.Error(b)
		}
		w.Restores("web@2", w.dir, second)
	})
}

func testASnapshotThatWasNotExaminedSparesTheOldPacks(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for i := range 24 {
			w.write(fmt.Sprintf("file-%02d", i), 200<<10)
		}
		w.capture("web")
		first := treetest.Snapshot(t, w.dir)
		for i := range 24 {
			if i%6 != 0 {
				w.write(fmt.Sprintf("file-%02d", i), 100)
			}
		}
		w.capture("web")
		second := treetest.Snapshot(t, w.dir)
		w.forget("web", 1)
		time.Sleep(3 * day)
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		// It comes back, and needs chunks that were not rewritten.
		w.undo("web", 1)
		time.Sleep(8 * day)
		if d := w.free(); d.Spared.Objects == 0 || d.Deleted.Objects > 0 {
			t.Fatalf("not spared: %+v", d)
		}
		for range 3 { // what was rewritten in vain goes
			time.Sleep(9 * day)
			w.free()
		}
		w.Clean()
		w.Restores("web@1", w.dir, first)
		w.Restores("web@2", w.dir, second)
	})
}

// A run under way that looked at the repository before it was repacked refers
// to the old packs still.
func testARunUnderWayIsNotHurtByARepack(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.sparse()
		slow := *w.World
		slow.Store = storagetest.NewFaulty(m, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.Delayed(10 * time.Hour)})
		w.write("new", 300<<10)
		third := treetest.Snapshot(t, w.dir)
		done := make(chan error, 1)
		go func() {
			_, err := slow.Capture("web", func(o *snapshot.Options) {}, w.dir)
			done <- err
		}()
		time.Sleep(time.Hour)
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for range 4 {
			time.Sleep(8 * day)
			w.repack(1 << 30)
			w.Clean()
			w.Restores("web@4", w.dir, third)
		}
	})
}

func (w *world) undo(env string, numbers ...uint64) {
	w.t.Helper()
	_, err := w.host().Forget(w.Ctx, enginetest.Host, env, history.Change{Undo: statement.NumbersOf(numbers...), Now: time.Now()})
	w.check(err)
}

// Whatever the process is doing when it dies, all that is kept stays, and
// running again gets there.
func testARepackThatDiesAnywhereLosesNothing(t *testing.T) {
	const each = 3
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		trace := storagetest.NewFaulty(w.copy())
		operations := 0
		{
			r := w.over(trace).unlocked()
			trace.Clear()
			report, err := prune.Run(w.Ctx, r, prune.Options{MaxRepack: 1 << 30})
			w.check(err)
			if operations = len(trace.Log()); report.Domains[0].Repacked.Objects == 0 {
				t.Fatalf("not repacked: %+v", report.Domains[0])
			}
		}
		step := each
		switch {
		case enginetest.Slow():
			step = 1
		case testing.Short():
			step = 5 * each
		}
		for n := 1; n <= operations; n += step {
			for _, effect := range []bool{false, true} {
				f := storagetest.NewFaulty(w.copy())
				at := w.over(f)
				r := at.unlocked()
				f.Clear()
				f.StopAt(n, effect)
				if _, err := prune.Run(w.Ctx, r, prune.Options{MaxRepack: 1 << 30}); err == nil && !effect {
					t.Errorf("stopped at operation %d of %d, it succeeds", n, operations)
				}
				f.Clear()
				at.Clean()
				time.Sleep(time.Hour)
				at.repack(1 << 30)
				at.Restores("web@3", w.dir, third)
				time.Sleep(8 * day)
				at.free()
				at.Clean()
				at.Restores("web@2", w.dir, second)
				if at.bytes() > w.bytes()/2 {
					t.Errorf("stopped at operation %d: %d bytes are left of %d", n, at.bytes(), w.bytes())
				}
			}
		}
	})
}

// copy is a memory store with what the world's store holds.
func (w *world) copy() storage.Store {
	w.t.Helper()
	out := storagetest.NewMemory()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{}) {
		w.check(err)
		b, err := storage.Append(w.Ctx, nil, w.Store, o.Key, 0, -1)
		w.check(err)
		w.check(out.Put(w.Ctx, o.Key, b, storage.PutOptions{}))
	}
	time.Sleep(3 * day)
	return out
}

// over is the same world on another store, with a copy of the host's state.
func (w *world) over(s storage.Store) *world {
	return &world{World: w.With(w.t, s), t: w.t, dir: w.dir, rand: w.rand}
}

// Random captures, changes of what is forgotten, and prunes with and without
// a repack: all that is kept restores byte for byte after each.
func testRepacksOfAnyHistoryKeepEverySnapshot(t *testing.T) {
	seeds, steps := 4, 30
	switch {
	case enginetest.Slow():
		seeds, steps = 20, 80
	case testing.Short():
		seeds = 1
	}
	var repacked, deleted atomic.Uint64
	t.Cleanup(func() {
		if repacked.Load() == 0 || deleted.Load() == 0 {
			t.Errorf("%d packs were rewritten, %d objects deleted: the histories show nothing", repacked.Load(), deleted.Load())
		}
	})
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				rng := rand.New(rand.NewPCG(uint64(seed), 7))
				trees := map[uint64]treetest.Tree{}
				kept, gone := []uint64{}, []uint64{}
				for i := range 16 {
					w.write(fmt.Sprintf("file-%02d", i), 150<<10)
				}
				capture := func() {
					w.Apart = rng.IntN(2) == 0
					n := w.capture("web").Number
					trees[n] = treetest.Snapshot(t, w.dir)
					kept = append(kept, n)
				}
				capture()
				for step := range steps {
					switch k := rng.IntN(10); {
					case k < 4:
						for range 1 + rng.IntN(12) {
							w.write(fmt.Sprintf("file-%02d", rng.IntN(16)), 1+rng.IntN(200<<10))
						}
						capture()
					case k < 6 && len(kept) > 1:
						for range 1 + rng.IntN(4) {
							if len(kept) == 1 {
								break
							}
							i := rng.IntN(len(kept) - 1)
							w.forget("web", kept[i])
							gone = append(gone, kept[i])
							kept = append(kept[:i:i], kept[i+1:]...)
						}
					case k == 6 && len(gone) > 0:
						i := rng.IntN(len(gone))
						n := gone[i]
						_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(n), Now: time.Now()})
						if err != nil && !errors.Is(err, history.ErrPruned) && !errors.Is(err, trust.ErrNoUsableIdentity) {
							t.Fatal(err)
						}
						if err == nil {
							kept = insert(kept, n)
						}
						gone = append(gone[:i:i], gone[i+1:]...)
					case k < 9:
						d := w.repack(uint64(2<<20 + rng.IntN(8<<20)))
						repacked.Add(d.Repacked.Objects)
						deleted.Add(d.Deleted.Objects)
					default:
						w.free()
					}
					time.Sleep(time.Duration(rng.IntN(6*24)) * time.Hour)
					w.Clean()
					for _, n := range kept {
						if n == kept[len(kept)-1] || rng.IntN(3) == 0 || step == steps-1 {
							w.Restores(fmt.Sprintf("web@%d", n), w.dir, trees[n])
						}
					}
				}
			})
		})
	}
}

func insert(sorted []uint64, n uint64) []uint64 {
	for i, x := range sorted {
		if x > n {
			return append(sorted[:i:i], append([]uint64{n}, sorted[i:]...)...)
		}
	}
	return append(sorted, n)
}

// The restore of an old snapshot goes by the index, which it opens once.
func testARestoreFromRewrittenPacksRequestsLittleMoreOfTheStore(t *testing.T) {
	simulated(t, memory, func(w *world) {
		// So many that the files that follow lie in a segment of their own, which
		// nothing that changes around the tree is in.
		w.check(os.Mkdir(filepath.Join(w.dir, "empty"), 0o755))
		for i := range 8300 {
			w.write(fmt.Sprintf("empty/%d", i), 0)
		}
		w.sparse()
		requests := func(ref string) int {
			f := storagetest.NewFaulty(w.Store)
			at := w.over(f)
			f.Clear()
			at.Restore(ref, restore.Options{Under: enginetest.Under(w.dir), Target: treetest.TempDir(t)})
			return len(f.Log())
		}
		before := requests("web@2")
		w.repack(1 << 30)
		w.capture("web") // nothing changed but where it lies
		time.Sleep(8 * day)
		w.free()
		if after := requests("web@2"); after > 3*before+20 {
			t.Errorf("%d requests became %d", before, after)
		}
		// What was captured since knows where everything lies.
		if after := requests("web@4"); after > before+5 {
			t.Errorf("%d requests became %d for a snapshot that came after", before, after)
		}
	})
}
