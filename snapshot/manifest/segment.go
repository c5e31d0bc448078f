package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"lukechampine.com/blake3"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// Limits that readers hold (docs/FORMAT.md section 12).
const (
	MaxEntries    = 65536   // in a segment
	MaxPath       = 1 << 20 // bytes
	MaxXattrValue = 1 << 20 // bytes
	maxTable      = 65536   // owners, attribute sets, of a segment
)

// Where a writer ends a segment (docs/FORMAT.md section 8).
const (
	cutMinEntries = 16
	cutMinModulus = 16
	cutMaxModulus = 1024
	cutMaxEntries = 8192
	cutMaxBytes   = 1 << 20
)

// CutAfter reports whether a segment ends after the entry with this path, when
// it holds so many entries of this weight together, and so many entries of the
// snapshot lie in segments before it.
func CutAfter(path string, before uint64, entries, weight int) bool {
	if entries >= cutMaxEntries || weight >= cutMaxBytes {
		return true
	}
	// A change stores a segment and a line for each of all segments: both are
	// least when segments grow as the square root of the number of entries.
	modulus := uint64(cutMinModulus)
	for modulus < cutMaxModulus && modulus*modulus < before {
		modulus *= 2
	}
	if entries < max(cutMinEntries, int(modulus/4)) {
		return false
	}
	sum := sha256.Sum256([]byte(path))
	return binary.LittleEndian.Uint64(sum[:])%modulus == 0
}

// Flags of an entry's encoding: inode flags, or an extension, follow.
const (
	hasInodeFlags = 64
	extended      = 128
)

type owner struct {
	uid, gid    uint32
	user, group string
}

type frameRef struct {
	pack        *pack.Ref
	offset, len uint32
}

// Encoder encodes segments. It keeps its buffers from one to the next and is
// owned by one goroutine.
type Encoder struct {
	a, entries, b, c []byte
	owners           map[owner]uint64
	sets             map[string]uint64
	in               *pack.Ref
	packs            map[*pack.Ref]uint64
	packHashes       map[[32]byte]*pack.Ref
	frames           map[frameRef]uint64
	ownerTable       []byte
	setTable         []byte
	packTable        []byte
	frameTable       []byte
	set              []byte
}

// Append appends the content of a segment of entries to dst. The entries must
// be valid and sorted; see Check. The segment will lie in the same object as the chunks
// of which in is the pack; nil for none.
func (x *Encoder) Append(dst []byte, entries []*Entry, in *pack.Ref) []byte {
	x.reset()
	x.in = in
	prev, mtime := "", int64(0)
	for _, e := range entries {
		x.entry(e, prev, mtime)
		prev, mtime = e.Path, e.Mtime.Sec
	}
	x.hints(entries)

	x.a = wire.AppendUvarint(x.a[:0], uint64(len(x.owners)))
	x.a = append(x.a, x.ownerTable...)
	x.a = wire.AppendUvarint(x.a, uint64(len(x.sets)))
	x.a = append(x.a, x.setTable...)
	x.a = wire.AppendUvarint(x.a, uint64(len(entries)))
	x.a = append(x.a, x.entries...)
	dst = wire.AppendBytes(dst, x.a)
	dst = wire.AppendBytes(dst, x.b)
	x.a = wire.AppendUvarint(x.a[:0], uint64(len(x.packs)))
	x.a = append(x.a, x.packTable...)
	x.a = wire.AppendUvarint(x.a, uint64(len(x.frames)))
	x.a = append(x.a, x.frameTable...)
	x.a = append(x.a, x.c...)
	return wire.AppendBytes(dst, x.a)
}

func (x *Encoder) reset() {
	if x.owners == nil {
		x.owners, x.sets = map[owner]uint64{}, map[string]uint64{}
		x.packs, x.frames = map[*pack.Ref]uint64{}, map[frameRef]uint64{}
		x.packHashes = map[[32]byte]*pack.Ref{}
	}
	clear(x.owners)
	clear(x.sets)
	clear(x.packs)
	clear(x.packHashes)
	clear(x.frames)
	x.entries, x.b, x.c = x.entries[:0], x.b[:0], x.c[:0]
	x.ownerTable, x.setTable, x.packTable, x.frameTable = x.ownerTable[:0], x.setTable[:0], x.packTable[:0], x.frameTable[:0]
}

func (x *Encoder) entry(e *Entry, prev string, mtime int64) {
	shared := sharedPrefix(prev, e.Path)
	b := wire.AppendUvarint(x.entries, uint64(shared))
	b = wire.AppendBytes(b, e.Path[shared:])
	flags := byte(e.Flags)
	if len(e.Ext) > 0 {
		flags |= extended
	}
	if e.InodeFlags != 0 {
		flags |= hasInodeFlags
	}
	b = append(b, byte(e.Type), flags)
	b = wire.AppendUvarint(b, uint64(e.Mode))
	b = wire.AppendUvarint(b, x.owner(e))
	b = wire.AppendSvarint(b, e.Mtime.Sec-mtime)
	b = wire.AppendUvarint(b, uint64(e.Mtime.Nsec))
	b = wire.AppendUvarint(b, x.attributes(e.Xattrs))
	b = wire.AppendUvarint(b, e.Link)
	if e.InodeFlags != 0 {
		b = wire.AppendUvarint(b, uint64(e.InodeFlags))
	}
	switch e.Type {
	case File:
		b = wire.AppendUvarint(b, e.Size)
		b = wire.AppendUvarint(b, uint64(len(e.Holes)))
		end := uint64(0)
		for _, h := range e.Holes {
			b = wire.AppendUvarint(b, h.Offset-end)
			b = wire.AppendUvarint(b, h.Length)
			end = h.Offset + h.Length
		}
		b = wire.AppendUvarint(b, uint64(len(e.Chunks)))
		if len(e.Chunks) != 1 || len(e.Holes) > 0 {
			for _, c := range e.Chunks {
				b = wire.AppendUvarint(b, uint64(c.Len))
			}
		}
	case Symlink:
		b = wire.AppendBytes(b, e.Target)
	case CharDevice, BlockDevice:
		b = wire.AppendUvarint(b, e.Rdev)
	}
	if len(e.Ext) > 0 {
		b = wire.AppendBytes(b, e.Ext)
	}
	x.entries = b
	for i := range e.Chunks {
		x.b = append(x.b, e.Chunks[i].ID[:]...)
	}
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func (x *Encoder) owner(e *Entry) uint64 {
	o := owner{e.UID, e.GID, e.User, e.Group}
	i, ok := x.owners[o]
	if !ok {
		i = uint64(len(x.owners))
		x.owners[o] = i
		x.ownerTable = wire.AppendUvarint(x.ownerTable, uint64(o.uid))
		x.ownerTable = wire.AppendUvarint(x.ownerTable, uint64(o.gid))
		x.ownerTable = wire.AppendBytes(x.ownerTable, o.user)
		x.ownerTable = wire.AppendBytes(x.ownerTable, o.group)
	}
	return i
}

func (x *Encoder) attributes(attrs []Xattr) uint64 {
	if len(attrs) == 0 {
		return 0
	}
	x.set = wire.AppendUvarint(x.set[:0], uint64(len(attrs)))
	for _, a := range attrs {
		x.set = wire.AppendBytes(x.set, a.Name)
		x.set = wire.AppendBytes(x.set, a.Value)
	}
	i, ok := x.sets[string(x.set)]
	if !ok {
		i = uint64(len(x.sets)) + 1
		x.sets[string(x.set)] = i
		x.setTable = append(x.setTable, x.set...)
	}
	return i
}

func (x *Encoder) hints(entries []*Entry) {
	var (
		last     frameRef
		lastIdx  uint64
		expected uint32
	)
	for _, e := range entries {
		for i := range e.Chunks {
			c := &e.Chunks[i]
			f := frameRef{x.canonical(c.Loc.Pack), c.Loc.FrameOffset, c.Loc.FrameLen}
			idx := lastIdx
			if f != last {
				expected = 0
				idx = x.frame(f)
			}
			x.c = wire.AppendSvarint(x.c, int64(idx)-int64(lastIdx))
			x.c = wire.AppendSvarint(x.c, int64(c.Loc.Offset)-int64(expected))
			last, lastIdx, expected = f, idx, c.Loc.Offset+c.Len
		}
	}
}

// canonical maps equal packs behind different pointers to one of them.
func (x *Encoder) canonical(p *pack.Ref) *pack.Ref {
	if _, ok := x.packs[p]; ok {
		return p
	}
	named := p
	if p == x.in || x.in != nil && p.Hash == x.in.Hash {
		named = &pack.Ref{}
	} else if q, ok := x.packHashes[p.Hash]; ok {
		return q
	} else {
		x.packHashes[p.Hash] = p
	}
	x.packs[p] = uint64(len(x.packs))
	x.packTable = named.Append(x.packTable)
	return p
}

func (x *Encoder) frame(f frameRef) uint64 {
	i, ok := x.frames[f]
	if !ok {
		i = uint64(len(x.frames))
		x.frames[f] = i
		x.frameTable = wire.AppendUvarint(x.frameTable, x.packs[f.pack])
		x.frameTable = wire.AppendUvarint(x.frameTable, uint64(f.offset))
		x.frameTable = wire.AppendUvarint(x.frameTable, uint64(f.len))
	}
	return i
}

// SegmentID is the name of a segment's content, locations left out. key is
// the domain's segment key.
func SegmentID(key [32]byte, content []byte) ([32]byte, error) {
	d := wire.NewDecoder(content)
	d.Bytes()
	d.Bytes()
	if d.Err() != nil {
		return [32]byte{}, d.Err()
	}
	h := blake3.New(32, key[:])
	h.Write(content[:d.Offset()])
	return [32]byte(h.Sum(nil)), nil
}

func invalid(path, format string, args ...any) error {
	return fmt.Errorf("entry %q: %w: %s", path, wire.ErrMalformed, fmt.Sprintf(format, args...))
}
