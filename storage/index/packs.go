package index

import "slices"

// PackSizes are the stored bytes of every pack that is known: whose contents
// are in a run or were added, and that is not lost.
func (t *Table) PackSizes() map[[32]byte]uint64 {
	sizes := map[[32]byte]uint64{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, files := range [2][]*File{t.layers, t.runs} {
		for _, f := range files {
			for i := range f.packs.count {
				p := f.pack(i)
				sizes[p.Hash] = p.Size
			}
		}
	}
	for _, m := range append([]*memtable{t.mem}, t.frozen...) {
		for _, p := range m.packs {
			sizes[p.Hash] = p.Size
		}
	}
	for h := range t.lost {
		delete(sizes, h)
	}
	return sizes
}

// HeldPacks are the packs of PackSizes that no run names: what was added, or is held.
func (t *Table) HeldPacks() map[[32]byte]uint64 {
	sizes := t.PackSizes()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, f := range t.runs {
		for i := range f.packs.count {
			delete(sizes, f.pack(i).Hash)
		}
	}
	return sizes
}

// Contents is how many bytes of content the frames of some packs hold, as far as
// they are known; what was added since the last spill is not.
func (t *Table) Contents(packs map[[32]byte]bool) map[[32]byte]uint64 {
	type frame struct {
		pack   [32]byte
		offset uint32
	}
	seen := map[frame]bool{} // several runs may name it
	out := map[[32]byte]uint64{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, f := range slices.Concat(t.layers, t.runs) {
		for i := range f.frames.count {
			x := f.frame(i)
			at := frame{f.pack(int(x.Pack)).Hash, x.Offset}
			if packs[at.pack] && !seen[at] {
				seen[at] = true
				out[at.pack] += uint64(x.ContentLen)
			}
		}
	}
	return out
}

// All yields every entry of every live run, and of what is held, with where it locates the
// chunk lies; chunks that are gone are left out. It holds the table meanwhile.
func (t *Table) All(yield func(id [32]byte, loc Location) bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, f := range slices.Concat(t.layers, t.runs) {
		for i := range f.len() {
			e := f.entry(i)
			if e.Gone {
				continue
			}
			p, frame := f.locate(e)
			if !yield(e.ID, Location{t.packs.shared(p), frame.Offset, frame.SealedLen, e.Offset, e.Len}) {
				return
			}
		}
	}
}
