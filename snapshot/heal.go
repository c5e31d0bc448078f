package snapshot

import (
	"sync"
	"sync/atomic"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
)

// Healed is what a capture stored again because the store had lost it.
type Healed struct {
	Packs uint64 // packs and manifest containers of which something was stored again
	Bytes uint64 // of content
}

// healing counts it.
type healing struct {
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

// healed counts a chunk that was stored, if it lay in a lost pack: by the index,
// or by what the last manifest says of the file.
func (c *capture) healed(f *file, id [32]byte, n int) {
	if hash, ok := c.index.LostPack(id); ok {
		c.healing.add(hash, n)
		return
	}
	for i := range f.lost {
		if x := &f.lost[i]; x.ID == id {
			c.healing.add(x.Loc.Pack.Hash, n)
			return
		}
	}
}

// lostOf are the chunks of an entry that lie in packs that the store lost.
func (c *capture) lostOf(e *manifest.Entry) (lost []manifest.Chunk) {
	for i := range e.Chunks {
		if x := &e.Chunks[i]; c.index.Lost(wire.KindPack, x.Loc.Pack.Hash) {
			lost = append(lost, *x)
		}
	}
	return lost
}
