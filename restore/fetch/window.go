package fetch

import (
	"slices"
	"sync"

	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
)

const (
	windowBytes  = 64 << 20 // of content planned together
	windowChunks = 16 << 10 // likewise
	rangeBytes   = 2 << 20  // of one request
	rangeGap     = 64 << 10 // read along, which is cheaper than another request
)

// use is a chunk that is wanted, and by whom.
type use struct {
	to    Sink
	chunk *manifest.Chunk
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
	mu     sync.Mutex
	frames map[frameKey]*frame
	order  []*frame
	chunks int
	bytes  uint64
}

// add adds a wanted chunk. It returns the ranges to be read when the window is
// full.
func (w *window) add(u use) []*rangeJob {
	w.mu.Lock()
	defer w.mu.Unlock()

	loc := &u.chunk.Loc
	key := frameKey{loc.Pack.Hash, loc.FrameOffset}
	fr := w.frames[key]
	if fr == nil {
		fr = &frame{ref: loc.Pack, offset: loc.FrameOffset, len: loc.FrameLen}
		w.frames[key] = fr
		w.order = append(w.order, fr)
	}
	fr.uses = append(fr.uses, u)
	w.chunks++
	w.bytes += uint64(u.chunk.Len)
	if w.chunks < windowChunks && w.bytes < windowBytes {
		return nil
	}
	return w.take()
}

// flush returns the ranges of what is gathered.
func (w *window) flush() []*rangeJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.take()
}

// take turns what is gathered into ranges: packs in order of first use, the
// frames of each by offset, neighbours in one range. mu is held.
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
