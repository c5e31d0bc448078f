package restore_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// rubbishRun publishes an index run in the place of all others, signed by the host,
// that names every pack, and has all chunks but one of each at places in one pack
// where something else lies.
func (a *archive) rubbishRun(t *testing.T) {
	t.Helper()
	r := a.Open(a.State)
	host, err := r.Host(a.Ctx)
	a.Check(err)
	reader := r.NewReader(enginetest.Host, host.Domain)
	defer reader.Close()
	cache, err := index.OpenCache(userdir.At(treetest.TempDir(t)))
	a.Check(err)
	table := index.NewTable(cache)
	defer table.Close()
	var chunks []pack.Chunk
	keys := packs(t, a.memory)
	for i, key := range keys {
		id, _ := deletion.ParseKey(key)
		tail, contents, err := reader.Contents(a.Ctx, wire.KindPack, id.Hash, -1)
		a.Check(err)
		in := tail.Ref(id.Hash)
		frame := contents.Files[0]
		for j, f := range contents.Files {
			for k, c := range f.Chunks {
				if i == len(keys)-1 || j+k > 0 {
					chunks = append(chunks, pack.Chunk{ID: c.ID, Len: 1})
				}
			}
		}
		if frame.Chunks = frame.Chunks[:1]; i == len(keys)-1 {
			frame.Chunks = chunks
		}
		a.Check(table.Add(in, []pack.Frame{frame}))
	}

	run := &statement.IndexRun{Repository: r.ID(), Host: enginetest.Host, Domain: host.Domain.ID, Generation: 1000, Salt: seal.NewSalt(), Certificate: host.Certificate}
	for _, key := range a.keys("hosts/h/index/") {
		_, _, _, hash, _ := layout.ParseIndexRunKey(key)
		run.Replaces = append(run.Replaces, hash)
	}
	unsaved, err := table.Unsaved()
	a.Check(err)
	for body := range unsaved.Bodies() {
		plain, err := body.Append(nil)
		a.Check(err)
		run.SealedBody = seal.Once(host.Domain.RunKey(run.Salt), plain, nil)
	}
	object, err := run.Encode(host.SigningKey())
	a.Check(err)
	a.Check(a.memory.Put(a.Ctx, layout.KeyIndexRun(enginetest.Host, host.Domain.ID, run.Generation, sha256.Sum256(object)), object, storage.PutOptions{}))
}

func TestCopies(t *testing.T) {
	t.Parallel()
	t.Run("an index that names rubbish hides no copy", testAnIndexThatNamesRubbishHidesNoCopy)
}

func testAnIndexThatNamesRubbishHidesNoCopy(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	lost := a.keys("hosts/h/packs/")[0]
	a.memory.Forget(lost)
	if res := a.heals("e", verify); res.Healed.Packs != 1 {
		t.Fatalf("it healed %+v", res.Healed)
	}
	a.rubbishRun(t)
	a.whole()
	for i := range a.trees {
		tree := a.Tree(fmt.Sprintf("e@%d", i+1))
		for e, err := range tree.Entries(a.Ctx, "") {
			a.Check(err)
			if e.Type == manifest.File {
				a.Check(tree.Content(a.Ctx, e, io.Discard))
			}
		}
	}
}
