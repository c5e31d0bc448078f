package index

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"os"
)

// The layout of a finder, in blocks, integers little-endian:
//
//	magic 8 | slots u64 | files u32
//	slots, and maxProbe more: u16, 1 to the number of files, 0 when empty | u16 of the ID
//	for each file: hash 32, zero when its IDs are too uneven: then it is not covered
//
// An ID takes the first free slot from its home on. Homes are in the order of the
// IDs, so a finder is written from its beginning to its end.
const (
	finderMagic  = "KNGDids1"
	finderHeader = 8 + 8 + 4
	slotLen      = 4

	// maxProbe is how many slots from its home on an ID may take. With even IDs,
	// and a third of the slots empty, none needs so many.
	maxProbe = 512
	// finderPart is how many slots are filled at once.
	finderPart = 1 << 20
	// maxCovered is the most files of a finder.
	maxCovered = 1<<16 - 1
)

// finder finds out which of many files may have an entry of a chunk, in one place:
// what is looked for in vain costs no more with a hundred files than with one.
type finder struct {
	*blocks
	name    string // in the cache; "" when only this process needs it
	slots   int
	covers  [][32]byte
	files   []*File // those of covers that count, else nil
	entries int     // of files; before there are any, about as many as covers had
}

// home is the first slot that an ID may take, and what a slot holds of it.
func home(id []byte, slots int) (at int, mark uint16) {
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(id), uint64(slots))
	return int(hi), binary.LittleEndian.Uint16(id[8:])
}

// writeFinder writes a finder of files. Those that it cannot cover it sets to nil.
func writeFinder(to io.Writer, files []*File) error {
	total := 0
	for _, f := range files {
		total += f.len()
	}
	slots := total + total/2 + 1
	w, le := newBlockWriter(to), binary.LittleEndian
	head := le.AppendUint64([]byte(finderMagic), uint64(slots))
	w.write(le.AppendUint32(head, uint32(len(files))))

	next := make([]int, len(files)) // entries
	part := make([]byte, (min(finderPart, slots)+maxProbe)*slotLen)
	for begin := 0; begin < slots; begin += finderPart {
		end := min(begin+finderPart, slots)
		for i, f := range files {
			for ; f != nil && next[i] < f.len(); next[i]++ {
				at, mark := home(f.id(next[i]), slots)
				if at >= end {
					break
				}
				if !takeSlot(part[(at-begin)*slotLen:][:maxProbe*slotLen], uint16(i+1), mark) {
					files[i], f = nil, nil
				}
			}
		}
		done := (end - begin) * slotLen
		w.write(part[:done])
		n := copy(part, part[done:done+maxProbe*slotLen])
		clear(part[n:])
	}
	w.write(part[:maxProbe*slotLen])

	for _, f := range files {
		var hash [32]byte
		if f != nil {
			hash = f.info.Hash
		}
		w.write(hash[:])
	}
	return w.finish()
}

// takeSlot puts a file into the first free slot.
func takeSlot(slots []byte, file, mark uint16) bool {
	le := binary.LittleEndian
	for ; len(slots) > 0; slots = slots[slotLen:] {
		switch in := le.Uint16(slots); {
		case in == 0:
			le.PutUint16(slots, file)
			le.PutUint16(slots[2:], mark)
			return true
		case in == file && le.Uint16(slots[2:]) == mark:
			return true
		}
	}
	return false
}

// mapFinder maps a finder, which counts for nothing until it is given files. f may
// be closed afterwards.
func mapFinder(f *os.File) (*finder, error) {
	b, err := mapBlocks(f)
	if err != nil {
		return nil, err
	}
	d := &finder{blocks: b}
	if !d.parse() {
		d.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), ErrDamaged)
	}
	return d, nil
}

func (d *finder) parse() bool {
	if !d.use(0, finderHeader) || string(d.data[:8]) != finderMagic {
		return false
	}
	slots, files := binary.LittleEndian.Uint64(d.data[8:]), int(binary.LittleEndian.Uint32(d.data[16:]))
	if slots > uint64(len(d.data)) {
		return false
	}
	list := finderHeader + (int(slots)+maxProbe)*slotLen
	if files > maxCovered || list+files*32 != len(d.data) || !d.use(list, files*32) {
		return false
	}
	d.slots, d.entries = int(slots), int(slots)/3*2
	for rest := d.data[list:]; len(rest) > 0; rest = rest[32:] {
		d.covers = append(d.covers, [32]byte(rest))
	}
	return true
}

// assign gives a finder those of the files that it covers that count, by their
// number.
func (d *finder) assign(count func(i int) *File) {
	d.files, d.entries = make([]*File, len(d.covers)), 0
	for i := range d.covers {
		if f := count(i); f != nil {
			d.files[i] = f
			d.entries += f.len()
		}
	}
}

// ask calls of with the files that may have an entry of a chunk.
func (d *finder) ask(id *[32]byte, of func(*File)) {
	at, mark := home(id[:], d.slots)
	at = finderHeader + at*slotLen
	if !d.use(at, maxProbe*slotLen) {
		for _, f := range d.files {
			if f != nil {
				of(f)
			}
		}
		return
	}
	for slots := d.data[at : at+maxProbe*slotLen]; len(slots) > 0; slots = slots[slotLen:] {
		n := int(binary.LittleEndian.Uint16(slots))
		if n == 0 {
			return
		}
		if binary.LittleEndian.Uint16(slots[2:]) == mark && n <= len(d.files) && d.files[n-1] != nil {
			of(d.files[n-1])
		}
	}
}
