// Package fetch reads the chunks that a restore wants: it gathers them in a
// window, reads neighbours in ranges with many requests in flight, opens frames
// on all cores, and verifies each chunk against its ID before it hands it on. A
// chunk that is not where the manifest has it is read from any other place that
// is named. It knows nothing of the target, and writes nothing.
//
// For a dry run, Packs finds out which packs such a restore could read.
package fetch

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/trust"
)

const (
	rangesInFlight = 16       // requests at once
	memoryBudget   = 32 << 20 // sealed bytes in flight, and what chunks in them take
	useMemory      = 1 << 10  // what a wanted chunk takes, with its file
)

// Sink takes the chunks of a file. Its methods are called concurrently.
type Sink interface {
	// Write takes the verified content of one chunk, which the caller uses again
	// afterwards; at is its offset in the file's content, holes left out. An
	// error ends all fetching.
	Write(at uint64, content []byte) error
	// Fail takes the reason why one chunk cannot be read.
	Fail(err error)
}

// Fetcher reads wanted chunks and hands them to their sinks. Many ranges are
// read at once; a few, as many as there are cores, are decoded and written.
type Fetcher struct {
	reader   *objects.Reader
	fetched  *atomic.Uint64
	waited   *Meter
	window   window
	ranges   chan *rangeJob
	budget   *semaphore.Weighted // of memory
	decoders chan *decoder

	mu     sync.Mutex
	sealed [][]byte // buffers to be used again
}

// decoder is the memory that opening frames takes.
type decoder struct {
	hasher  *chunk.Hasher
	content []byte // room for that of a frame
}

// New returns a fetcher of the chunks of a tree, which counts the bytes that it
// reads in fetched, and in waited the time. It fetches nothing before Start.
func New(reader *objects.Reader, fetched *atomic.Uint64, waited *Meter) *Fetcher {
	return &Fetcher{reader: reader, fetched: fetched, waited: waited, ranges: make(chan *rangeJob), window: window{frames: map[frameKey]*frame{}}}
}

// Start fetches in goroutines of a group, until Close or until ctx ends.
func (f *Fetcher) Start(ctx context.Context, g *errgroup.Group) {
	f.budget = semaphore.NewWeighted(memoryBudget)
	f.decoders = make(chan *decoder, runtime.GOMAXPROCS(0)+1)
	for range cap(f.decoders) {
		f.decoders <- &decoder{hasher: chunk.NewHasher(f.reader.Domain().ChunkKey())}
	}
	for range rangesInFlight {
		g.Go(func() error { return f.work(ctx) })
	}
}

// Want asks for a chunk of a file, whose content begins at an offset there. It
// waits when much is wanted already, and may be called concurrently.
func (f *Fetcher) Want(ctx context.Context, c *manifest.Chunk, at uint64, to Sink) error {
	return f.send(ctx, f.window.add(use{to, c, at}))
}

// Flush asks for what is still gathered.
func (f *Fetcher) Flush(ctx context.Context) error { return f.send(ctx, f.window.flush()) }

// Close ends the fetching when all that was sent is read. Nothing may be wanted
// afterwards.
func (f *Fetcher) Close() { close(f.ranges) }

func (f *Fetcher) send(ctx context.Context, plan []*rangeJob) error {
	for _, job := range plan {
		select {
		case f.ranges <- job:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (f *Fetcher) work(ctx context.Context) error {
	for {
		select {
		case job, ok := <-f.ranges:
			if !ok {
				return nil
			}
			weight := int64(job.len)
			for _, fr := range job.frames {
				weight += int64(len(fr.uses)) * useMemory
			}
			weight = min(weight, memoryBudget)
			if err := f.budget.Acquire(ctx, weight); err != nil {
				return context.Cause(ctx)
			}
			err := f.read(ctx, job)
			f.budget.Release(weight)
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// buffer returns one for n sealed bytes.
func (f *Fetcher) buffer(n int) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, b := range slices.Backward(f.sealed) {
		if cap(b) >= n {
			f.sealed = slices.Delete(f.sealed, i, i+1)
			return b
		}
	}
	return make([]byte, 0, max(n, rangeBytes))
}

func (f *Fetcher) release(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(b) == 0 || len(f.sealed) == rangesInFlight {
		return
	}
	f.sealed = append(f.sealed, b)
}

// read reads one range, opens its frames and hands on their chunks.
func (f *Fetcher) read(ctx context.Context, job *rangeJob) error {
	buffer := f.buffer(int(job.len))
	defer f.release(buffer)
	f.waited.begin()
	sealed, err := f.reader.Read(ctx, buffer[:0], job.ref, int64(job.offset), int64(job.len))
	f.waited.end()
	if err == nil {
		f.fetched.Add(uint64(len(sealed)))
	} else if !authentic.Damaged(err) {
		return err
	}

	d := <-f.decoders
	defer func() { f.decoders <- d }()
	if d.content == nil { // few are used for little
		d.content = make([]byte, 0, pack.LargeFrame)
	}
	for _, fr := range job.frames {
		c, ferr := []byte(nil), err
		switch {
		case err == nil:
			at := fr.offset - job.offset
			c, ferr = f.reader.Open(ctx, d.content, fr.ref, fr.offset, sealed[at:at+fr.len])
			if authentic.Damaged(ferr) {
				// The reply may be damaged, or the object covered by another.
				c, ferr = f.reader.Frame(ctx, fr.ref, fr.offset, fr.len)
			}
		case len(job.frames) > 1 && !errors.Is(err, storage.ErrNotFound):
			// The object may have been cut behind this frame.
			c, ferr = f.reader.Frame(ctx, fr.ref, fr.offset, fr.len)
		}
		if ferr != nil {
			if !authentic.Damaged(ferr) {
				return ferr
			}
			if err := f.readCopies(ctx, d.hasher, fr, ferr); err != nil {
				return err
			}
			continue
		}
		if err := f.deliver(ctx, d.hasher, fr, c); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands the chunks of an opened frame to those who want them.
func (f *Fetcher) deliver(ctx context.Context, h *chunk.Hasher, fr *frame, content []byte) error {
	slices.SortFunc(fr.uses, func(a, b use) int {
		return int(int64(a.chunk.Loc.Offset) - int64(b.chunk.Loc.Offset))
	})
	var last *manifest.Chunk
	var copies copies
	good := false
	for _, u := range fr.uses {
		c := u.chunk
		from, to := uint64(c.Loc.Offset), uint64(c.Loc.Offset)+uint64(c.Len)
		if last == nil || last.Loc.Offset != c.Loc.Offset || last.ID != c.ID || last.Len != c.Len {
			last = c
			good = to <= uint64(len(content)) && h.ID(content[from:to]) == c.ID
		}
		if !good {
			if err := copies.read(ctx, f.reader, h, u, wrongContent(f.reader, fr.ref.Hash)); err != nil {
				return err
			}
			continue
		}
		if err := u.to.Write(u.at, content[from:to]); err != nil {
			return err
		}
	}
	return nil
}

// readCopies reads the chunks of a frame that is lost from other places.
func (f *Fetcher) readCopies(ctx context.Context, h *chunk.Hasher, fr *frame, cause error) error {
	var copies copies
	for _, u := range fr.uses {
		if err := copies.read(ctx, f.reader, h, u, cause); err != nil {
			return err
		}
	}
	return nil
}

// copies is the frame that a copy of a chunk was last read from: the copies of
// neighbours mostly lie in one frame, too.
type copies struct {
	at      objects.Place // of one of its chunks
	content []byte        // nil when there is none
}

// placeOf returns where the manifest has a chunk.
func placeOf(c *manifest.Chunk) objects.Place {
	return objects.Place{Pack: *c.Loc.Pack, FrameOffset: c.Loc.FrameOffset, FrameLen: c.Loc.FrameLen, Offset: c.Loc.Offset}
}

// read looks for a chunk in all other places that are named. When it is at none
// of them its sink fails, with the cause: the same error for all files that it
// affects, so that they can be reported together.
func (p *copies) read(ctx context.Context, r *objects.Reader, h *chunk.Hasher, u use, cause error) error {
	for at, err := range r.Places(ctx, u.chunk.ID, placeOf(u.chunk)) {
		if err == nil && (p.content == nil || p.at.Pack != at.Pack || p.at.FrameOffset != at.FrameOffset || p.at.FrameLen != at.FrameLen) {
			p.at = at
			p.content, err = r.Frame(ctx, &at.Pack, at.FrameOffset, at.FrameLen)
		}
		if err != nil && !authentic.Damaged(err) && !errors.Is(err, trust.ErrNoUsableIdentity) {
			return err
		}
		if to := uint64(at.Offset) + uint64(u.chunk.Len); err == nil && to <= uint64(len(p.content)) && h.ID(p.content[at.Offset:to]) == u.chunk.ID {
			return u.to.Write(u.at, p.content[at.Offset:to])
		}
	}
	u.to.Fail(cause)
	return nil
}

// wrongContent reports that a chunk in a pack does not have the content of its ID.
func wrongContent(r *objects.Reader, hash [32]byte) error {
	return &authentic.DamageError{Key: layout.KeyPack(r.Host(), r.Domain().ID, hash), What: wire.KindPack.String(), Err: errors.New("a chunk in it has not the content of its ID")}
}
