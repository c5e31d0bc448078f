package index

import (
	"bytes"
	"fmt"
	"slices"

	"knowngood/storage/pack"
)

// spillEntries is how many chunks are kept in memory before they are written
// to a mapped file: about 13 MB of them.
const spillEntries = 128 << 10

// memtable holds what was added last. It is guarded by its Table until it is
// full, and not changed after.
type memtable struct {
	packs  []*pack.Ref
	frames []Frame
	chunks map[[32]byte]place
}

// place is where a chunk lies, as an Entry has it.
type place struct {
	frame  uint32
	offset uint32
	len    uint32
}

func newMemtable() *memtable { return &memtable{chunks: map[[32]byte]place{}} }

// checkPack makes sure that a pack's contents can be written into a run.
func checkPack(info *pack.Ref, frames []pack.Frame) error {
	end := uint64(0)
	for _, f := range frames {
		g := Frame{Offset: f.Offset, SealedLen: f.SealedLen, ContentLen: f.ContentLen}
		if err := checkFrame(g, end, info.Size); err != nil {
			return fmt.Errorf("pack %x: %w", info.Hash, err)
		}
		end = g.end()
		offset := uint64(0)
		for _, c := range f.Chunks {
			if c.Len == 0 || c.Len > pack.MaxChunk {
				return fmt.Errorf("pack %x: chunk of %d bytes", info.Hash, c.Len)
			}
			offset += uint64(c.Len)
		}
		if offset > uint64(f.ContentLen) {
			return fmt.Errorf("pack %x: chunks of %d bytes in a frame of %d", info.Hash, offset, f.ContentLen)
		}
	}
	return nil
}

// add adds the chunks of a pack that passes checkPack.
func (m *memtable) add(info *pack.Ref, frames []pack.Frame) {
	m.packs = append(m.packs, info)
	for _, f := range frames {
		number := uint32(len(m.frames))
		m.frames = append(m.frames, Frame{uint32(len(m.packs) - 1), f.Offset, f.SealedLen, f.ContentLen})
		offset := uint32(0)
		for _, c := range f.Chunks {
			m.chunks[c.ID] = place{number, offset, c.Len}
			offset += c.Len
		}
	}
}

// lookup finds a chunk.
func (m *memtable) lookup(id [32]byte) (loc Location, found bool) {
	p, found := m.chunks[id]
	if !found {
		return Location{}, false
	}
	f := m.frames[p.frame]
	return Location{Pack: m.packs[f.Pack], FrameOffset: f.Offset, FrameLen: f.SealedLen, Offset: p.offset, Len: p.len}, true
}

// body is the table in the form of a run. Frames without a chunk of their own
// are among it: the file that it goes to is private.
func (m *memtable) body() *Body {
	ids := make([][32]byte, 0, len(m.chunks))
	for id := range m.chunks {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	b := &Body{Frames: m.frames, Len: len(ids)}
	for _, p := range m.packs {
		b.Packs = append(b.Packs, *p)
	}
	b.Entries = func(yield func(Entry) bool) {
		for _, id := range ids {
			p := m.chunks[id]
			if !yield(Entry{ID: id, Frame: p.frame, Offset: p.offset, Len: p.len}) {
				return
			}
		}
	}
	return b
}
