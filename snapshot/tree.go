package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

const (
	// groupBytes is how much of neighbouring segments one request reads.
	groupBytes = 1 << 20
	// groupsAhead is how many such requests run ahead of the consumer.
	groupsAhead = 4
	// groupMemory is how much memory the segments of one request may take when
	// they are decoded, unless it is a single one; memoryAhead is how much all may
	// that run ahead. Both are more than the segments of a writer of ours take.
	groupMemory = 64 << 20
	memoryAhead = 256 << 20
	// wholeBytes is up to what size the container of the table is read whole,
	// not from the table on, which saves the requests for what else is in it.
	wholeBytes = 4 << 20
)

// Tree reads the entries of a snapshot from the repository. It needs an
// identity.
type Tree struct {
	Snapshot *history.Snapshot
	Table    *manifest.Table
	Reader   *objects.Reader

	own pack.Ref // the container of the table

	mu    sync.Mutex
	whole span // the container of the table, or its end when it is large
	found span // the segment that Find read last

	opened openedFrames // of packs
}

// Frozen reports whether the source that a path of an entry lies in was frozen, as the
// host declares.
func (t *Tree) Frozen(path string) bool {
	s := t.Table.Sources
	return len(s) > 0 && s[sourceOf(s, path)].Frozen
}

// span is a range of a container as it is stored.
type span struct {
	container [32]byte
	offset    int64
	sealed    []byte
}

// of copies a range out of the span, for the caller to keep; nil when it is
// not in it.
func (s *span) of(container [32]byte, offset, length int64) []byte {
	if s.container != container || offset < s.offset || offset+length > s.offset+int64(len(s.sealed)) {
		return nil
	}
	return bytes.Clone(s.sealed[offset-s.offset:][:length])
}

// OpenTree reads the manifest table of a snapshot.
func OpenTree(ctx context.Context, repo *repository.Repository, s *history.Snapshot) (*Tree, error) {
	if s.Body == nil || s.Domain == nil {
		return nil, repo.Closed(ctx, s.Root)
	}
	return OpenTreeWith(ctx, repo, repo.NewReader(s.Host, s.Domain), s)
}

// OpenTreeWith is OpenTree of a snapshot whose domain is open, with its reader.
func OpenTreeWith(ctx context.Context, repo *repository.Repository, reader *objects.Reader, s *history.Snapshot) (*Tree, error) {
	t := &Tree{Snapshot: s, Reader: reader}
	err := t.openTable(ctx, &s.Body.Manifest)
	if !authentic.Damaged(err) {
		return t, err
	}

	// A later run may have stored the same table again.
	for other, oerr := range repo.Snapshots(ctx, s.Host, s.Environment) {
		if oerr != nil && !authentic.Damaged(oerr) {
			return nil, oerr
		}
		if oerr != nil || other.Body == nil || other.Domain == nil || other.Domain.ID != s.Domain.ID || other.Body.Content != s.Body.Content || other.Body.Manifest.Hash == s.Body.Manifest.Hash {
			continue
		}
		if oerr = t.openTable(ctx, &other.Body.Manifest); !authentic.Damaged(oerr) {
			return t, oerr
		}
	}
	return nil, err
}

// openTable reads the manifest table where a root locates it, and makes sure
// that it is the one that the tree's own root was signed for.
func (t *Tree) openTable(ctx context.Context, at *statement.ManifestRef) error {
	s, r := t.Snapshot, t.Reader
	t.own = pack.Ref{Kind: at.Kind, Hash: at.Hash, Size: at.Size}
	t.whole = span{}
	var from int64
	if at.Size > wholeBytes {
		from = int64(at.Offset)
	}
	// What opens it stands at its end.
	var content []byte
	sealed, err := r.ReadEnd(ctx, &t.own, from)
	if err == nil || authentic.Damaged(err) {
		t.whole = span{at.Hash, from, sealed}
		content, err = t.frame(ctx, &t.own, uint32(at.Offset), uint32(at.Length))
	}
	if closed := (*trust.IdentityError)(nil); errors.As(err, &closed) {
		return fmt.Errorf("%s %w", s.Ref(), closed)
	}
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}
	damage := func(err error) error {
		return &authentic.DamageError{Key: fmt.Sprintf("manifest of %s", s.Ref()), What: "manifest table", Err: err}
	}
	table, err := manifest.ParseTable(content)
	if err != nil {
		return damage(err)
	}
	if table.Digest() != s.Body.Content {
		return damage(errors.New("it is not the one that the root was signed for"))
	}
	t.Table = table
	return nil
}

// frame reads and opens a frame.
func (t *Tree) frame(ctx context.Context, in *pack.Ref, offset, length uint32) ([]byte, error) {
	sealed, err := t.read(ctx, in, int64(offset), int64(length))
	if err != nil {
		return nil, err
	}
	return t.open(ctx, in, offset, sealed)
}

// open opens a frame as it was read. The reply may be damaged, or the object
// covered by another: then it is read again.
func (t *Tree) open(ctx context.Context, in *pack.Ref, offset uint32, sealed []byte) ([]byte, error) {
	length := uint32(len(sealed))
	content, err := t.Reader.Open(ctx, nil, in, offset, sealed)
	if authentic.Damaged(err) {
		return t.Reader.Frame(ctx, in, offset, length)
	}
	return content, err
}

// read reads a range of a container, unless it is at hand. The caller may
// change the bytes.
func (t *Tree) read(ctx context.Context, container *pack.Ref, offset, length int64) ([]byte, error) {
	t.mu.Lock()
	b := t.whole.of(container.Hash, offset, length)
	if b == nil {
		b = t.found.of(container.Hash, offset, length)
	}
	t.mu.Unlock()
	if b != nil {
		return b, nil
	}
	return t.Reader.Read(ctx, nil, container, offset, length)
}

// container of a segment.
func (t *Tree) container(s *manifest.Segment) *pack.Ref {
	if s.Container == 0 {
		return &t.own
	}
	return &t.Table.Containers[s.Container-1]
}

// Container is the object that the i-th segment lies in.
func (t *Tree) Container(i int) deletion.ObjectID {
	c := t.container(&t.Table.Segments[i])
	return deletion.ObjectID{Kind: c.Kind, Hash: c.Hash}
}

// group is a run of segments, by their positions, that lie next to each other.
type group struct {
	segments []int
	offset   uint32
	length   uint32
	memory   int64
}

// memory is about how many bytes a segment takes when it is decoded, at most: its
// content, its chunks, its entries and their paths.
func memory(s *manifest.Segment) int64 {
	return 4<<20 + 3*int64(s.ContentLen) + 512*int64(s.Entries)
}

func (t *Tree) groups(segments []int) []group {
	var out []group
	for i, at := range segments {
		s := &t.Table.Segments[at]
		if n := len(out); n > 0 {
			g := &out[n-1]
			if s.Container == t.Table.Segments[g.segments[0]].Container && s.Offset == g.offset+g.length && g.length+s.SealedLen <= groupBytes && g.memory+memory(s) <= groupMemory {
				g.segments = segments[i-len(g.segments) : i+1]
				g.length += s.SealedLen
				g.memory += memory(s)
				continue
			}
		}
		out = append(out, group{segments[i : i+1], s.Offset, s.SealedLen, memory(s)})
	}
	return out
}

// Damaged segments differ from a failing store by *SegmentError.
type SegmentError struct {
	First, Next string // paths from First, to before Next ("" when it is the last), cannot be named
	Entries     uint32 // how many there are
	Err         error
}

func (e *SegmentError) Error() string {
	if e.Next == "" {
		return fmt.Sprintf("the list of files from %q on cannot be read: %v", "/"+e.First, e.Err)
	}
	return fmt.Sprintf("the list of files from %q to before %q cannot be read: %v", "/"+e.First, "/"+e.Next, e.Err)
}

func (e *SegmentError) Unwrap() error { return e.Err }

func (t *Tree) segmentError(i int, err error) error {
	segments := t.Table.Segments
	se := &SegmentError{First: segments[i].First, Entries: segments[i].Entries, Err: err}
	if i+1 < len(segments) {
		se.Next = segments[i+1].First
	}
	return se
}

// Segment reads and decodes one segment of the table.
func (t *Tree) Segment(ctx context.Context, i int) ([]manifest.Entry, error) {
	s := &t.Table.Segments[i]
	sealed, err := t.read(ctx, t.container(s), int64(s.Offset), int64(s.SealedLen))
	return t.decode(ctx, s, sealed, err)
}

// decode decodes a segment as it was read, or as a later snapshot stored it again
// when that cannot be used: err is that of reading.
func (t *Tree) decode(ctx context.Context, s *manifest.Segment, sealed []byte, err error) ([]manifest.Entry, error) {
	var entries []manifest.Entry
	if err == nil {
		entries, err = t.entriesOf(ctx, s, t.container(s), s.Offset, sealed)
	}
	if !authentic.Damaged(err) {
		return entries, err
	}
	copies, cerr := t.Reader.SegmentCopies(ctx, s.ID)
	if cerr != nil {
		return nil, cerr
	}
	for _, c := range copies {
		if c.Container.Hash == t.container(s).Hash {
			continue
		}
		sealed, cerr := t.Reader.Read(ctx, nil, &c.Container, int64(c.Offset), int64(c.SealedLen))
		if cerr == nil {
			entries, cerr = t.entriesOf(ctx, s, &c.Container, c.Offset, sealed)
		}
		if !authentic.Damaged(cerr) && !errors.Is(cerr, trust.ErrNoUsableIdentity) {
			return entries, cerr
		}
	}
	return nil, err
}

// entriesOf opens a sealed segment that lies at an offset of a container.
func (t *Tree) entriesOf(ctx context.Context, s *manifest.Segment, in *pack.Ref, offset uint32, sealed []byte) ([]manifest.Entry, error) {
	content, err := t.open(ctx, in, offset, sealed)
	if err != nil {
		return nil, err
	}
	// Copies elsewhere have other hints, and another length.
	if in.Hash == t.container(s).Hash && len(content) != int(s.ContentLen) {
		return nil, fmt.Errorf("segment of %d bytes, its table says %d: %w", len(content), s.ContentLen, wire.ErrMalformed)
	}
	id, err := manifest.SegmentID(t.Reader.Domain().SegmentKey(), content)
	if err == nil && id != s.ID {
		err = fmt.Errorf("segment has another ID than its table says: %w", wire.ErrMalformed)
	}
	if err != nil {
		return nil, err
	}
	entries, err := manifest.ParseSegment(content, in)
	if err == nil && len(entries) != int(s.Entries) {
		err = fmt.Errorf("segment has %d entries, its table says %d: %w", len(entries), s.Entries, wire.ErrMalformed)
	}
	return entries, err
}

// Entries yields the entries at and below the path under, in path order; ""
// is all. Segments are read ahead. A segment that cannot be read is yielded as
// an error of type *SegmentError, and the iteration may go on after it.
func (t *Tree) Entries(ctx context.Context, under string) iter.Seq2[*manifest.Entry, error] {
	return t.EntriesIn(ctx, t.Table.Below(under), under)
}

// EntriesIn is Entries of some segments, by their positions in the table.
func (t *Tree) EntriesIn(ctx context.Context, segments []int, under string) iter.Seq2[*manifest.Entry, error] {
	return t.entries(ctx, segments, func(path string) bool { return manifest.Within(path, under) })
}

// Children yields the entry of a path and those right in it, like Entries.
func (t *Tree) Children(ctx context.Context, dir string) iter.Seq2[*manifest.Entry, error] {
	return t.entries(ctx, t.Table.Children(dir), func(path string) bool { return manifest.AtOrIn(path, dir) })
}

// entries yields the entries of segments whose paths are wanted.
func (t *Tree) entries(ctx context.Context, segments []int, wanted func(path string) bool) iter.Seq2[*manifest.Entry, error] {
	return func(yield func(*manifest.Entry, error) bool) {
		for batch, err := range t.batches(ctx, segments) {
			if err != nil {
				if !yield(nil, err) {
					return
				}
				continue
			}
			for i := range batch {
				if e := &batch[i]; wanted(e.Path) && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// batches yields the decoded segments in order, and reads ahead as far as their
// memory allows.
func (t *Tree) batches(ctx context.Context, segments []int) iter.Seq2[[]manifest.Entry, error] {
	type result struct {
		entries [][]manifest.Entry
		errs    []error
		memory  int64
	}
	return func(yield func([]manifest.Entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		pending := make(chan chan result, groupsAhead)
		ahead := semaphore.NewWeighted(memoryAhead)
		var g errgroup.Group
		defer g.Wait()
		defer cancel()
		g.Go(func() error {
			defer close(pending)
			for _, grp := range t.groups(segments) {
				if ahead.Acquire(ctx, grp.memory) != nil {
					return nil
				}
				c := make(chan result, 1)
				select {
				case pending <- c:
				case <-ctx.Done():
					return nil
				}
				g.Go(func() error {
					r := result{memory: grp.memory}
					r.entries, r.errs = t.readGroup(ctx, grp)
					c <- r
					return nil
				})
			}
			return nil
		})
		at := 0
		for c := range pending {
			r := <-c
			for i, entries := range r.entries {
				err := r.errs[i]
				lost := err != nil && authentic.Damaged(err)
				if lost {
					err = t.segmentError(segments[at], err)
				}
				at++
				if !yield(entries, err) || err != nil && !lost {
					return
				}
			}
			ahead.Release(r.memory)
		}
		if err := ctx.Err(); err != nil {
			yield(nil, context.Cause(ctx))
		}
	}
}

func (t *Tree) readGroup(ctx context.Context, g group) ([][]manifest.Entry, []error) {
	entries, errs := make([][]manifest.Entry, len(g.segments)), make([]error, len(g.segments))
	sealed, err := t.read(ctx, t.container(&t.Table.Segments[g.segments[0]]), int64(g.offset), int64(g.length))
	for i, at := range g.segments {
		s := &t.Table.Segments[at]
		var part []byte
		if err == nil {
			part = sealed[s.Offset-g.offset:][:s.SealedLen]
		}
		entries[i], errs[i] = t.decode(ctx, s, part, err)
	}
	return entries, errs
}

// Find yields the entry of one path, or nil.
func (t *Tree) Find(ctx context.Context, path string) (*manifest.Entry, error) {
	if len(t.Table.Segments) == 0 {
		return nil, nil
	}
	s := &t.Table.Segments[t.Table.At(path)]
	container := t.container(s)
	sealed, err := t.read(ctx, container, int64(s.Offset), int64(s.SealedLen))
	if err == nil {
		t.mu.Lock()
		t.found = span{container.Hash, int64(s.Offset), bytes.Clone(sealed)}
		t.mu.Unlock()
	}
	entries, err := t.decode(ctx, s, sealed, err)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		if entries[i].Path == path {
			return &entries[i], nil
		}
	}
	return nil, nil
}
