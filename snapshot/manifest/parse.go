package manifest

import (
	"math"
	"strings"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// ParseSegment decodes the content of a segment. The entries share memory
// with each other and with content, where attributes' values lie. What it
// allocates is bounded by content and by the sums of docs/FORMAT.md section 12.
// Of chunks that lie in the object of the segment itself, in is the place; it may be
// nil when that is not known.
func ParseSegment(content []byte, in *pack.Ref) ([]Entry, error) {
	top := wire.NewDecoder(content)
	a, b, c := top.Bytes(), top.Bytes(), top.Bytes()
	if err := top.Finish(); err != nil {
		return nil, err
	}
	if len(b)%32 != 0 {
		return nil, invalid("", "chunk IDs cut short")
	}
	if len(b)/32 > maxChunks {
		return nil, invalid("", "segment of %d chunks", len(b)/32)
	}
	p := &parser{Decoder: wire.NewDecoder(a), chunks: make([]Chunk, len(b)/32), left: newBudget()}
	for i := range p.chunks {
		copy(p.chunks[i].ID[:], b[32*i:])
	}
	entries := p.parse()
	if err := p.Finish(); err != nil {
		return nil, err
	}
	if p.used != len(p.chunks) {
		return nil, invalid("", "%d chunk IDs, %d chunks", len(p.chunks), p.used)
	}
	if err := parseHints(c, p.chunks, in); err != nil {
		return nil, err
	}
	return entries, nil
}

type parser struct {
	*wire.Decoder
	owners              []owner
	sets                [][]Xattr
	ownersUsed, setUsed int
	chunks              []Chunk
	used                int
	left                budget
}

func (p *parser) parse() []Entry {
	p.owners = make([]owner, min(p.Count(4), maxTable))
	seen := make(map[owner]bool, len(p.owners))
	for i := range p.owners {
		o := owner{uint32(p.UvarintMax(math.MaxUint32)), uint32(p.UvarintMax(math.MaxUint32)), string(p.Bytes()), string(p.Bytes())}
		if seen[o] {
			p.Fail("owner %d repeats", i)
		}
		seen[o], p.owners[i] = true, o
	}
	p.parseSets()
	n := p.Count(10)
	if n > MaxEntries || n == 0 {
		p.Fail("segment of %d entries", n)
		return nil
	}
	entries := make([]Entry, n)
	prev := &Entry{}
	for i := range entries {
		p.entry(&entries[i], prev, i == 0)
		if p.Err() != nil {
			return nil
		}
		prev = &entries[i]
	}
	if p.ownersUsed != len(p.owners) || p.setUsed != len(p.sets) {
		p.Fail("unused owners or attributes")
	}
	return entries
}

func (p *parser) parseSets() {
	p.sets = make([][]Xattr, min(p.Count(4), maxTable))
	seen := make(map[string]bool, len(p.sets))
	left := maxXattrs // each set is of some entry, so they keep the limit of entries
	for i := range p.sets {
		start := p.Offset()
		var key strings.Builder
		n := p.Count(2)
		if !p.spend(&left, n*xattrOverhead, "attributes") {
			return
		}
		set := make([]Xattr, n)
		for j := range set {
			name, value := p.Bytes(), p.Bytes()
			if !p.spend(&left, len(name)+len(value), "attributes") {
				return
			}
			set[j] = Xattr{Name: string(name), Value: value}
			if !validXattr(&set[j]) || j > 0 && set[j].Name <= set[j-1].Name {
				p.Fail("attribute %d", j)
			}
			key.WriteString(set[j].Name)
			key.WriteByte(0)
			key.Write(wire.AppendBytes(nil, set[j].Value))
		}
		if len(set) == 0 || seen[key.String()] {
			p.Fail("attribute set %d at %d is empty or repeats", i, start)
			return
		}
		seen[key.String()], p.sets[i] = true, set
	}
}

func (p *parser) entry(e, prev *Entry, first bool) {
	shared := int(p.UvarintMax(uint64(len(prev.Path))))
	rest := p.Bytes()
	if shared+len(rest) > MaxPath {
		p.Fail("path of %d bytes", shared+len(rest))
		return
	}
	if !p.spend(&p.left.paths, shared+len(rest), "paths") {
		return
	}
	if shared < len(prev.Path) && len(rest) > 0 && rest[0] == prev.Path[shared] {
		p.Fail("path shares more than it says")
	}
	e.Path = prev.Path[:shared] + string(rest)
	if !first && Compare(prev.Path, e.Path) >= 0 {
		p.Fail("%q after %q", e.Path, prev.Path)
	}
	if from := strings.LastIndexByte(e.Path[:shared], '/') + 1; !validPath(e.Path[from:]) && e.Path != "" {
		p.Fail("path %q", e.Path)
	}
	e.Type = Type(p.U8())
	flags := p.U8()
	e.Flags = Flags(flags &^ (extended | hasInodeFlags))
	e.Mode = uint32(p.UvarintMax(0o7777))
	e.UID, e.GID, e.User, e.Group = p.owner()
	p.spend(&p.left.owners, len(e.User)+len(e.Group), "owners' names")
	e.Mtime.Sec = prev.Mtime.Sec + p.Svarint()
	e.Mtime.Nsec = uint32(p.UvarintMax(999_999_999))
	if i := int(p.UvarintMax(uint64(len(p.sets)))); i > 0 {
		if i > p.setUsed+1 {
			p.Fail("attribute set %d before set %d", i, p.setUsed+1)
		}
		p.setUsed = max(p.setUsed, i)
		e.Xattrs = p.sets[i-1]
		p.spend(&p.left.xattrs, XattrBytes(e), "attributes")
	}
	e.Link = p.Uvarint()
	if flags&hasInodeFlags != 0 {
		if e.InodeFlags = uint32(p.UvarintMax(math.MaxUint32)); e.InodeFlags == 0 {
			p.Fail("no inode flags of %q", e.Path)
		}
	}
	switch e.Type {
	case File:
		p.file(e)
	case Symlink:
		e.Target = string(p.Bytes())
	case CharDevice, BlockDevice:
		e.Rdev = p.Uvarint()
	}
	for _, reason := range []string{e.misfit(), e.overBudget()} {
		if reason != "" {
			p.Fail("%q: %s", e.Path, reason)
		}
	}
	if flags&extended != 0 {
		e.Ext = p.Bytes()
		f, err := wire.ParseRecord(e.Ext)
		if err == nil {
			_, err = f.Finish()
		}
		if err != nil || len(e.Ext) == 0 {
			p.Fail("extension of %q: %v", e.Path, err)
		}
	}
}

func (p *parser) owner() (uid, gid uint32, user, group string) {
	i := int(p.Uvarint())
	if i >= len(p.owners) || i > p.ownersUsed {
		p.Fail("owner %d", i)
		return
	}
	p.ownersUsed = max(p.ownersUsed, i+1)
	o := &p.owners[i]
	return o.uid, o.gid, o.user, o.group
}

func (p *parser) file(e *Entry) {
	e.Size = p.UvarintMax(math.MaxInt64)
	content, end := e.Size, uint64(0)
	if n := p.Count(2); n > 0 {
		if !p.spend(&p.left.holes, n, "holes") {
			return
		}
		e.Holes = make([]Extent, n)
		for i := range e.Holes {
			gap, length := p.UvarintMax(math.MaxInt64), p.UvarintMax(math.MaxInt64)
			h := Extent{Offset: end + gap, Length: length}
			if length == 0 || i > 0 && gap == 0 || h.Offset > e.Size || length > e.Size-h.Offset {
				p.Fail("hole %d of %q", i, e.Path)
				return
			}
			e.Holes[i] = h
			content -= length
			end = h.Offset + length
		}
	}
	n := p.Uvarint()
	if n > uint64(len(p.chunks)-p.used) {
		p.Fail("%d chunks of %q", n, e.Path)
		return
	}
	if n == 0 {
		if content != 0 {
			p.Fail("no chunks for %d bytes of %q", content, e.Path)
		}
		return
	}
	e.Chunks = p.chunks[p.used : p.used+int(n) : p.used+int(n)]
	p.used += int(n)
	if n == 1 && len(e.Holes) == 0 {
		if content == 0 || content > pack.MaxChunk {
			p.Fail("chunk of %d bytes", content)
			return
		}
		e.Chunks[0].Len = uint32(content)
		return
	}
	for i := range e.Chunks {
		l := p.UvarintMax(pack.MaxChunk)
		if l == 0 || l > content {
			p.Fail("chunk %d of %q", i, e.Path)
			return
		}
		e.Chunks[i].Len = uint32(l)
		content -= l
	}
	if content != 0 {
		p.Fail("chunks of %q are %d bytes short", e.Path, content)
	}
}

// ValidPath reports whether path may be an entry's.
func ValidPath(path string) bool { return path == "" || len(path) <= MaxPath && validPath(path) }

func validPath(path string) bool {
	for start := 0; ; {
		i := strings.IndexByte(path[start:], '/')
		part := path[start:]
		if i >= 0 {
			part = path[start : start+i]
		}
		if part == "" || part == "." || part == ".." || strings.IndexByte(part, 0) >= 0 {
			return false
		}
		if i < 0 {
			return true
		}
		start += i + 1
	}
}

func parseHints(c []byte, chunks []Chunk, in *pack.Ref) error {
	d := wire.NewDecoder(c)
	if in == nil {
		in = &pack.Ref{}
	}
	n := d.Count(1)
	if n > len(chunks) {
		d.Fail("%d packs of %d chunks", n, len(chunks))
		return d.Finish()
	}
	packs := make([]*pack.Ref, n)
	hashes := make(map[[32]byte]bool, len(packs))
	for i := range packs {
		r := pack.ParseRef(d)
		if hashes[r.Hash] {
			d.Fail("pack %d repeats", i)
		}
		switch hashes[r.Hash], packs[i] = true, &r; r.Kind {
		case 0:
			if packs[i] = in; in.Kind == wire.KindManifest {
				d.Fail("chunks in a manifest container")
			}
		case wire.KindManifest:
			d.Fail("chunks in a manifest container")
		}
	}
	if n = d.Count(3); n > len(chunks) {
		d.Fail("%d frames of %d chunks", n, len(chunks))
		return d.Finish()
	}
	frames := make([]frameRef, n)
	seen := make(map[frameRef]bool, len(frames))
	packsUsed, framesUsed := 0, 0
	for i := range frames {
		k := int(d.Uvarint())
		if k >= len(packs) || k > packsUsed {
			d.Fail("pack of frame %d", i)
			break
		}
		packsUsed = max(packsUsed, k+1)
		frames[i] = frameRef{packs[k], uint32(d.UvarintMax(pack.MaxObject)), uint32(d.UvarintMax(pack.MaxObject))}
		if seen[frames[i]] {
			d.Fail("frame %d repeats", i)
		}
		seen[frames[i]] = true
	}
	idx, expected := int64(0), int64(0)
	for i := range chunks {
		delta := d.Svarint()
		if delta != 0 {
			expected = 0
		}
		idx += delta
		if idx < 0 || idx >= int64(len(frames)) || idx > int64(framesUsed) {
			d.Fail("frame of chunk %d", i)
			break
		}
		framesUsed = max(framesUsed, int(idx)+1)
		offset := expected + d.Svarint()
		if offset < 0 || offset > pack.MaxFrameContent {
			d.Fail("offset of chunk %d", i)
			break
		}
		f := &frames[idx]
		chunks[i].Loc = Location{f.pack, f.offset, f.len, uint32(offset)}
		expected = offset + int64(chunks[i].Len)
	}
	if d.Err() == nil && (packsUsed != len(packs) || framesUsed != len(frames)) {
		d.Fail("unused packs or frames")
	}
	return d.Finish()
}
