package prune

import (
	"iter"
	"math/bits"

	"knowngood/storage/deletion"
	"knowngood/storage/pack"
)

// names are the objects that manifests name, each once: the snapshots of an
// environment name nearly the same.
type names struct {
	ids []deletion.ObjectID
	at  map[deletion.ObjectID]int // positions in ids
}

// set is some of these objects: a bit for each.
type set struct {
	of   *names
	bits []uint64
}

func (n *names) set(objects []pack.Object) set {
	if n.at == nil {
		n.at = map[deletion.ObjectID]int{}
	}
	s := set{of: n}
	for _, o := range objects {
		id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
		i, known := n.at[id]
		if !known {
			i = len(n.ids)
			n.ids, n.at[id] = append(n.ids, id), i
		}
		if more := i/64 + 1 - len(s.bits); more > 0 {
			s.bits = append(s.bits, make([]uint64, more)...)
		}
		s.bits[i/64] |= 1 << (i % 64)
	}
	return s
}

// all yields the objects of the set.
func (s set) all() iter.Seq[deletion.ObjectID] {
	return func(yield func(deletion.ObjectID) bool) {
		for i, word := range s.bits {
			for ; word != 0; word &= word - 1 {
				if !yield(s.of.ids[64*i+bits.TrailingZeros64(word)]) {
					return
				}
			}
		}
	}
}
