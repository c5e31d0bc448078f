package objects

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/index"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

const (
	// metaTarget is the size of manifest containers, in bytes: they are read whole
	// more often than packs, and there are far fewer of them.
	metaTarget = 4 << 20
	// maxShared is up to what size the last pack of a capture takes the manifest, too.
	maxShared = 1 << 20
)

// WriterOptions bound what a writer uses. Zero values choose sensible ones.
type WriterOptions struct {
	Level    pack.Level
	PackSize int // bytes; that of the descriptor when 0
	// Apart stores the manifest in objects of its own, however little content there is.
	Apart bool
}

// Writer stores the chunks and segments of one capture. Its methods may be called
// concurrently. After the first error the capture cannot be completed: the
// writer's context ends, with that error as its cause.
type Writer struct {
	repo      *Objects
	host      *trust.Host
	session   *seal.Session
	index     *Index
	retention storage.Retention
	level     pack.Level
	apart     bool

	ctx         context.Context // ends with the first error
	fail        context.CancelCauseFunc
	uploads     errgroup.Group
	compressors errgroup.Group
	data, meta  *packer
	jobs        chan frameJob
	buffers     chan []byte // bounds the frames in memory; a nil buffer is made on first use

	mu       sync.Mutex
	claims   map[[32]byte]ChunkRef
	framers  []*Framer
	own      sync.Map // hashes of the objects that were stored
	stored   atomic.Uint64
	newBytes atomic.Uint64
}

// NewWriter begins a session of host: it draws the session's secret, which is
// kept in memory and sealed to epoch only.
func (r *Objects) NewWriter(ctx context.Context, host *trust.Host, epoch *seal.Epoch, ix *Index, o WriterOptions) (*Writer, error) {
	session, err := seal.NewSession(r.t.ID(), epoch)
	if err != nil {
		return nil, err
	}
	if o.PackSize == 0 {
		o.PackSize = int(r.t.Descriptor().PackSize)
	}
	w := &Writer{repo: r, host: host, session: session, index: ix, level: o.Level, apart: o.Apart, retention: r.t.Retention(time.Now()), claims: map[[32]byte]ChunkRef{}}
	procs := runtime.GOMAXPROCS(0)
	w.jobs, w.buffers = make(chan frameJob), make(chan []byte, 2*procs+1)
	for range 2*procs + 1 {
		w.buffers <- nil
	}
	w.ctx, w.fail = context.WithCancelCause(ctx)
	w.data = newPacker(w, wire.KindPack, o.PackSize, fewPacks, mostPacks)
	w.meta = newPacker(w, wire.KindManifest, min(o.PackSize, metaTarget), containers, containers)
	for range procs {
		w.compressors.Go(func() error {
			err := w.compress()
			if err != nil {
				w.fail(err)
			}
			return err
		})
	}
	return w, nil
}

// Context ends when the capture cannot be completed any more, with the error as its
// cause.
func (w *Writer) Context() context.Context { return w.ctx }

// StoredBytes is how many bytes the store has confirmed.
func (w *Writer) StoredBytes() uint64 { return w.stored.Load() }

// NewBytes is how many bytes of content were new to the repository.
func (w *Writer) NewBytes() uint64 { return w.newBytes.Load() }

// LockEnd is when the lock ends that this writer put on an object; zero when it
// did not store the object.
func (w *Writer) LockEnd(hash [32]byte) time.Time {
	if _, ok := w.own.Load(hash); ok {
		return w.retention.Until
	}
	return time.Time{}
}

// packStored makes the chunks of a durable pack known to the index.
func (w *Writer) packStored(o *openPack, c *pack.Contents) error {
	if err := w.index.add(o.info, c); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range c.Files {
		for _, ch := range f.Chunks {
			delete(w.claims, ch.ID)
		}
	}
	return nil
}

// ChunkRef is where a chunk lies, or will lie.
type ChunkRef struct {
	known  index.Location
	frame  *Frame // nil when known
	offset uint32
}

// claim finds the chunk, or makes it the caller's to store at offset of frame.
func (w *Writer) claim(id [32]byte, frame *Frame, offset uint32) (ref ChunkRef, mine bool) {
	if loc, ok := w.index.Lookup(id); ok {
		return ChunkRef{known: loc}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ref, ok := w.claims[id]; ok {
		return ref, false
	}
	ref = ChunkRef{frame: frame, offset: offset}
	w.claims[id] = ref
	return ref, true
}

// Find finds a chunk that this run met before.
func (w *Writer) Find(id [32]byte) (ref ChunkRef, ok bool) {
	if loc, ok := w.index.Lookup(id); ok {
		return ChunkRef{known: loc}, true
	}
	w.mu.Lock()
	ref, ok = w.claims[id]
	w.mu.Unlock()
	if !ok { // the index may have learned of it meanwhile
		ref.known, ok = w.index.Lookup(id)
	}
	return ref, ok
}

// Framer gathers chunks that are new to the repository into frames. Each
// reader of files has its own, so that neighbours end up together.
type Framer struct {
	w      *Writer
	mu     sync.Mutex // against Writer.Place, which flushes
	frame  *Frame
	buf    []byte // from w.buffers; nil when empty
	limit  int    // what buf may hold: more when all chunks are of large files
	chunks []pack.Chunk
}

// largeChunk is the least length of a chunk of a large file, in bytes.
const largeChunk = 256 << 10

// NewFramer makes a Framer for one goroutine.
func (w *Writer) NewFramer() *Framer {
	f := &Framer{w: w, frame: newFrame(), limit: pack.LargeFrame}
	w.mu.Lock()
	w.framers = append(w.framers, f)
	w.mu.Unlock()
	return f
}

// Add stores content, whose ID is id, unless the repository has it, and reports
// whether it does. content is not kept.
func (f *Framer) Add(id [32]byte, content []byte) (ref ChunkRef, stored bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := pack.FrameTarget
	if len(content) >= largeChunk {
		limit = pack.LargeFrame
	}
	alone := len(content) >= limit
	frame, at := f.frame, len(f.buf)
	if alone || at+len(content) > min(limit, f.limit) {
		frame, at = newFrame(), 0
	}
	ref, mine := f.w.claim(id, frame, uint32(at))
	if !mine {
		return ref, false, nil
	}
	f.w.newBytes.Add(uint64(len(content)))
	chunk := pack.Chunk{ID: id, Len: uint32(len(content))}
	if alone {
		buf, err := f.w.buffer(len(content))
		if err != nil {
			return ref, false, err
		}
		return ref, true, f.w.send(frameJob{frame, append(buf, content...), []pack.Chunk{chunk}})
	}
	if frame != f.frame {
		if err := f.flush(); err != nil {
			return ref, false, err
		}
		f.frame = frame
	}
	f.limit = min(limit, f.limit)
	if f.buf == nil {
		if f.buf, err = f.w.buffer(f.limit); err != nil {
			return ref, false, err
		}
	}
	f.buf = append(f.buf, content...)
	f.chunks = append(f.chunks, chunk)
	return ref, true, nil
}

// flush sends what is gathered to the compressors; f.mu is held.
func (f *Framer) flush() error {
	if len(f.chunks) == 0 {
		return nil
	}
	job := frameJob{f.frame, f.buf, f.chunks}
	f.frame, f.buf, f.limit, f.chunks = newFrame(), nil, pack.LargeFrame, nil
	return f.w.send(job)
}

// frameJob is the content of a frame on its way to a compressor, which owns it.
type frameJob struct {
	frame   *Frame
	content []byte
	chunks  []pack.Chunk
}

// buffer is one of at least size bytes, when one is free.
func (w *Writer) buffer(size int) ([]byte, error) {
	select {
	case b := <-w.buffers:
		if cap(b) < size {
			b = make([]byte, 0, (size+pack.FrameTarget-1)/pack.FrameTarget*pack.FrameTarget)
		}
		return b, nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

func (w *Writer) send(job frameJob) error {
	select {
	case w.jobs <- job:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// compress turns jobs into sealed frames until there are no more.
func (w *Writer) compress() error {
	comp := pack.NewCompressor(w.level)
	var out []byte
	for {
		select {
		case job, ok := <-w.jobs:
			if !ok {
				return nil
			}
			out = comp.Frame(out[:0], job.content)
			if err := w.data.add(w.ctx, job.frame, out, len(job.content), job.chunks); err != nil {
				return err
			}
			w.buffers <- job.content[:0]
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

// Place waits until a chunk is durable, or lies in the object that the manifest is to
// follow in, and returns where it lies: the hash of that object comes with it. When
// pressed yields, the caller wants it now: everything gathered is sent on its way.
func (w *Writer) Place(c ChunkRef, pressed <-chan struct{}) (in *pack.Ref, frameOffset, frameLen, offset uint32, err error) {
	if c.frame == nil {
		return c.known.Pack, c.known.FrameOffset, c.known.FrameLen, c.known.Offset, nil
	}
	wait := func(done, or <-chan struct{}) error {
		select {
		case <-done:
			return nil
		case <-or:
			return nil
		case <-pressed:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		if err := w.flush(c.frame); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-or:
			return nil
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
	if err = wait(c.frame.placed, nil); err == nil {
		err = wait(c.frame.pack.durable, c.frame.pack.shared)
	}
	if err != nil {
		return nil, 0, 0, 0, err
	}
	return &c.frame.pack.info, c.frame.offset, c.frame.len, c.offset, nil
}

// flush sends frame and the pack that it is in on their way, if they are not.
func (w *Writer) flush(frame *Frame) error {
	select {
	case <-frame.placed:
	default:
		if err := w.flushFramers(); err != nil {
			return err
		}
	}
	select {
	case <-frame.placed:
		w.data.flush(frame.pack)
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

func (w *Writer) flushFramers() error {
	w.mu.Lock()
	framers := w.framers
	w.mu.Unlock()
	for _, f := range framers {
		f.mu.Lock()
		err := f.flush()
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// CloseChunks must be called when no chunk will be added any more. It starts the
// upload of the last ones; where they are few, the manifest follows in their pack.
func (w *Writer) CloseChunks() error {
	if err := w.closeChunks(); err != nil {
		return err
	}
	if w.apart || !w.meta.share(w.data) {
		w.data.flush(w.data.last())
	}
	return nil
}

func (w *Writer) closeChunks() error {
	if err := w.flushFramers(); err != nil {
		return err
	}
	close(w.jobs)
	return w.compressors.Wait()
}

// Flush must be called when no chunk will be added any more. It waits until all are
// durable. It ends a writer that makes no manifest.
func (w *Writer) Flush() error {
	if err := w.closeChunks(); err != nil {
		return err
	}
	w.data.flush(w.data.last())
	return w.uploads.Wait()
}

// Home is the object with chunks of files in which the next segment will lie, of so
// much weight and so what its hints call their own object; nil when it will lie in a
// manifest container. The hash of the object comes with the manifest.
func (w *Writer) Home(weight int) (*pack.Ref, error) {
	o := w.meta.last()
	if o == nil || o.info.Kind != wire.KindPack {
		return nil, nil
	}
	if o.builder.Size()+weight <= metaTarget {
		return &o.info, nil
	}
	w.meta.flush(o)
	select {
	case <-o.durable:
		return nil, nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

// AddSegment stores the content of a segment of the manifest, compressed
// into plaintext by pack.Compressor.Frame, and returns its frame.
func (w *Writer) AddSegment(id [32]byte, plaintext []byte, contentLen int) (*Frame, error) {
	f := newFrame()
	return f, w.meta.add(w.ctx, f, plaintext, contentLen, []pack.Chunk{{ID: id, Len: uint32(contentLen)}})
}

// SegmentPlace is where a segment of this writer lies: Container is nil
// for the container that holds the table.
type SegmentPlace struct {
	Container         *pack.Ref
	Offset, SealedLen uint32
}

// Manifest is how a root names the table that lies there.
func (p SegmentPlace) Manifest() statement.ManifestRef {
	return statement.ManifestRef{Kind: p.Container.Kind, Hash: p.Container.Hash, Size: p.Container.Size, Offset: uint64(p.Offset), Length: uint64(p.SealedLen)}
}

// SegmentPlace returns where the segment of a frame lies. It may be called when
// all segments were added, and until FinishManifest.
func (w *Writer) SegmentPlace(f *Frame) SegmentPlace {
	p := SegmentPlace{Offset: f.offset, SealedLen: f.len}
	if f.pack != w.meta.last() {
		p.Container = &f.pack.info
	}
	return p
}

// FinishManifest writes the table and the list of objects to the end of the last
// container, waits until everything that was written is durable, and returns where
// the table lies.
func (w *Writer) FinishManifest(table []byte, list pack.ObjectList) (SegmentPlace, error) {
	plaintext := pack.NewCompressor(w.level).Frame(nil, table)
	f, o, err := w.meta.finishWith(w.ctx, plaintext, len(table), list)
	if err == nil {
		err = w.uploads.Wait()
	}
	if err != nil {
		return SegmentPlace{}, err
	}
	return SegmentPlace{&o.info, f.offset, f.len}, nil
}

// Abort ends the writer: it waits for uploads under way, which end early. It may
// be called after FinishManifest, to no effect on what is stored.
func (w *Writer) Abort() {
	w.fail(context.Canceled)
	w.compressors.Wait()
	w.uploads.Wait()
}
