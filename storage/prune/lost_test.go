package prune_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/index"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// A merge of runs keeps one place of each chunk. When that is in a pack which
// is deleted, the other copy is found in its pack.
func TestAChunkThatTheIndexLostIsFoundInItsPack(t *testing.T) {
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

// forgetHalf publishes a run in the place of all others that names every pack
// and the first chunk of each frame.
func (w *world) forgetHalf() {
	w.t.Helper()
	r := w.host()
	host, err := r.Host(w.Ctx)
	w.check(err)
	reader := r.NewReader("h", host.Domain)
	defer reader.Close()
	cache, err := index.OpenCache(treetest.TempDir(w.t))
	w.check(err)
	table := index.NewTable(cache)
	defer table.Close()
	left := 0
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: statement.PrefixPacks("h", host.Domain.ID)}) {
		w.check(err)
		id, _ := repository.ParseObjectKey(o.Key)
		tail, err := reader.TailOf(w.Ctx, wire.KindPack, id.Hash, o.Size)
		w.check(err)
		contents, err := tail.Contents(wire.KindPack, host.Domain)
		w.check(err)
		for i := range contents.Frames {
			f := &contents.Frames[i]
			left += len(f.Chunks) - 1
			f.Chunks = f.Chunks[:1]
		}
		info := index.PackInfo{Size: uint64(o.Size)}
		info.Hash, info.Session, info.Salt = id.Hash, tail.Session.ID, tail.Salt
		w.check(table.Add(info, contents.Frames))
	}
	if left == 0 {
		w.t.Fatal("no frame has two chunks")
	}
	run := &statement.IndexRun{Repository: r.ID(), Host: "h", Domain: host.Domain.ID, Generation: 1000, Salt: seal.NewSalt(), Certificate: host.Certificate}
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: statement.PrefixIndexRuns("h", host.Domain.ID)}) {
		w.check(err)
		_, _, _, h, _ := statement.ParseIndexRunKey(o.Key)
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
	w.check(w.Store.Put(w.Ctx, statement.KeyIndexRun("h", host.Domain.ID, run.Generation, sha256.Sum256(object)), object, storage.PutOptions{}))
}
