package objects

import (
	"context"
	"iter"
	"sync"

	"knowngood/storage/index"
	"knowngood/storage/pack"
)

// Place is where a chunk may lie, with what opens it there.
type Place struct {
	Pack        pack.Ref
	FrameOffset uint32 // of the sealed frame, in the pack
	FrameLen    uint32 // sealed
	Offset      uint32 // in the frame's content
}

func placeOf(loc index.Location) Place {
	return Place{*loc.Pack, loc.FrameOffset, loc.FrameLen, loc.Offset}
}

// places is what finds chunks whose hints fail, opened when it is first needed.
type places struct {
	opened sync.Once
	index  *IndexReader
	err    error

	read     sync.Once
	contents *index.Table // made of what every pack lists that it holds
	readErr  error
	mu       sync.Mutex
	others   map[[32]byte][]Place // of chunks that several packs hold, the places that are not in contents
}

// Places yields where a chunk may lie other than where it was not found: each
// place that an index run names, then each that a pack names in its contents. A
// run may be wrong, whoever signed it, and may have gone by a copy that is deleted
// since: only whoever reads the chunk and compares it with its ID has found it.
// An error ends it.
func (r *Reader) Places(ctx context.Context, id [32]byte, failed Place) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		p := &r.places
		p.opened.Do(func() {
			if p.index, p.err = r.repo.ReadIndex(ctx, r.host, r.Domain(), nil); p.err == nil {
				p.err = p.index.adoptPacks(ctx)
			}
		})
		if p.err != nil {
			yield(Place{}, p.err)
			return
		}
		tried := map[Place]bool{failed: true}
		try := func(at Place) bool {
			if tried[at] {
				return true
			}
			tried[at] = true
			return yield(at, nil)
		}
		for _, loc := range p.index.runs.table.Places(id) {
			if !try(placeOf(loc)) {
				return
			}
		}

		p.read.Do(func() { p.readErr = p.readContents(ctx) })
		if p.readErr != nil {
			yield(Place{}, p.readErr)
			return
		}
		for _, loc := range p.contents.Places(id) {
			if !try(placeOf(loc)) {
				return
			}
		}
		for _, at := range p.others[id] {
			if !try(at) {
				return
			}
		}
	}
}

// readContents reads the contents of every pack.
func (p *places) readContents(ctx context.Context) error {
	p.contents, p.others = p.index.Scratch(), map[[32]byte][]Place{}
	everything := func([32]byte) bool { return false }
	return p.index.readContents(ctx, everything, func(info pack.Ref, c *pack.Contents) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, f := range c.Files {
			for _, chunk := range f.Chunks {
				if loc, ok := p.contents.Lookup(chunk.ID); ok {
					p.others[chunk.ID] = append(p.others[chunk.ID], placeOf(loc))
				}
			}
		}
		return p.contents.Add(info, c.Files)
	})
}

// Close releases what Places needed.
func (r *Reader) Close() {
	if r.places.contents != nil {
		r.places.contents.Close()
	}
	if r.places.index != nil {
		r.places.index.Close()
	}
}
