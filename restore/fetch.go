package restore

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

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
	// rangesInFlight is how many requests run at once.
	rangesInFlight = 16
	rangeBytes     = 2 << 20  // of one request
	rangeGap       = 64 << 10 // that is read along rather than asked for anew
	windowBytes    = 64 << 20 // of content planned together
	windowChunks   = 16 << 10 // likewise
	memoryBudget   = 32 << 20 // sealed bytes in flight
)

// wrongContent says that a chunk in a pack does not have the content of its ID.
func wrongContent(r *objects.Reader, hash [32]byte) error {
	return &authentic.DamageError{Key: layout.KeyPack(r.Host(), r.Domain().ID, hash), What: wire.KindPack.String(), Err: errors.New("a chunk in it has not the content of its ID")}
}

// use is a place that a chunk is written to.
type use struct {
	file  *file
	index int    // of the chunk
	at    uint64 // offset in the file's content, holes left out
}

// frame is a sealed frame with what is wanted of it.
type frame struct {
	ref         *pack.Ref
	offset, len uint32
	uses        []use
}

// rangeJob is a range of a pack that is read in one request.
type rangeJob struct {
	ref         *pack.Ref
	offset, len uint32
	frames      []*frame
}

type frameKey struct {
	hash   [32]byte
	offset uint32
}

// window gathers what is wanted until there is enough to plan ranges.
type window struct {
	r      *restorer
	mu     sync.Mutex
	frames map[frameKey]*frame
	order  []*frame
	chunks int
	bytes  uint64
}

func newWindow(r *restorer) *window { return &window{r: r, frames: map[frameKey]*frame{}} }

// add plans all chunks of a file that are still to be written.
func (w *window) add(ctx context.Context, f *file) error {
	chunks := f.entry.Chunks
	need := 0
	for i := range chunks {
		if !f.have(i) {
			need++
		}
	}
	f.left.Store(int64(need))
	if need == 0 {
		return w.r.fatal(f.entry.Path, f.finish(w.r))
	}
	at := uint64(0)
	for i := range chunks {
		c := &chunks[i]
		if !f.have(i) {
			if err := w.use(ctx, c, use{f, i, at}); err != nil {
				return err
			}
		}
		at += uint64(c.Len)
	}
	return nil
}

func (w *window) use(ctx context.Context, c *manifest.Chunk, u use) error {
	w.mu.Lock()
	key := frameKey{c.Loc.Pack.Hash, c.Loc.FrameOffset}
	fr := w.frames[key]
	if fr == nil {
		fr = &frame{ref: c.Loc.Pack, offset: c.Loc.FrameOffset, len: c.Loc.FrameLen}
		w.frames[key] = fr
		w.order = append(w.order, fr)
	}
	fr.uses = append(fr.uses, u)
	w.chunks++
	w.bytes += uint64(c.Len)
	full := w.chunks >= windowChunks || w.bytes >= windowBytes
	var plan []*rangeJob
	if full {
		plan = w.take()
	}
	w.mu.Unlock()
	return w.send(ctx, plan)
}

func (w *window) flush(ctx context.Context) error {
	w.mu.Lock()
	plan := w.take()
	w.mu.Unlock()
	return w.send(ctx, plan)
}

func (w *window) send(ctx context.Context, plan []*rangeJob) error {
	for _, job := range plan {
		select {
		case w.r.ranges <- job:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// take turns what is gathered into ranges: packs in order of first use, the
// frames of each by offset, neighbours in one range.
func (w *window) take() []*rangeJob {
	packs := map[[32]byte]int{}
	for _, f := range w.order {
		if _, ok := packs[f.ref.Hash]; !ok {
			packs[f.ref.Hash] = len(packs)
		}
	}
	slices.SortFunc(w.order, func(a, b *frame) int {
		if d := packs[a.ref.Hash] - packs[b.ref.Hash]; d != 0 {
			return d
		}
		return int(int64(a.offset) - int64(b.offset))
	})
	var plan []*rangeJob
	for _, f := range w.order {
		if n := len(plan); n > 0 {
			j := plan[n-1]
			end := j.offset + j.len
			if j.ref.Hash == f.ref.Hash && f.offset >= end && f.offset-end <= rangeGap && uint64(f.offset)+uint64(f.len)-uint64(j.offset) <= rangeBytes {
				j.len = f.offset + f.len - j.offset
				j.frames = append(j.frames, f)
				continue
			}
		}
		plan = append(plan, &rangeJob{ref: f.ref, offset: f.offset, len: f.len, frames: []*frame{f}})
	}
	w.frames, w.order, w.chunks, w.bytes = map[frameKey]*frame{}, nil, 0, 0
	return plan
}

// fetcher reads ranges and writes what is in them. Many ranges are on their
// way at once; a few, as many as there are cores, are decoded and written.
type fetcher struct {
	r       *restorer
	budget  *semaphore.Weighted // of sealed bytes
	decoder chan *decoder

	mu     sync.Mutex
	sealed [][]byte // buffers to be used again
}

// decoder is the memory that opening frames takes.
type decoder struct {
	hasher  *chunk.Hasher
	content []byte
}

func newFetcher(r *restorer) *fetcher {
	f := &fetcher{r: r, budget: semaphore.NewWeighted(memoryBudget), decoder: make(chan *decoder, runtime.GOMAXPROCS(0)+1)}
	for range cap(f.decoder) {
		f.decoder <- &decoder{hasher: chunk.NewHasher(r.Tree.Reader.Domain().ChunkKey())}
	}
	return f
}

func (f *fetcher) work(ctx context.Context) error {
	for {
		select {
		case job, ok := <-f.r.ranges:
			if !ok {
				return nil
			}
			weight := min(int64(job.len), memoryBudget)
			if err := f.budget.Acquire(ctx, weight); err != nil {
				return context.Cause(ctx)
			}
			err := f.job(ctx, job)
			f.budget.Release(weight)
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// buffer is one for n sealed bytes.
func (f *fetcher) buffer(n int) []byte {
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

func (f *fetcher) release(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(b) == 0 || len(f.sealed) == rangesInFlight {
		return
	}
	f.sealed = append(f.sealed, b)
}

// job reads one range, and opens and writes its frames.
func (f *fetcher) job(ctx context.Context, job *rangeJob) error {
	reader := f.r.Tree.Reader
	buffer := f.buffer(int(job.len))
	defer f.release(buffer)
	sealed, err := reader.Read(ctx, buffer[:0], wire.KindPack, job.ref.Hash, int64(job.offset), int64(job.len))
	if err == nil {
		f.r.Progress.Fetched.Add(uint64(len(sealed)))
	} else if !authentic.Damaged(err) {
		return err
	}
	d := <-f.decoder
	defer func() { f.decoder <- d }()
	h := d.hasher
	for _, fr := range job.frames {
		c, ferr := []byte(nil), err
		switch {
		case err == nil:
			at := fr.offset - job.offset
			c, ferr = reader.Open(ctx, d.content[:0], wire.KindPack, fr.ref, fr.offset, sealed[at:at+fr.len])
			if authentic.Damaged(ferr) {
				// The reply may be damaged, or the object covered by another.
				c, ferr = reader.Frame(ctx, wire.KindPack, fr.ref, fr.offset, fr.len)
			}
		case len(job.frames) > 1 && !errors.Is(err, storage.ErrNotFound):
			// The object may have been cut behind this frame.
			c, ferr = reader.Frame(ctx, wire.KindPack, fr.ref, fr.offset, fr.len)
		}
		if ferr != nil {
			if !authentic.Damaged(ferr) {
				return ferr
			}
			if e := f.elsewhere(ctx, h, fr, ferr); e != nil {
				return e
			}
			continue
		}
		d.content = c
		if err := f.frame(ctx, h, fr, c); err != nil {
			return err
		}
	}
	return nil
}

// frame writes the chunks of an opened frame where they are wanted.
func (f *fetcher) frame(ctx context.Context, h *chunk.Hasher, fr *frame, content []byte) error {
	slices.SortFunc(fr.uses, func(a, b use) int {
		return int(int64(a.chunk().Loc.Offset) - int64(b.chunk().Loc.Offset))
	})
	var last *manifest.Chunk
	var copies located
	good := false
	for _, u := range fr.uses {
		c := u.chunk()
		from, to := uint64(c.Loc.Offset), uint64(c.Loc.Offset)+uint64(c.Len)
		if last == nil || last.Loc.Offset != c.Loc.Offset || last.ID != c.ID || last.Len != c.Len {
			last = c
			good = to <= uint64(len(content)) && h.ID(content[from:to]) == c.ID
		}
		if !good {
			if err := f.elsewhereChunk(ctx, h, u, wrongContent(f.r.Tree.Reader, fr.ref.Hash), &copies); err != nil {
				return err
			}
			continue
		}
		if err := u.file.write(f.r, u, content[from:to]); err != nil {
			return err
		}
	}
	return nil
}

func (u *use) chunk() *manifest.Chunk { return &u.file.entry.Chunks[u.index] }

// elsewhere looks for other copies of the chunks of a frame that is lost.
func (f *fetcher) elsewhere(ctx context.Context, h *chunk.Hasher, fr *frame, cause error) error {
	var copies located
	for _, u := range fr.uses {
		if err := f.elsewhereChunk(ctx, h, u, cause, &copies); err != nil {
			return err
		}
	}
	return nil
}

// located is the frame that copies of chunks were last read from: those of a
// pack that was rewritten mostly lie together again.
type located struct {
	at      objects.Place // of one of its chunks
	content []byte        // nil when there is none
}

// placeOf is where an entry says that a chunk lies.
func placeOf(c *manifest.Chunk) objects.Place {
	return objects.Place{Pack: *c.Loc.Pack, FrameOffset: c.Loc.FrameOffset, FrameLen: c.Loc.FrameLen, Offset: c.Loc.Offset}
}

// elsewhereChunk looks for a chunk in all other places that are named. When it is
// at none of them the file is given up, and named.
func (f *fetcher) elsewhereChunk(ctx context.Context, h *chunk.Hasher, u use, cause error, in *located) error {
	c := u.chunk()
	reader := f.r.Tree.Reader
	for at, err := range reader.Places(ctx, c.ID, placeOf(c)) {
		if err == nil && (in.content == nil || in.at.Pack != at.Pack || in.at.FrameOffset != at.FrameOffset || in.at.FrameLen != at.FrameLen) {
			in.at = at
			in.content, err = reader.Frame(ctx, wire.KindPack, &at.Pack, at.FrameOffset, at.FrameLen)
		}
		if err != nil && !authentic.Damaged(err) && !errors.Is(err, trust.ErrNoUsableIdentity) {
			return err
		}
		if to := uint64(at.Offset) + uint64(c.Len); err == nil && to <= uint64(len(in.content)) && h.ID(in.content[at.Offset:to]) == c.ID {
			return u.file.write(f.r, u, in.content[at.Offset:to])
		}
	}
	u.file.fail(f.r, cause) // the same for all files that it hurts: they are reported together
	return nil
}
