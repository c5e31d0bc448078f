// Package chunk cuts content into chunks where the content decides, and names
// chunks by their content. It is pure: no I/O, no goroutines, no clock, and it
// allocates nothing per chunk.
//
// # Where content is cut
//
// The algorithm is of the FastCDC family (Xia et al., USENIX ATC 2016 and IEEE
// TPDS 2020): a gear hash with normalised chunking of level 2. It is defined
// exactly as follows; the on-store format refers to this text.
//
// The gear table G has 256 entries. Entry i is the little-endian uint64 at
// byte 8*i of the first 2048 bytes of the extended output of BLAKE3 in keyed
// mode, under the 32-byte gear key, over the 17 ASCII bytes
// "knowngood gear v1".
//
// The gear hash of a position L >= 64 of a chunk depends on the 64 bytes
// b[L-64] ... b[L-1] before it. Modulo 2^64 it is
//
//	H(L) = sum over i = 0 ... 63 of G[b[L-1-i]] * 2^i
//
// Let Avg be 2^a. A chunk ends at the least L, counted from its own first
// byte, for which one of these holds:
//
//	Min <= L < Avg  and  the highest a+2 bits of H(L) are zero
//	Avg <= L < Max  and  the highest a-2 bits of H(L) are zero
//	L = Max
//	the content ends at L
//
// So chunks are at most Max bytes long, all but the last at least Min, cut
// points depend only on content from the chunk's start, and after an insertion
// or removal chunks soon fall into step again. Empty content has no chunks. On
// random content the mean is about 1.15 times Avg at the default parameters.
package chunk

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"lukechampine.com/blake3"
)

// Window is how many bytes before a position decide whether it is a cut point.
const Window = 64

// MaxSize is the most bytes that any parameters allow a chunk to have.
const MaxSize = 8 << 20

// Params are the sizes of chunks in bytes. They are recorded in a repository:
// data cut with other parameters, or another gear key, does not deduplicate.
type Params struct {
	Min, Avg, Max uint32
}

// DefaultParams are 256 KiB, 1 MiB and 4 MiB.
func DefaultParams() Params {
	return Params{Min: 256 << 10, Avg: 1 << 20, Max: 4 << 20}
}

// Validate refuses parameters unless 64 <= Min < Avg < Max <= MaxSize and Avg
// is a power of two.
func (p Params) Validate() error {
	var reason string
	switch {
	case p.Min < Window:
		reason = fmt.Sprintf("the minimum must be at least %d bytes", Window)
	case p.Min >= p.Avg:
		reason = "the minimum must be less than the average"
	case p.Avg >= p.Max:
		reason = "the average must be less than the maximum"
	case p.Max > MaxSize:
		reason = fmt.Sprintf("the maximum must be at most %d bytes", MaxSize)
	case bits.OnesCount32(p.Avg) != 1:
		reason = "the average must be a power of two"
	default:
		return nil
	}
	return fmt.Errorf("chunk sizes %d/%d/%d (minimum/average/maximum): %s", p.Min, p.Avg, p.Max, reason)
}

// Chunker finds cut points. It is immutable and may be used by any number of
// goroutines at once.
type Chunker struct {
	min, avg, max int
	// A position below avg is a cut point when its hash is less than early;
	// from avg on, when it is less than late. Comparing is the same as asking
	// for zeros in the highest bits, in one instruction.
	early, late uint64
	gear        [256]uint64
}

// New returns a chunker, or the error of params.Validate.
func New(params Params, gearKey [32]byte) (*Chunker, error) {
	if err := params.Validate(); err != nil {
		return nil, err
	}
	a := bits.TrailingZeros32(params.Avg)
	c := &Chunker{
		min:   int(params.Min),
		avg:   int(params.Avg),
		max:   int(params.Max),
		early: 1 << (64 - (a + 2)),
		late:  1 << (64 - (a - 2)),
	}
	h := blake3.New(32, gearKey[:])
	h.Write([]byte("knowngood gear v1"))
	var table [8 * 256]byte
	if _, err := h.XOF().Read(table[:]); err != nil {
		return nil, fmt.Errorf("expanding the gear key: %w", err)
	}
	for i := range c.gear {
		c.gear[i] = binary.LittleEndian.Uint64(table[8*i:])
	}
	return c, nil
}

// Cut returns the length in bytes of the first chunk of buf, which must begin
// at the start of the content or at a cut point. final means that the content
// ends with buf. Cut returns 0 when it needs more bytes to decide, which is
// only when buf is shorter than Params.Max, not final and without a cut point, or
// when buf is empty.
func (c *Chunker) Cut(buf []byte, final bool) int {
	end := 0 // where the chunk ends when there is no cut point
	if len(buf) >= c.max {
		buf, end = buf[:c.max], c.max
	} else if final {
		end = len(buf)
	}
	if len(buf) < c.min {
		return end
	}
	n := scan(&c.gear, buf[:min(c.avg-1, len(buf))], c.min, c.early)
	if n == 0 && len(buf) >= c.avg {
		n = scan(&c.gear, buf, c.avg, c.late)
	}
	if n == 0 {
		return end
	}
	return n
}

// lane is how many bytes each of the four hashes of a block advances. Every
// block hashes 3*Window bytes twice and the block that holds the cut point is
// hashed again byte by byte; 2048 keeps both small.
const lane = 2048

// scan returns the least position from first to len(buf) whose hash is less
// than limit, or 0. first is at least Window and at most len(buf).
//
// A single gear hash is bound by the latency of its own additions. Since a
// hash depends on 64 bytes only, a block is cut into four lanes that are
// hashed side by side, each from 64 bytes before its start; that is 1.7 times
// as fast. Only the (rare) block with a cut point needs to know which came
// first.
func scan(gear *[256]uint64, buf []byte, first int, limit uint64) int {
	var h uint64
	for _, b := range buf[first-Window : first-1] {
		h = h<<1 + gear[b]
	}
	rest := buf[first-1:]
	for len(rest) >= 4*lane {
		next, found := scanBlock(gear, (*[4 * lane]byte)(rest), h, limit)
		if found {
			break
		}
		h = next
		rest = rest[4*lane:]
	}
	for i, b := range rest {
		h = h<<1 + gear[b]
		if h < limit {
			return len(buf) - len(rest) + i + 1
		}
	}
	return 0
}

// scanBlock hashes a block that follows a position with hash h0. It returns
// the hash at the block's end, or whether any hash in it is less than limit.
func scanBlock(gear *[256]uint64, block *[4 * lane]byte, h0, limit uint64) (uint64, bool) {
	l0 := (*[lane]byte)(block[0*lane:])
	l1 := (*[lane]byte)(block[1*lane:])
	l2 := (*[lane]byte)(block[2*lane:])
	l3 := (*[lane]byte)(block[3*lane:])
	var h1, h2, h3 uint64
	for i := lane - Window; i < lane; i++ {
		h1 = h1<<1 + gear[l0[i]]
		h2 = h2<<1 + gear[l1[i]]
		h3 = h3<<1 + gear[l2[i]]
	}
	for i := range lane {
		h0 = h0<<1 + gear[l0[i]]
		h1 = h1<<1 + gear[l1[i]]
		h2 = h2<<1 + gear[l2[i]]
		h3 = h3<<1 + gear[l3[i]]
		if h0 < limit || h1 < limit || h2 < limit || h3 < limit {
			return 0, true
		}
	}
	return h3, false
}
