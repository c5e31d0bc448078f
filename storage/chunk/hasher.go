package chunk

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"lukechampine.com/blake3/guts"
)

// group is how many bytes the BLAKE3 library hashes side by side.
const group = guts.MaxSIMD * guts.ChunkSize

// Hasher names chunks by their content. It is immutable, apart from scratch
// space, and may be used by any number of goroutines at once.
type Hasher struct {
	key     [8]uint32
	scratch sync.Pool // of *[group]byte
}

// NewHasher returns the hasher of a chunk-ID key.
func NewHasher(idKey [32]byte) *Hasher {
	h := &Hasher{scratch: sync.Pool{New: func() any { return new([group]byte) }}}
	for i := range h.key {
		h.key[i] = binary.LittleEndian.Uint32(idKey[4*i:])
	}
	return h
}

// ID returns the keyed BLAKE3-256 of a chunk's plaintext.
//
// The library's own Hasher starts goroutines and allocates for every input
// over 1 KiB, which is a loss where all cores hash chunks already. So the
// tree of BLAKE3 (its specification, section 5.1.2) is built here, from the
// library's primitives.
func (h *Hasher) ID(chunk []byte) [32]byte {
	const flags = guts.FlagKeyedHash
	if len(chunk) <= guts.ChunkSize {
		return root(guts.CompressChunk(chunk, &h.key, 0, flags))
	}
	// subtrees[i] is the chaining value of 2^i whole groups when bit i of done
	// is set. The last group, whole or not, stays out: it may hold the root.
	var subtrees [bits.UintSize][8]uint32
	var done uint
	for ; len(chunk) > group; chunk = chunk[group:] {
		node := guts.CompressBuffer((*[group]byte)(chunk), group, &h.key, uint64(done)*guts.MaxSIMD, flags)
		cv := guts.ChainingValue(node)
		height := 0
		for ; done>>height&1 == 1; height++ {
			cv = guts.ChainingValue(guts.ParentNode(subtrees[height], cv, &h.key, flags))
		}
		subtrees[height] = cv
		done++
	}
	// The library reads a whole group whatever its length.
	last := h.scratch.Get().(*[group]byte)
	n := copy(last[:], chunk)
	node := guts.CompressBuffer(last, n, &h.key, uint64(done)*guts.MaxSIMD, flags)
	h.scratch.Put(last)
	for height := range bits.Len(done) {
		if done>>height&1 == 1 {
			node = guts.ParentNode(subtrees[height], guts.ChainingValue(node), &h.key, flags)
		}
	}
	return root(node)
}

// root ends a hash with the node at the top of its tree.
func root(node guts.Node) [32]byte {
	node.Flags |= guts.FlagRoot
	out := guts.WordsToBytes(guts.CompressNode(node))
	return [32]byte(out[:])
}
