package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// The layout of a cached run, in blocks, integers little-endian:
//
//	header: magic 8 | generation u64 | hash 32 | stored size u64 | u32 counts of replaced runs, packs, frames, entries, gone
//	replaced runs: hash 32
//	packs: hash 32 | session 16 | salt 32 | size u64
//	frames: pack u32 | offset u32 | sealed length u32 | content length u32
//	entries, sorted by ID: ID 32 | frame u32, plus 1, 0 when gone | offset u32 | length u32
const (
	fileMagic = "KNGDrun2"
	headerLen = 8 + 8 + 32 + 8 + 5*4
	packLen   = 32 + 16 + 32 + 8
	frameLen  = 4 * 4
	entryLen  = 32 + 3*4
)

// Info is what there is to know about a run without looking into it.
type Info struct {
	Hash       [32]byte // of the run's object
	Generation uint64
	Size       uint64 // of the object, stored
	Replaces   [][32]byte
	Entries    int
	Gone       int // how many of the entries are gone
}

// rows are a part of a file: so many, each of some bytes, from an offset.
type rows struct{ from, count, len int }

func (r rows) end() int { return r.from + r.count*r.len }

// File is a mapped run. Its methods may be called concurrently, but not
// during or after Close. Where it turns out to be damaged it holds nothing any
// more.
type File struct {
	*blocks
	info                   Info
	packs, frames, entries rows

	// Bounds of the IDs' first 8 bytes, so that a run cut by ranges of IDs
	// answers most misses without touching its mapping.
	bound     sync.Once
	low, high uint64
	density   float64 // entries to a step of the first 8 bytes

	held string // its name in the cache until it is published; "" for others

	// Guarded by the Table.
	order   int  // of its files: the lower one holds
	covered bool // by a finder
}

// Info describes the run.
func (f *File) Info() Info { return f.info }

// writeFile writes a run.
func writeFile(to io.Writer, info Info, x *Body) error {
	w := newBlockWriter(to)
	le := binary.LittleEndian
	buf := append(make([]byte, 0, 128), fileMagic...)
	buf = le.AppendUint64(buf, info.Generation)
	buf = append(buf, info.Hash[:]...)
	buf = le.AppendUint64(buf, info.Size)
	for _, n := range []int{len(info.Replaces), len(x.Packs), len(x.Frames), x.Len, x.Gone} {
		buf = le.AppendUint32(buf, uint32(n))
	}
	w.write(buf)
	for _, h := range info.Replaces {
		w.write(h[:])
	}
	for _, p := range x.Packs {
		buf = append(buf[:0], p.Hash[:]...)
		buf = append(buf, p.Session[:]...)
		buf = append(buf, p.Salt[:]...)
		w.write(le.AppendUint64(buf, p.Size))
	}
	for _, f := range x.Frames {
		buf = le.AppendUint32(buf[:0], f.Pack)
		buf = le.AppendUint32(buf, f.Offset)
		buf = le.AppendUint32(buf, f.SealedLen)
		w.write(le.AppendUint32(buf, f.ContentLen))
	}
	n := 0
	for e := range x.Entries {
		frame := e.Frame + 1
		if e.Gone {
			frame = 0
		}
		buf = append(buf[:0], e.ID[:]...)
		buf = le.AppendUint32(buf, frame)
		buf = le.AppendUint32(buf, e.Offset)
		w.write(le.AppendUint32(buf, e.Len))
		n++
	}
	if n != x.Len {
		return fmt.Errorf("index run of %d chunks, announced as %d", n, x.Len)
	}
	return w.finish()
}

// mapFile maps a run. f may be closed afterwards.
func mapFile(f *os.File) (*File, error) {
	b, err := mapBlocks(f)
	if err != nil {
		return nil, err
	}
	x := &File{blocks: b}
	if !x.parse() {
		x.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), ErrDamaged)
	}
	return x, nil
}

func (f *File) parse() bool {
	if !f.use(0, headerLen) || string(f.data[:8]) != fileMagic {
		return false
	}
	le := binary.LittleEndian
	var counts [5]int
	for i := range counts {
		counts[i] = int(le.Uint32(f.data[56+4*i:]))
	}
	replaced := rows{headerLen, counts[0], 32}
	f.packs = rows{replaced.end(), counts[1], packLen}
	f.frames = rows{f.packs.end(), counts[2], frameLen}
	f.entries = rows{f.frames.end(), counts[3], entryLen}
	if f.entries.end() != len(f.data) {
		return false
	}
	f.info = Info{Hash: [32]byte(f.data[16:48]), Generation: le.Uint64(f.data[8:]), Size: le.Uint64(f.data[48:]), Entries: counts[3], Gone: counts[4]}
	for i := range counts[0] {
		f.info.Replaces = append(f.info.Replaces, [32]byte(f.row(replaced, i)))
	}
	return !f.damaged.Load()
}

// row is one of some rows; zeros where it is not there, or damaged.
func (f *File) row(of rows, i int) []byte {
	if i >= of.count || !f.use(of.from+i*of.len, of.len) {
		f.damaged.Store(true)
		return make([]byte, of.len)
	}
	return f.data[of.from+i*of.len:][:of.len]
}

func (f *File) len() int { return f.entries.count }

// key is the beginning of an entry's ID as a number.
func (f *File) key(i int) uint64 { return binary.BigEndian.Uint64(f.row(f.entries, i)) }

func (f *File) id(i int) []byte { return f.row(f.entries, i)[:32] }

func (f *File) entry(i int) Entry {
	b := f.row(f.entries, i)
	e := Entry{ID: [32]byte(b), Offset: binary.LittleEndian.Uint32(b[36:]), Len: binary.LittleEndian.Uint32(b[40:])}
	if n := binary.LittleEndian.Uint32(b[32:]); n > 0 {
		e.Frame = n - 1
	} else {
		e.Gone = true
	}
	return e
}

func (f *File) frame(i int) Frame {
	b := f.row(f.frames, i)
	le := binary.LittleEndian
	return Frame{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}
}

func (f *File) pack(i int) (p pack.Ref) {
	b := f.row(f.packs, i)
	p.Kind = wire.KindPack
	copy(p.Hash[:], b)
	copy(p.Session[:], b[32:])
	copy(p.Salt[:], b[48:])
	p.Size = binary.LittleEndian.Uint64(b[80:])
	return p
}

// locate is where the chunk of an entry that is not gone lies.
func (f *File) locate(e Entry) (pack.Ref, Frame) {
	frame := f.frame(int(e.Frame))
	return f.pack(int(frame.Pack)), frame
}

// find returns the position of id.
func (f *File) find(id *[32]byte) (int, bool) {
	f.bound.Do(f.setBounds)
	if k := binary.BigEndian.Uint64(id[:]); k < f.low || k > f.high {
		return 0, false
	}
	i := f.seek(id)
	return i, i < f.len() && bytes.Equal(f.id(i), id[:]) && !f.damaged.Load()
}

func (f *File) setBounds() {
	f.low = 1 // an empty run holds nothing
	if n := f.len(); n > 0 {
		f.low, f.high = f.key(0), f.key(n-1)
	}
	if f.high > f.low {
		f.density = float64(f.len()) / float64(f.high-f.low)
	}
}

// seek returns the position of the first entry at or after id. IDs are output
// of a keyed hash and so spread evenly: with n entries a guess is off by about
// the square root of n/4, a second from there by the root of that, and so on.
// From the third guess on it looks around in doubling steps, so that uneven
// IDs cost time only.
func (f *File) seek(id *[32]byte) int {
	f.bound.Do(f.setBounds)
	n, k := f.len(), binary.BigEndian.Uint64(id[:])
	if n == 0 || k < f.low {
		return 0
	}
	if k > f.high {
		return n
	}
	at := f.clamp(int(float64(k-f.low) * f.density))
	for range 2 {
		if have := f.key(at); have < k {
			at = f.clamp(at + int(float64(k-have)*f.density))
		} else {
			at = f.clamp(at - int(float64(have-k)*f.density))
		}
	}
	lo, hi := 0, n // the place is at or after lo, at or before hi
	if f.before(at, id) {
		lo = at + 1
		for step := 2; lo+step < hi; step *= 2 {
			if !f.before(lo+step, id) {
				hi = lo + step
				break
			}
			lo += step + 1
		}
	} else {
		hi = at
		for step := 2; hi-step > lo; step *= 2 {
			if f.before(hi-step, id) {
				lo = hi - step + 1
				break
			}
			hi -= step
		}
	}
	for lo < hi {
		if mid := (lo + hi) / 2; f.before(mid, id) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// before reports whether entry i stands before id.
func (f *File) before(i int, id *[32]byte) bool { return bytes.Compare(f.id(i), id[:]) < 0 }

func (f *File) clamp(i int) int { return max(0, min(i, f.len()-1)) }
