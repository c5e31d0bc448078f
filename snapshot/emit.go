package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"knowngood/snapshot/manifest"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
)

// minListed is how many objects a list names at least that is written as what
// differs from another: a shorter one costs less than keeping the other.
const minListed = 64

// saveBytes is how much may be read again after a run that died, in bytes,
// besides what was on its way into the store.
const saveBytes = 16 << 20

// segment is one of the new manifest, as its table has it, except the place.
type segment struct {
	manifest.Segment
	place segmentPlace   // container: position in emitter.containers
	frame *objects.Frame // set when it is written in this run; place is not
}

// emitter brings the entries together again, in path order.
type emitter struct {
	*capture
	local   *localWriter // nil in a dry run
	enc     manifest.Encoder
	comp    *pack.Compressor
	content []byte
	plain   []byte
	packed  []byte
	key     [32]byte

	entries []*manifest.Entry
	weight  int    // of entries
	saved   int    // of entries, in provisional blocks of the local copy
	unsaved uint64 // bytes read for entries that are not saved
	// whole is the parent's segment that entries are the start of, all of
	// them unchanged; nil when they are not.
	whole *localSegment
	seen  []*localSegment // of the parent, that entries stood in

	segments   []segment
	containers []pack.Ref
	known      map[[32]byte]int // containers by hash
	needed     map[[32]byte]*pack.Object
	totals     Totals
	sources    sourceCounter
	changed    bool // the manifest differs from the parent's
	copied     int  // segments of the parent taken over, in order
}

func newEmitter(c *capture, local *localWriter) *emitter {
	e := &emitter{capture: c, local: local, known: map[[32]byte]int{}, needed: map[[32]byte]*pack.Object{}}
	e.sources = newSourceCounter(c.recordSources(), c.started)
	if c.writer != nil {
		e.comp, e.key = pack.NewCompressor(c.Level), c.host.Domain.SegmentKey()
	}
	return e
}

func (e *emitter) emit(ctx context.Context) error {
	for {
		select {
		case batch, ok := <-e.batches:
			if !ok {
				return e.cut()
			}
			for _, it := range batch {
				if err := e.item(ctx, it); err != nil {
					return err
				}
			}
			if e.local != nil {
				if err := e.local.flush(); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (e *emitter) item(ctx context.Context, it *item) error {
	stored := true
	if it.file != nil {
		if it.job != nil {
			select {
			case <-it.job.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := e.place(it); err != nil {
			return err
		}
		if it.file.gone {
			return nil
		}
		stored = it.file.stored
		it.file = nil
		e.unsaved += it.entry.Size
	}
	if e.local != nil && !it.same && !e.storable(it) {
		return nil
	}
	e.totals.add(it.entry)
	e.sources.add(it.entry)
	if e.parents.last != nil && it.entry.Type == manifest.File {
		if it.seg != nil {
			it.was = &it.seg.entries[it.pos]
		}
		e.capture.signs.File(it.entry, it.was, stored)
	}
	if it.same && it.pos == len(e.entries) && (it.pos == 0 || e.whole == it.seg) {
		e.whole = it.seg
	} else {
		e.whole = nil
	}
	if it.seg != nil && (len(e.seen) == 0 || e.seen[len(e.seen)-1] != it.seg) {
		e.seen = append(e.seen, it.seg)
	}
	e.entries = append(e.entries, it.entry)
	e.weight += manifest.Weight(it.entry)
	if manifest.CutAfter(it.entry.Path, e.totals.Entries-uint64(len(e.entries)), len(e.entries), e.weight) {
		return e.cut()
	}
	if e.unsaved >= saveBytes && e.local != nil {
		return e.save()
	}
	return nil
}

// save writes the entries of the segment being filled to the local copy, so
// that a run that dies need not have read their files in vain.
func (e *emitter) save() error {
	entries := e.entries[e.saved:]
	e.saved, e.unsaved = len(e.entries), 0
	e.content = e.enc.Append(e.content[:0], entries, nil)
	s := &localSegment{provisional: true, contentLen: uint32(len(e.content)), count: len(entries), first: entries[0].Path}
	e.pack(s, entries)
	if err := e.local.segment(s); err != nil {
		return err
	}
	return e.local.flush()
}

// pack completes a segment of the local copy, whose content is in e.content.
func (e *emitter) pack(s *localSegment, entries []*manifest.Entry) {
	e.content = manifest.AppendStats(e.content, entries)
	s.statsLen = len(e.content) - int(s.contentLen)
	e.packed = e.local.enc.EncodeAll(e.content, e.packed[:0])
	s.packed = e.packed
}

// place waits until the chunks of a file are durable and notes where they lie.
func (e *emitter) place(it *item) error {
	f := it.file
	for i, ref := range f.refs {
		in, frame, length, offset, err := e.writer.Place(ref, e.pressed)
		if err != nil {
			return err
		}
		it.entry.Chunks[i].Loc = manifest.Location{Pack: in, FrameOffset: frame, FrameLen: length, Offset: offset}
	}
	return nil
}

// storable reports whether an entry can stand in a segment, where one that
// cannot would make all the others unreadable. Attributes that cannot be stored
// are left out; an entry that cannot be stored without them is left out itself.
// Both are named.
func (e *emitter) storable(it *item) bool {
	err := manifest.Check(it.entry)
	if err != nil && len(it.entry.Xattrs) > 0 {
		e.problems.add(it.entry.Path, err.Error())
		bare := *it.entry // another name of the inode may be looking at the other
		bare.Xattrs, bare.Flags = nil, bare.Flags|manifest.MetadataIncomplete
		it.entry = &bare
		err = manifest.Check(it.entry)
	}
	if err == nil && !e.enc.Fits(it.entry) {
		err = errors.New("it has more chunks than one file may have: exclude it, or make a repository with larger chunks")
	}
	if err != nil {
		e.problems.add(it.entry.Path, err.Error())
	}
	return err == nil
}

// count adds what entries need of each pack except their own.
func (e *emitter) count(entries []*manifest.Entry, own *pack.Ref) {
	var last *pack.Ref
	var needed *pack.Object
	for _, entry := range entries {
		for i := range entry.Chunks {
			c := &entry.Chunks[i]
			if c.Loc.Pack == own {
				continue
			}
			if c.Loc.Pack != last {
				last = c.Loc.Pack
				needed = e.need(last)
			}
			needed.Live += uint64(c.Len)
		}
	}
}

// need is what the snapshot needs of an object.
func (e *emitter) need(ref *pack.Ref) *pack.Object {
	o := e.needed[ref.Hash]
	if o == nil {
		o = &pack.Object{Kind: ref.Kind, Hash: ref.Hash, Size: ref.Size}
		e.needed[ref.Hash] = o
	}
	return o
}

// cut ends the segment.
func (e *emitter) cut() error {
	entries, whole, seen, weight := e.entries, e.whole, e.seen, e.weight
	e.entries, e.weight, e.whole, e.seen = entries[:0], 0, nil, seen[:0]
	e.saved, e.unsaved = 0, 0
	if len(entries) == 0 || e.local == nil {
		return nil
	}
	if whole != nil && len(entries) == whole.count {
		if seg, ok := e.taken(whole); ok {
			e.copied++
			e.segments = append(e.segments, seg)
			e.count(entries, nil)
			return e.local.segment(whole)
		}
	}
	home, err := e.writer.Home(weight)
	if err != nil {
		return err
	}
	e.count(entries, home)
	e.content = e.enc.Append(e.content[:0], entries, home)
	// A segment that cannot be read again is worth nothing, and every later
	// snapshot would take it over.
	_, err = manifest.ParseSegment(e.content, home)
	if err == nil && len(e.content) > pack.MaxSegmentContent {
		err = fmt.Errorf("it takes %d bytes", len(e.content))
	}
	if err != nil {
		return fmt.Errorf("the list of files does not read back as it was written, from %q on; nothing is committed: please report this: %w", "/"+entries[0].Path, err)
	}
	id, err := manifest.SegmentID(e.key, e.content)
	if err != nil {
		return err
	}
	contentLen := uint32(len(e.content))
	seg := segment{Segment: manifest.Segment{ContentLen: contentLen, ID: id, Entries: uint32(len(entries)), First: strings.Clone(entries[0].Path)}}
	stored := false
	for _, old := range seen {
		if old.id == id && old.locates(entries) {
			if s, ok := e.taken(old); ok {
				seg, stored = s, true
				e.copied++
				// The local copy is to be that of the segment as it is stored.
				in, _, _ := old.place()
				e.content = e.enc.Append(e.content[:0], entries, &in)
				contentLen = uint32(len(e.content))
				break
			}
		}
	}
	if !stored {
		e.changed = true
		e.plain = e.comp.Frame(e.plain[:0], e.content)
		if seg.frame, err = e.writer.AddSegment(id, e.plain, len(e.content)); err != nil {
			return err
		}
	}
	e.segments = append(e.segments, seg)
	s := &localSegment{contentLen: contentLen, id: id, count: len(entries), first: seg.First}
	e.pack(s, entries)
	return e.local.segment(s)
}

// taken is a segment of the parent, taken over as it lies in the store; not when
// its container is gone.
func (e *emitter) taken(s *localSegment) (segment, bool) {
	c, p, ok := s.place()
	if !ok {
		return segment{}, false
	}
	if e.parents.gaps && e.index.Absent(c.Kind, c.Hash) {
		if e.index.Lost(c.Kind, c.Hash) {
			e.healing.add(c.Hash, int(s.contentLen))
		}
		return segment{}, false
	}
	p.container = e.container(c)
	return segment{Segment: manifest.Segment{ContentLen: s.contentLen, ID: s.id, Entries: uint32(s.count), First: s.first}, place: p}, true
}

// container is the position of c among the run's containers.
func (e *emitter) container(c pack.Ref) int {
	i, ok := e.known[c.Hash]
	if !ok {
		i = len(e.containers)
		e.known[c.Hash] = i
		e.containers = append(e.containers, c)
	}
	return i
}

// finish stores the manifest's table, unless the manifest is the parent's,
// and makes the trailer of the host's copy.
func (e *emitter) finish() (*localTrailer, error) {
	t := &localTrailer{totals: e.totals}
	sources := e.sources.list(e.mounts)
	for i := range sources {
		sources[i].Resolved = e.real[sources[i].Path]
	}
	if p := e.parents.last; p != nil && !e.parents.gaps && !e.changed && e.copied == len(p.trailer.places) && e.problems.count == 0 &&
		len(p.trailer.table.Problems) == 0 && manifest.EqualSources(p.trailer.table.Sources, sources) {
		old := p.trailer
		*t = *old
		t.totals = e.totals
		return t, nil
	}

	problems, _ := e.problems.list()
	table := &manifest.Table{Sources: sources, Problems: problems}
	e.fillTable(table, t)
	list := e.listObjects(t, table)
	encoded := table.Append(nil)
	if _, err := manifest.ParseTable(encoded); err != nil {
		return nil, err
	}
	at, err := e.writer.FinishManifest(encoded, list)
	if err != nil {
		return nil, err
	}
	t.content = table.Digest()
	t.manifest = at.Manifest()
	if !list.Differs() {
		t.base, t.baseList = pack.Object{Kind: at.Container.Kind, Hash: at.Container.Hash, Size: at.Container.Size}, t.objects
	}
	own := e.container(*at.Container)
	for i := range t.places {
		if t.places[i].container < 0 {
			t.places[i].container = own
		}
	}
	t.containers = e.containers
	table.Segments, table.Containers = nil, nil
	t.table = table
	return t, nil
}

// fillTable lists the segments, and their containers in order of first use.
func (e *emitter) fillTable(table *manifest.Table, t *localTrailer) {
	positions := map[int]int{-1: 0}
	for _, s := range e.segments {
		if s.frame != nil {
			p := e.writer.SegmentPlace(s.frame)
			s.place = segmentPlace{-1, p.Offset, p.SealedLen}
			if p.Container != nil {
				s.place.container = e.container(*p.Container)
			}
		}
		pos, ok := positions[s.place.container]
		if !ok {
			table.Containers = append(table.Containers, e.containers[s.place.container])
			pos = len(table.Containers)
			positions[s.place.container] = pos
		}
		s.Container, s.Offset, s.SealedLen = pos, s.place.offset, s.place.sealedLen
		table.Segments = append(table.Segments, s.Segment)
		t.places = append(t.places, s.place)
	}
}

// listObjects notes in the trailer what the snapshot needs, and returns how that is
// listed beside the table: as what differs from the list of an older one, until that is
// more than twice the square root of the whole. So the whole lists, and what
// differs, take about as much in the long run.
func (e *emitter) listObjects(t *localTrailer, table *manifest.Table) pack.ObjectList {
	for _, s := range table.Segments {
		if s.Container > 0 {
			e.need(&table.Containers[s.Container-1]).Live += uint64(s.ContentLen)
		}
	}
	t.objects = nil
	for _, o := range e.needed {
		t.objects = append(t.objects, *o)
	}
	slices.SortFunc(t.objects, pack.CompareObjects)

	p := e.parents.last
	if p == nil || p.trailer.base.Kind == 0 || len(t.objects) < minListed || e.index.Absent(p.trailer.base.Kind, p.trailer.base.Hash) {
		return pack.ObjectList{Added: t.objects}
	}
	base, needed := p.trailer.base, t.objects
	if i, found := slices.BinarySearchFunc(needed, base, pack.CompareObjects); !found { // nothing else of it is used any more
		needed = slices.Insert(slices.Clone(needed), i, pack.Object{Kind: base.Kind, Hash: base.Hash, Size: base.Size})
	}
	list := pack.ListObjects(base, p.trailer.baseList, needed)
	if n := len(list.Added) + len(list.Removed); n*n > 4*len(needed) {
		return pack.ObjectList{Added: t.objects}
	}
	t.objects, t.base, t.baseList = needed, base, p.trailer.baseList
	return list
}
