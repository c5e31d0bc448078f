package prune

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// memoryOf is how many bytes of memory what do returns takes.
func memoryOf[T any](do func() T) int64 {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	what := do()
	after := heap()
	runtime.KeepAlive(what)
	return after - before
}

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("of a manifest is a bit for each object that it names", func(t *testing.T) {
		const manifests, objects = 1000, 5000
		hashes := make([][32]byte, objects)
		for i := range hashes {
			hashes[i] = sha256.Sum256(fmt.Append(nil, i))
		}
		bytes := memoryOf(func() *facts {
			f := found()
			for n := range manifests {
				list := make([]pack.Object, objects)
				for i := range list {
					list[i] = pack.Object{Kind: wire.KindPack, Hash: hashes[i], Size: 16 << 20, Live: uint64(n)}
				}
				f.add(&manifest{stands: map[deletion.ObjectID][]deletion.ObjectID{}}, list)
			}
			return f
		})
		t.Logf("%d MB for %d manifests of %d objects", bytes>>20, manifests, objects)
		if bytes > 4<<20 {
			t.Errorf("%d bytes are held, of lists of %d objects in all", bytes, manifests*objects)
		}
	})
	t.Run("of a snapshot does not grow with its root", func(t *testing.T) {
		const snapshots, size = 100, 256 << 10
		bytes := memoryOf(func() []*history.Snapshot {
			h := &host{name: "h", opened: map[seal.DomainID]*seal.Domain{}}
			var all []*history.Snapshot
			for n := range uint64(snapshots) {
				root := &statement.Root{Number: n + 1, SealedBody: make([]byte, size)}
				body := &statement.RootBody{Tags: []string{string(make([]byte, size))}}
				all = append(all, h.essence("web", &history.Snapshot{Number: n + 1, Root: root, Body: body}))
			}
			return all
		})
		t.Logf("%d bytes a snapshot", bytes/snapshots)
		if bytes/snapshots > 4<<10 {
			t.Errorf("%d bytes a snapshot, of roots of %d", bytes/snapshots, 2*size)
		}
	})
}
