package index

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// MaxEntries is the most chunks a run may hold. Frames and packs are
// there for its chunks, so there are no more of either.
const MaxEntries = 524_288

// Frame is a frame that holds chunks of a run.
type Frame struct {
	Pack       uint32 // position in the run's packs
	Offset     uint32 // of the sealed frame, in the pack
	SealedLen  uint32
	ContentLen uint32
}

func (f Frame) end() uint64 { return uint64(f.Offset) + uint64(f.SealedLen) }

// Entry is where a chunk lies, or that it is gone.
type Entry struct {
	ID     [32]byte
	Frame  uint32 // position in the run's frames
	Offset uint32 // in the frame's content
	Len    uint32
	Gone   bool // the other fields but ID are zero
}

// Body is the content of an index run (docs/FORMAT.md section 9).
type Body struct {
	Packs []pack.Ref
	// Frames in order of their packs; those of a pack by offset, without overlap.
	Frames []Frame
	// Len is the number of entries, Gone how many of them are gone.
	Len, Gone int
	// Entries yields the entries sorted by ID. It can be asked repeatedly.
	Entries iter.Seq[Entry]
}

// Append appends the encoded body to b. A body that Parse would refuse is an
// error.
func (x *Body) Append(b []byte) ([]byte, error) {
	if x.Len > MaxEntries || len(x.Frames) > MaxEntries || len(x.Packs) > MaxEntries {
		return nil, fmt.Errorf("index run of %d chunks in %d frames of %d packs: at most %d of each fit", x.Len, len(x.Frames), len(x.Packs), MaxEntries)
	}
	b = slices.Grow(b, 90*len(x.Packs)+12*len(x.Frames)+42*x.Len)
	b = wire.AppendUvarint(b, uint64(len(x.Packs)))
	rest := x.Frames
	for i, p := range x.Packs {
		b = append(b, p.Hash[:]...)
		b = append(b, p.Session[:]...)
		b = append(b, p.Salt[:]...)
		b = wire.AppendUvarint(b, p.Size)
		n := 0
		for n < len(rest) && rest[n].Pack == uint32(i) {
			n++
		}
		b = wire.AppendUvarint(b, uint64(n))
		end := uint64(0)
		for _, f := range rest[:n] {
			if err := checkFrame(f, end, p.Size); err != nil {
				return nil, fmt.Errorf("index run: %w", err)
			}
			b = wire.AppendUvarint(b, uint64(f.Offset)-end)
			b = wire.AppendUvarint(b, uint64(f.SealedLen))
			b = wire.AppendUvarint(b, uint64(f.ContentLen))
			end = f.end()
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return nil, errors.New("index run: frames that stand in no order of packs")
	}
	return x.appendEntries(b)
}

func (x *Body) appendEntries(b []byte) ([]byte, error) {
	b = wire.AppendUvarint(b, uint64(x.Len))
	n, gone := 0, 0
	var last [32]byte
	for e := range x.Entries {
		if n > 0 && bytes.Compare(last[:], e.ID[:]) >= 0 {
			return nil, errors.New("index run: chunks out of order")
		}
		n, last = n+1, e.ID
		b = append(b, e.ID[:]...)
		if e.Gone {
			gone++
			b = wire.AppendUvarint(b, 0)
			continue
		}
		if err := checkEntry(e, x.Frames); err != nil {
			return nil, fmt.Errorf("index run: %w", err)
		}
		b = wire.AppendUvarint(b, uint64(e.Frame)+1)
		b = wire.AppendUvarint(b, uint64(e.Offset))
		b = wire.AppendUvarint(b, uint64(e.Len))
	}
	if n != x.Len || gone != x.Gone {
		return nil, fmt.Errorf("index run: %d chunks, %d gone, announced as %d and %d", n, gone, x.Len, x.Gone)
	}
	return b, nil
}

// checkFrame checks a frame that follows one ending at end in a pack of size bytes.
func checkFrame(f Frame, end, size uint64) error {
	switch {
	case size > pack.MaxObject:
		return fmt.Errorf("pack of %d bytes", size)
	case uint64(f.Offset) < max(end, pack.FirstOffset) || f.end() > size:
		return fmt.Errorf("frame at %d to %d after %d in a pack of %d bytes", f.Offset, f.end(), end, size)
	case f.ContentLen > pack.MaxFrameContent:
		return fmt.Errorf("frame of %d bytes of content", f.ContentLen)
	}
	return nil
}

func checkEntry(e Entry, frames []Frame) error {
	switch {
	case uint64(e.Frame) >= uint64(len(frames)):
		return fmt.Errorf("chunk in frame %d of %d", e.Frame, len(frames))
	case e.Len == 0 || e.Len > pack.MaxChunk || uint64(e.Offset)+uint64(e.Len) > uint64(frames[e.Frame].ContentLen):
		return fmt.Errorf("chunk at %d of %d bytes in a frame of %d", e.Offset, e.Len, frames[e.Frame].ContentLen)
	}
	return nil
}

// Parse reads a body. All of it is checked at once; Entries then reads from
// data, which the Body keeps.
func Parse(data []byte) (*Body, error) {
	d := wire.NewDecoder(data)
	x := &Body{}
	packs := d.Count(32 + 16 + 32 + 1 + 1)
	if packs > MaxEntries {
		d.Fail("%d packs, at most %d fit", packs, MaxEntries)
	}
	for i := 0; i < packs && d.Err() == nil; i++ {
		x.parsePack(d)
	}
	n := d.Count(32 + 1)
	if n > MaxEntries {
		d.Fail("%d chunks, at most %d fit", n, MaxEntries)
	}
	start := d.Offset()
	var last [32]byte
	for i := 0; i < n && d.Err() == nil; i++ {
		e := parseEntry(d)
		if i > 0 && bytes.Compare(last[:], e.ID[:]) >= 0 {
			d.Fail("chunks out of order")
		}
		last = e.ID
		if e.Gone {
			x.Gone++
		} else if err := checkEntry(e, x.Frames); err != nil {
			d.Fail("%v", err)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("body of an index run: %w", err)
	}
	x.Len = n
	x.Entries = func(yield func(Entry) bool) {
		d := wire.NewDecoder(data[start:])
		for range n {
			if !yield(parseEntry(d)) {
				return
			}
		}
	}
	return x, nil
}

func (x *Body) parsePack(d *wire.Decoder) {
	p := pack.Ref{Kind: wire.KindPack}
	d.Copy(p.Hash[:])
	d.Copy(p.Session[:])
	d.Copy(p.Salt[:])
	p.Size = d.UvarintMax(pack.MaxObject)
	n := d.Count(3)
	if n+len(x.Frames) > MaxEntries {
		d.Fail("%d frames, at most %d fit", n+len(x.Frames), MaxEntries)
	}
	end := uint64(0)
	for i := 0; i < n && d.Err() == nil; i++ {
		f := Frame{
			Pack:       uint32(len(x.Packs)),
			Offset:     uint32(end + d.UvarintMax(pack.MaxObject)),
			SealedLen:  uint32(d.UvarintMax(pack.MaxObject)),
			ContentLen: uint32(d.UvarintMax(pack.MaxFrameContent)),
		}
		if err := checkFrame(f, end, p.Size); err != nil {
			d.Fail("%v", err)
		}
		end = f.end()
		x.Frames = append(x.Frames, f)
	}
	x.Packs = append(x.Packs, p)
}

func parseEntry(d *wire.Decoder) (e Entry) {
	d.Copy(e.ID[:])
	frame := d.UvarintMax(MaxEntries)
	if frame == 0 {
		e.Gone = true
		return e
	}
	e.Frame = uint32(frame - 1)
	e.Offset = uint32(d.UvarintMax(pack.MaxFrameContent))
	e.Len = uint32(d.UvarintMax(pack.MaxChunk))
	return e
}
