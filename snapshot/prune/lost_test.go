package prune_test

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"knowngood/internal/treetest"
	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestLost(t *testing.T) {
	t.Run("a chunk that the index lost is found in its pack", testAChunkThatTheIndexLostIsFoundInItsPack)
	t.Run("nothing is deleted while a kept snapshot needs a damaged pack", testNothingIsDeletedWhileAKeptSnapshotNeedsADamagedPack)
}

// A merge of runs keeps one place of each chunk. When that is in a pack which
// is deleted, the other copy is found in its pack.
func testAChunkThatTheIndexLostIsFoundInItsPack(t *testing.T) {
	simulated(t, memory, func(w *world) {
		second, _ := w.sparse()
		if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
			t.Fatalf("not repacked: %+v", d)
		}
		time.Sleep(8 * day)
		w.free()
		w.forgetHalf()
		w.Restores("web@2", w.dir, second)
		if content := w.MustCapture("web", w.dir); content.Problems != nil {
			t.Error(content.Problems)
		}
		w.Restores("web@4", w.dir, treetest.Snapshot(t, w.dir))
	})
}

// Who took over the host has the index claim what it likes, and puts packs with other
// contents over those that took the place of others.
func TestLostChunk(t *testing.T) {
	t.Run("is found in its pack beneath another", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			second, _ := w.sparse()
			if d := w.repack(1 << 30); d.Repacked.Objects == 0 {
				t.Fatalf("not repacked: %+v", d)
			}
			time.Sleep(8 * day)
			w.free()
			w.forgetHalf()

			r := w.host()
			host, err := r.Host(w.Ctx)
			w.check(err)
			epoch, err := r.CurrentEpoch(w.Ctx)
			w.check(err)
			session, err := seal.NewSession(r.ID(), epoch)
			w.check(err)
			for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks("h", host.Domain.ID)}) {
				w.check(err)
				object, _, _ := pack.NewBuilder(wire.KindPack, r.ID(), host.Domain, session, nil).Finish(pack.ObjectList{})
				w.overwrite(o.Key, object)
			}
			w.Restores("web@2", w.dir, second)
		})
	})
}

func TestReplacedIndexRuns(t *testing.T) {
	runs := func(w *world) (n int) {
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/index/"}) {
			w.check(err)
			if o.Size > 0 {
				n++
			}
		}
		return n
	}
	t.Run("stay while the newest snapshot names them, and are deleted then", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.write("a", 300_000)
			w.capture("web")
			w.forgetHalf() // in the place of the one that web@1 names
			time.Sleep(8 * day)
			w.free()
			if n := runs(w); n != 2 {
				t.Errorf("%d runs while web@1 names one", n)
			}
			w.capture("web")
			time.Sleep(8 * day)
			w.free()
			if n := runs(w); n != 1 {
				t.Errorf("%d runs when web@2 names the other one", n)
			}
		})
	})
}

// forgetHalf publishes a run in the place of all others that names every pack
// and the first chunk of each frame.
func (w *world) forgetHalf() {
	w.t.Helper()
	r := w.host()
	host, err := r.Host(w.Ctx)
	w.check(err)
	reader := r.NewReader("h", host.Domain)
	defer reader.Close()
	cache, err := index.OpenCache(userdir.At(treetest.TempDir(w.t)))
	w.check(err)
	table := index.NewTable(cache)
	defer table.Close()
	left := 0
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks("h", host.Domain.ID)}) {
		w.check(err)
		id, _ := deletion.ParseKey(o.Key)
		tail, contents, err := reader.Contents(w.Ctx, wire.KindPack, id.Hash, o.Size)
		w.check(err)
		for i := range contents.Files {
			f := &contents.Files[i]
			left += len(f.Chunks) - 1
			f.Chunks = f.Chunks[:1]
		}
		info := pack.Ref{Kind: wire.KindPack, Size: uint64(o.Size)}
		info.Hash, info.Session, info.Salt = id.Hash, tail.Session.ID, tail.Salt
		w.check(table.Add(info, contents.Files))
	}
	if left == 0 {
		w.t.Fatal("no frame has two chunks")
	}
	run := &statement.IndexRun{Repository: r.ID(), Host: "h", Domain: host.Domain.ID, Generation: 1000, Salt: seal.NewSalt(), Certificate: host.Certificate}
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns("h", host.Domain.ID)}) {
		w.check(err)
		_, _, _, h, _ := layout.ParseIndexRunKey(o.Key)
		run.Replaces = append(run.Replaces, h)
	}
	unsaved, err := table.Unsaved()
	w.check(err)
	for body := range unsaved.Bodies() {
		plain, err := body.Append(nil)
		w.check(err)
		run.SealedBody = seal.Once(host.Domain.RunKey(run.Salt), plain, nil)
	}
	object, err := run.Encode(host.SigningKey())
	w.check(err)
	w.check(w.Store.Put(w.Ctx, layout.KeyIndexRun("h", host.Domain.ID, run.Generation, sha256.Sum256(object)), object, storage.PutOptions{}))
}

// What took the place of a damaged pack is in no list of the older snapshots,
// which are whole only with it.
func testNothingIsDeletedWhileAKeptSnapshotNeedsADamagedPack(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.write("a", 300_000)
		w.capture("web")
		before := treetest.Snapshot(t, w.dir)
		for _, key := range m.Keys() {
			if strings.HasPrefix(key, "hosts/h/packs/") {
				m.Edit(key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			}
		}
		time.Sleep(time.Hour)
		res, err := w.Capture("web", func(o *snapshot.Options) { o.Verify.Data = true }, w.dir)
		w.check(err)
		if res.Healed.Packs != 1 {
			t.Fatalf("healed %+v", res.Healed)
		}
		w.write("a", 300_000)
		w.capture("web")
		w.forget("web", 2)
		time.Sleep(8 * day)
		for range 2 {
			report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
			w.check(err)
			if len(report.Blocked) == 0 || !strings.Contains(report.Blocked[0].Error(), "damaged pack") {
				t.Errorf("prune: %+v, %v", report.Domains, report.Blocked)
			}
			time.Sleep(8 * day)
		}
		w.Restores("web@1", w.dir, before)
	})
}

func TestDamagedPack(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, again := range map[string]func(w *world){
		"that is whole again blocks no prune": func(w *world) {
			if d := w.free(); d.Needed.Objects == 0 {
				w.t.Errorf("needed: %+v", d.Needed)
			}
		},
		"that is whole again is noted no more by a check": func(w *world) {
			_, err := check.Run(w.Ctx, w.unlocked(), check.Options{})
			w.check(err)
		},
		"that is whole again is noted no more by a capture that reads all": func(w *world) {
			_, err := w.Capture("web", func(o *snapshot.Options) { o.Verify.Data = true }, w.dir)
			w.check(err)
		},
	} {
		for change, edit := range map[string]func(b []byte) []byte{"with other bytes": flip, "too short": func(b []byte) []byte { return b[:len(b)-1] }} {
			t.Run(name+", "+change, func(t *testing.T) {
				m := storagetest.NewMemory()
				simulated(t, func() storage.Store { return m }, func(w *world) {
					w.write("a", 300_000)
					w.capture("web")
					pack, whole := "", []byte(nil)
					for _, key := range m.Keys() {
						if strings.HasPrefix(key, "hosts/h/packs/") {
							pack, whole = key, w.copyOf(key)
							m.Edit(key, edit)
						}
					}
					damage := func() int {
						host, err := w.host().Host(w.Ctx)
						w.check(err)
						return len(w.host().DamagedObjects(host.Domain.ID))
					}
					time.Sleep(time.Hour)
					_, err := w.Capture("web", func(o *snapshot.Options) { o.Verify.Data = true }, w.dir)
					w.check(err)
					report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
					w.check(err)
					if len(report.Blocked) != 1 || damage() != 1 {
						t.Fatalf("blocked: %v, damaged: %d", report.Blocked, damage())
					}

					m.Edit(pack, func([]byte) []byte { return whole })
					time.Sleep(time.Hour)
					again(w)
					if damage() != 0 {
						t.Error("it is still noted to be damaged")
					}
					w.free()
				})
			})
		}
	}
}
