package prune_test

import (
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/wire"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
	"knowngood/storage/replay"
)

// turn captures another "web", forgets the last one, and prunes when all is
// due, so that earlier statements are not read any more.
func (w *world) turn() {
	w.t.Helper()
	w.write("more", 300<<10)
	w.capture("web")
	w.forget("web", w.newest("web")-1)
	time.Sleep(9 * day)
	w.free()
}

// saysOnlyWhatHolds makes sure that what statements hold of repacks is about
// packs that manifests of these snapshots name, and packs that stand for them
// now, and none between, however often they were rewritten.
func (w *world) saysOnlyWhatHolds(refs ...string) {
	w.t.Helper()
	d, err := w.host().Deletions(w.Ctx, enginetest.Host, w.domain())
	w.check(err)
	there := map[[32]byte]bool{}
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/", Hidden: true}) {
		w.check(err)
		if id, ok := deletion.ParseKey(o.Key); ok {
			there[id.Hash] = true
		}
	}
	var named [][32]byte
	for _, ref := range refs {
		named = append(named, w.named(ref)...)
	}
	if len(d.Repacks) == 0 {
		w.t.Error("nothing is said of repacks")
	}
	for _, x := range d.Repacks {
		for _, h := range x.Old {
			if !slices.Contains(named, h) {
				w.t.Errorf("statement %d says what stands for pack %x, which no kept manifest names", x.Serial, h[:4])
			}
		}
		for _, h := range slices.Concat(x.New, x.Manifests) {
			if !there[h] {
				w.t.Errorf("statement %d speaks of %x as there, which is deleted", x.Serial, h[:4])
			}
		}
	}
}

// named are the packs that the manifest of a snapshot names.
func (w *world) named(ref string) (packs [][32]byte) {
	w.t.Helper()
	r, s, err := w.Snapshot(ref)
	w.check(err)
	rd := r.NewReader(s.Host, s.Domain)
	defer rd.Close()
	objects, err := rd.Objects(w.Ctx, s.Body)
	w.check(err)
	for _, o := range objects[:len(objects)-1] {
		packs = append(packs, o.Hash)
	}
	return packs
}

func TestAfterRepack(t *testing.T) {
	t.Run("what is forgotten after a repack can be taken back until it is deleted", testWhatIsForgottenAfterARepackCanBeTakenBackUntilItIsDeleted)
	t.Run("a dry run reports what would be rewritten", testADryRunReportsWhatWouldBeRewritten)
	t.Run("a prune by hand counts though a daemon believes what it saw", testAPruneByHandCountsThoughADaemonBelievesWhatItSaw)
}

func testWhatIsForgottenAfterARepackCanBeTakenBackUntilItIsDeleted(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, third := w.sparse()
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		old, _ := w.moved(w.domain())
		w.capture("web")
		w.forget("web", 2, 3)
		time.Sleep(8 * day)
		w.free() // what the repack said is not read any more
		w.undo("web", 2, 3)
		w.Restores("web@2", w.dir, second)
		w.turn()
		if n := w.there(w.domain(), old); n > 0 {
			t.Fatalf("%d of %d old packs are there", n, len(old))
		}
		w.Clean()
		w.Restores("web@2", w.dir, second)
		w.Restores("web@3", w.dir, third)
	})
}

func testADryRunReportsWhatWouldBeRewritten(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.sparse()
		count := func() (n int) {
			for _, err := range w.Store.List(w.Ctx, storage.ListOptions{Hidden: true}) {
				w.check(err)
				n++
			}
			return n
		}
		before := count()
		dry := func(o prune.Options) prune.Domain {
			o.DryRun = true
			report, err := prune.Run(w.Ctx, w.unlocked(), o)
			w.check(err)
			return report.Domains[0]
		}
		if d := dry(prune.Options{}); d.Repacked.Objects > 0 {
			t.Errorf("without a budget: %+v", d)
		}
		told := dry(prune.Options{MaxRepack: 1 << 30})
		if n := count(); n != before {
			t.Errorf("%d objects became %d", before, n)
		}
		done := w.repack(1 << 30)
		if told.Repacked != done.Repacked || told.Rewritten > 2*done.Rewritten || done.Rewritten > 2*told.Rewritten {
			t.Errorf("told were %+v, %d bytes stored; done %+v, %d", told.Repacked, told.Rewritten, done.Repacked, done.Rewritten)
		}
	})
}

// A daemon believes what it saw for hours; somebody repacks by hand meanwhile.
func testAPruneByHandCountsThoughADaemonBelievesWhatItSaw(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.sparse()
		replies := &replay.Replies{}
		absent := func(pack [32]byte) bool {
			r := w.Child(replies)
			host, err := r.Host(w.Ctx)
			w.check(err)
			x, err := r.OpenIndex(w.Ctx, host, objects.Verification{})
			w.check(err)
			defer x.Close()
			x.Done()
			return x.Absent(wire.KindPack, pack)
		}
		absent([32]byte{})
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		old, _ := w.moved(w.domain())
		if !absent(old[0]) {
			t.Error("a run after it would refer to what was rewritten")
		}
	})
}
