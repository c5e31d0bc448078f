package prune_test

import (
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// elsewhere prunes on a machine that is not the host.
func (w *world) elsewhere() prune.Domain {
	w.t.Helper()
	report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
	w.check(err)
	for _, b := range report.Blocked {
		w.t.Fatal(b)
	}
	return report.Domains[0]
}

// domain is the host's present one.
func (w *world) domain() seal.DomainID {
	w.t.Helper()
	h, err := w.host().Host(w.Ctx)
	w.check(err)
	return h.Domain.ID
}

// moved are the packs that were rewritten by repacks in force, and those that
// stand for them.
func (w *world) moved(domain seal.DomainID) (old, into [][32]byte) {
	w.t.Helper()
	d, err := w.Bare().Deletions(w.Ctx, enginetest.Host, domain)
	w.check(err)
	for _, x := range d.Repacks {
		old, into = append(old, x.Old...), append(into, x.New...)
	}
	for _, list := range []*[][32]byte{&old, &into} {
		slices.SortFunc(*list, deletion.CompareHashes)
		*list = slices.Compact(*list)
	}
	return old, into
}

// there is how many of the packs are stored.
func (w *world) there(domain seal.DomainID, packs [][32]byte) (n int) {
	w.t.Helper()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, domain), Hidden: true}) {
		w.check(err)
		if _, _, h, ok := layout.ParsePackKey(o.Key); ok && slices.Contains(packs, h) {
			n++
		}
	}
	return n
}

func TestElsewhere(t *testing.T) {
	t.Run("another machine neither believes a repack nor undoes it", testAnotherMachineNeitherBelievesARepackNorUndoesIt)
	t.Run("a taken host has nothing deleted elsewhere by a repack", testATakenHostHasNothingDeletedElsewhereByARepack)
	t.Run("repacks outlive the key of their host", testRepacksOutliveTheKeyOfTheirHost)
}

// Who took a host over could claim of every pack that it was rewritten. What its
// host did rewrite it deletes itself.
func testAnotherMachineNeitherBelievesARepackNorUndoesIt(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		intact := func() {
			t.Helper()
			w.Clean()
			w.Restores("web@2", w.dir, second)
			w.Restores("web@3", w.dir, third)
		}
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		old, into := w.moved(w.domain())
		for range 3 {
			time.Sleep(8 * day)
			if d := w.elsewhere(); d.Spared.Objects > 0 || w.there(w.domain(), old) != len(old) {
				t.Fatalf("%d of %d old packs are there, after %+v", w.there(w.domain(), old), len(old), d)
			}
		}
		intact()
		if d := w.free(); d.Deleted.Objects < uint64(len(old)) || w.there(w.domain(), old) > 0 {
			t.Fatalf("the host deleted %+v, %d of %d old packs are there", d, w.there(w.domain(), old), len(old))
		}
		for range 3 {
			w.write("more", 300<<10)
			w.capture("web")
			w.forget("web", w.newest("web")-1)
			time.Sleep(8 * day)
			w.elsewhere()
		}
		if n := w.there(w.domain(), into); n != len(into) {
			t.Errorf("%d of %d new packs are there", n, len(into))
		}
		w.Clean()
		w.Restores("web@2", w.dir, second)
	})
}

func testATakenHostHasNothingDeletedElsewhereByARepack(t *testing.T) {
	for name, gone := range map[string]bool{"while the old packs are there": false, "when they are gone": true} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				second, third := w.sparse()
				if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
					t.Fatalf("not repacked: %+v", d)
				}
				if gone {
					time.Sleep(8 * day)
					w.free()
				}
				// It claims of all that it ever stored that one pack stands for it, and
				// that what was stated before counts no more.
				host, err := w.host().Host(w.Ctx)
				w.check(err)
				d, err := w.host().Deletions(w.Ctx, enginetest.Host, host.Domain.ID)
				w.check(err)
				old, into := w.moved(host.Domain.ID)
				all := slices.Concat(old, into)
				slices.SortFunc(all, deletion.CompareHashes)
				x := &statement.Deletion{Repository: w.host().ID(), Host: enginetest.Host, Domain: host.Domain.ID, Serial: d.Newest + 1, Since: d.Newest + 1, Made: time.Now(), Certificate: host.Certificate}
				for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, host.Domain.ID)}) {
					w.check(err)
					if _, _, h, _ := layout.ParsePackKey(o.Key); !slices.Contains(all, h) {
						x.Repacks = []statement.Repack{{Manifests: d.Repacks[0].Manifests, Moves: []statement.Move{{Old: slices.Compact(all), New: [][32]byte{h}}}}}
					}
				}
				object, err := x.Encode(host.SigningKey())
				w.check(err)
				w.check(w.Store.Put(w.Ctx, layout.KeyDeletion(enginetest.Host, host.Domain.ID, x.Serial), object, storage.PutOptions{}))
				for range 4 {
					time.Sleep(8 * day)
					w.elsewhere()
				}
				w.Restores("web@2", w.dir, second)
				w.Restores("web@3", w.dir, third)
			})
		})
	}
}

// What was rewritten before is neither damage nor in the way when the host was
// installed again.
func testRepacksOutliveTheKeyOfTheirHost(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		before := w.domain()
		time.Sleep(8 * day)
		w.free()
		w.State = treetest.TempDir(t)
		again := w.unlocked()
		_, err := again.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
		w.check(err)
		w.capture("web")
		w.forget("web", 1) // which ended with the key
		for range 3 {
			time.Sleep(8 * day)
			w.elsewhere()
			report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{})
			w.check(err)
			if len(report.Blocked) > 0 || len(report.Domains) != 2 {
				t.Errorf("on the host itself: %v, %d domains", report.Blocked, len(report.Domains))
			}
		}
		if _, into := w.moved(before); len(into) == 0 || w.there(before, into) != len(into) {
			t.Errorf("%d of %d new packs are there", w.there(before, into), len(into))
		}
		w.Clean()
		w.Restores("web@2", w.dir, second)
		w.Restores("web@3", w.dir, third)
		w.Restores("web@4", w.dir, third)
	})
}
