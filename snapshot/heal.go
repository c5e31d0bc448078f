package snapshot

import (
	"knowngood/storage/objects"
	"sync"
	"sync/atomic"
)

// Healed is what a capture stored again because the store had lost it.
type Healed struct {
	Packs uint64 // packs and manifest containers of which something was stored again
	Bytes uint64 // of content
}

// healing counts it.
type healing struct {
	index *objects.Index
	bytes atomic.Uint64
	mu    sync.Mutex
	packs map[[32]byte]bool
}

func (h *healing) add(pack [32]byte, n int) {
	h.bytes.Add(uint64(n))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.packs == nil {
		h.packs = map[[32]byte]bool{}
	}
	h.packs[pack] = true
}

func (h *healing) total() Healed {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Healed{uint64(len(h.packs)), h.bytes.Load()}
}

// chunk counts a chunk of a file that was stored, if it lay in a lost pack: by the
// index, or by what the last manifest has of the file.
func (h *healing) chunk(f *file, id [32]byte, n int) {
	if hash, ok := h.index.LostPack(id); ok {
		h.add(hash, n)
		return
	}
	for i := range f.lost {
		if x := &f.lost[i]; x.ID == id {
			h.add(x.Loc.Pack.Hash, n)
			return
		}
	}
}
