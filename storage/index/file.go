package index

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that a file of the cache is not as it was written. Remove
// it and fetch the run again.
var ErrDamaged = errors.New("cached index run is damaged")

// The layout of a cached run, integers little-endian:
//
//	header: magic 8 | generation u64 | hash 32 | u32 counts of replaced runs, packs, frames, entries, gone
//	replaced runs: hash 32
//	packs: hash 32 | session 16 | salt 32 | size u64
//	frames: pack u32 | offset u32 | sealed length u32 | content length u32
//	entries, sorted by ID: ID 32 | frame u32, plus 1, 0 when gone | offset u32 | length u32
//	CRC-32C of all before, u32
//
// The checksum is verified when a file is opened: that takes milliseconds,
// and no lookup has to ask again. So files need no fsync: one that a power
// cut left torn does not open.
const (
	fileMagic  = "KNGDrun1"
	headerLen  = 8 + 8 + 32 + 5*4
	packLen    = 32 + 16 + 32 + 8
	frameLen   = 4 * 4
	entryLen   = 32 + 3*4
	trailerLen = 4
)

// Info is what there is to know about a run without looking into it.
type Info struct {
	Hash       [32]byte // of the run's object
	Generation uint64
	Replaces   [][32]byte
	Entries    int
	Gone       int // how many of the entries are gone
}

// File is a mapped run. Its methods may be called concurrently, but not
// during or after Close.
type File struct {
	info    Info
	mapping []byte
	copied  bool // mapping is memory of the process
	packs   []byte
	frames  []byte
	entries []byte
	// Bounds of the IDs' first 8 bytes, so that a run cut by ranges of IDs
	// answers most misses without touching its mapping.
	low, high uint64
	density   float64 // entries to a step of the first 8 bytes
	// known are the packs that lookups have met; see Table.shared.
	known []atomic.Pointer[PackInfo]
}

// Info describes the run.
func (f *File) Info() Info { return f.info }

// writeFile writes a run.
func writeFile(w io.Writer, info Info, x *Body) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	b := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	le := binary.LittleEndian
	buf := append(make([]byte, 0, 128), fileMagic...)
	buf = le.AppendUint64(buf, info.Generation)
	buf = append(buf, info.Hash[:]...)
	for _, n := range []int{len(info.Replaces), len(x.Packs), len(x.Frames), x.Len, x.Gone} {
		buf = le.AppendUint32(buf, uint32(n))
	}
	b.Write(buf)
	for _, h := range info.Replaces {
		b.Write(h[:])
	}
	for _, p := range x.Packs {
		buf = append(buf[:0], p.Hash[:]...)
		buf = append(buf, p.Session[:]...)
		buf = append(buf, p.Salt[:]...)
		b.Write(le.AppendUint64(buf, p.Size))
	}
	for _, f := range x.Frames {
		buf = le.AppendUint32(buf[:0], f.Pack)
		buf = le.AppendUint32(buf, f.Offset)
		buf = le.AppendUint32(buf, f.SealedLen)
		b.Write(le.AppendUint32(buf, f.ContentLen))
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
		b.Write(le.AppendUint32(buf, e.Len))
		n++
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if n != x.Len {
		return fmt.Errorf("index run of %d chunks, announced as %d", n, x.Len)
	}
	_, err := w.Write(le.AppendUint32(nil, sum.Sum32()))
	return err
}

// mapFile maps and checks a run. f may be closed afterwards.
func mapFile(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < headerLen+trailerLen || st.Size() > math.MaxInt {
		return nil, fmt.Errorf("%s: %w: %d bytes long", f.Name(), ErrDamaged, st.Size())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return copyFile(f, st.Size())
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	x, err := parseFile(m)
	if err != nil {
		unix.Munmap(m)
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return x, nil
}

// maxRun is the longest file of a run, in bytes.
const maxRun = 256 << 20

// copyFile reads a run of another user's, who could shorten or change it while it
// is mapped.
func copyFile(f *os.File, size int64) (*File, error) {
	if size > maxRun {
		return nil, fmt.Errorf("%s: %w: %d bytes long", f.Name(), ErrDamaged, size)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", f.Name(), ErrDamaged, err)
	}
	x, err := parseFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	x.copied = true
	return x, nil
}

func parseFile(m []byte) (*File, error) {
	le := binary.LittleEndian
	body := m[:len(m)-trailerLen]
	if string(m[:8]) != fileMagic || le.Uint32(m[len(body):]) != crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) {
		return nil, ErrDamaged
	}
	var counts [5]int
	for i := range counts {
		counts[i] = int(le.Uint32(m[48+4*i:]))
	}
	replaced, packs, frames, entries := counts[0]*32, counts[1]*packLen, counts[2]*frameLen, counts[3]*entryLen
	if headerLen+replaced+packs+frames+entries != len(body) {
		return nil, ErrDamaged
	}
	x := &File{
		info:    Info{Hash: [32]byte(m[16:48]), Generation: le.Uint64(m[8:]), Entries: counts[3], Gone: counts[4]},
		mapping: m,
		known:   make([]atomic.Pointer[PackInfo], counts[1]),
	}
	rest := body[headerLen:]
	for h := rest[:replaced]; len(h) > 0; h = h[32:] {
		x.info.Replaces = append(x.info.Replaces, [32]byte(h))
	}
	rest = rest[replaced:]
	x.packs, rest = rest[:packs], rest[packs:]
	x.frames, x.entries = rest[:frames], rest[frames:]
	x.low = 1 // an empty run holds nothing
	if n := x.len(); n > 0 {
		x.low, x.high = x.key(0), x.key(n-1)
	}
	if x.high > x.low {
		x.density = float64(x.len()) / float64(x.high-x.low)
	}
	return x, x.checkNumbers()
}

// checkNumbers makes sure that no lookup can leave the tables.
func (f *File) checkNumbers() error {
	for i := range f.frameCount() {
		if int(f.frame(i).Pack) >= len(f.known) {
			return ErrDamaged
		}
	}
	for i := range f.len() {
		if int(binary.LittleEndian.Uint32(f.entries[i*entryLen+32:])) > f.frameCount() {
			return ErrDamaged
		}
	}
	return nil
}

// Close ends the mapping.
func (f *File) Close() error {
	if f.copied {
		return nil
	}
	return unix.Munmap(f.mapping)
}

func (f *File) len() int { return len(f.entries) / entryLen }

// key is the beginning of an entry's ID as a number.
func (f *File) key(i int) uint64 { return binary.BigEndian.Uint64(f.entries[i*entryLen:]) }

func (f *File) id(i int) []byte { return f.entries[i*entryLen : i*entryLen+32] }

func (f *File) entry(i int) Entry {
	b := f.entries[i*entryLen : (i+1)*entryLen]
	e := Entry{ID: [32]byte(b), Offset: binary.LittleEndian.Uint32(b[36:]), Len: binary.LittleEndian.Uint32(b[40:])}
	if n := binary.LittleEndian.Uint32(b[32:]); n > 0 {
		e.Frame = n - 1
	} else {
		e.Gone = true
	}
	return e
}

func (f *File) frameCount() int { return len(f.frames) / frameLen }

func (f *File) frame(i int) Frame {
	b := f.frames[i*frameLen : (i+1)*frameLen]
	le := binary.LittleEndian
	return Frame{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}
}

func (f *File) pack(i int) (p PackInfo) {
	b := f.packs[i*packLen : (i+1)*packLen]
	copy(p.Hash[:], b)
	copy(p.Session[:], b[32:])
	copy(p.Salt[:], b[48:])
	p.Size = binary.LittleEndian.Uint64(b[80:])
	return p
}

// packOf is the hash of the pack that an entry names.
func (f *File) packOf(e Entry) [32]byte {
	return [32]byte(f.packs[int(f.frame(int(e.Frame)).Pack)*packLen:])
}

// find returns the position of id.
func (f *File) find(id *[32]byte) (int, bool) {
	if k := binary.BigEndian.Uint64(id[:]); k < f.low || k > f.high {
		return 0, false
	}
	i := f.seek(id)
	return i, i < f.len() && bytes.Equal(f.id(i), id[:])
}

// seek returns the position of the first entry at or after id. IDs are output
// of a keyed hash and so spread evenly: with n entries a guess is off by about
// the square root of n/4, a second from there by the root of that, and so on.
// From the third guess on it looks around in doubling steps, so that uneven
// IDs cost time only.
func (f *File) seek(id *[32]byte) int {
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
