package statement

import (
	"bytes"
	"slices"

	"knowngood/internal/wire"
)

// Repack records that packs were rewritten. Each chunk that one of Manifests needs
// from an old pack has a copy in one of the new packs of the same Move. So such a
// manifest needs all of these new packs instead of the old pack. The new packs may
// have been rewritten since. A Repack does not apply to any other manifest.
type Repack struct {
	Manifests [][32]byte // the containers of their tables
	Moves     []Move
}

// Move names packs and the packs that they were rewritten into. New is empty where
// nothing of the old packs is needed.
type Move struct{ Old, New [][32]byte }

func (m *Move) hashes() int { return len(m.Old) + len(m.New) }

// Hashes is how many the Repack names.
func (x *Repack) Hashes() int {
	n := len(x.Manifests)
	for i := range x.Moves {
		n += x.Moves[i].hashes()
	}
	return n
}

// Split returns repacks of at most limit hashes each that are equal to x together.
// This works because a Repack applies to each of its manifests and old packs
// separately. The new packs of a move must be fewer than half of limit.
func (x Repack) Split(limit int) []Repack {
	if x.Hashes() <= limit {
		return []Repack{x}
	}
	var moves []Move
	for _, m := range x.Moves {
		for old := range slices.Chunk(m.Old, max(limit/2-len(m.New), 1)) {
			moves = append(moves, Move{old, m.New})
		}
	}
	var out []Repack
	for manifests := range slices.Chunk(x.Manifests, limit/2) {
		part := Repack{Manifests: manifests}
		for _, m := range moves {
			if part.Hashes()+m.hashes() > limit && len(part.Moves) > 0 {
				out, part.Moves = append(out, part), nil
			}
			part.Moves = append(part.Moves, m)
		}
		out = append(out, part)
	}
	return out
}

func compareHashes(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }

// repacks name at most MaxDeletionObjects hashes in all.
func repacks(c *wire.Codec, tag uint64, list *[]Repack) {
	room := MaxDeletionObjects
	hashes := func(d *wire.Decoder, least int) [][32]byte {
		n := d.Count(32)
		if room -= n; n < least || room < 0 {
			d.Fail("a list of %d hashes", n)
		}
		if d.Err() != nil || n == 0 {
			return nil
		}
		list := make([][32]byte, n)
		for i := range list {
			d.Copy(list[i][:])
			if i > 0 && compareHashes(list[i-1], list[i]) >= 0 {
				d.Fail("hashes out of order")
			}
		}
		return list
	}
	move := func(d *wire.Decoder, m *Move) {
		m.Old, m.New = hashes(d, 1), hashes(d, 0)
		if slices.ContainsFunc(m.New, func(h [32]byte) bool { _, in := slices.BinarySearchFunc(m.Old, h, compareHashes); return in }) {
			d.Fail("a pack rewritten into itself")
		}
	}
	wire.List(c, tag, list, 1+32+1+1+32+1, MaxDeletionObjects, func(b []byte, x *Repack) []byte {
		b = appendHashes(b, x.Manifests)
		b = wire.AppendUvarint(b, uint64(len(x.Moves)))
		for _, m := range x.Moves {
			b = appendHashes(appendHashes(b, m.Old), m.New)
		}
		return b
	}, func(d *wire.Decoder, x *Repack) {
		x.Manifests = hashes(d, 1)
		x.Moves = wire.TakeList(d, 1+32+1, MaxDeletionObjects, move)
	})
}

func appendHashes(b []byte, hashes [][32]byte) []byte {
	b = wire.AppendUvarint(b, uint64(len(hashes)))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}
