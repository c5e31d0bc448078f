package snapshot

import (
	"context"
	"slices"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
)

// checkParents finds out whether objects that the last manifest refers to are
// lost, or deleted, or about to be: then its entries are looked at one by one,
// and so are its segments. Of what dead runs left each entry is always looked
// at by itself.
func (c *capture) checkParents(ctx context.Context) error {
	if c.parent != nil {
		needed := c.parent.trailer.needed()
		if err := c.index.Expect(ctx, needed); err != nil {
			return err
		}
		c.gaps = slices.ContainsFunc(needed, func(o pack.Object) bool { return c.index.Absent(o.Kind, o.Hash) })
	}
	if len(c.partials) > 0 {
		c.usable = c.index.Usable()
	}
	return nil
}

// gone reports whether the pack of a chunk may not be referred to any more.
func (c *capture) gone(x *manifest.Chunk) bool {
	return c.index.Absent(wire.KindPack, x.Loc.Pack.Hash)
}

// displaced reports whether an entry of the last manifest has chunks in packs
// that are gone.
func (c *capture) displaced(e *manifest.Entry) bool {
	if !c.gaps {
		return false
	}
	for i := range e.Chunks {
		if c.gone(&e.Chunks[i]) {
			return true
		}
	}
	return false
}

// relocated gives a displaced entry the places where its chunks lie now. It is
// nil when one of them is not stored any more.
func (c *capture) relocated(e *manifest.Entry) *manifest.Entry {
	out := *e
	out.Chunks = slices.Clone(e.Chunks)
	for i := range out.Chunks {
		x := &out.Chunks[i]
		if !c.gone(x) {
			continue
		}
		loc, ok := c.index.Lookup(x.ID)
		if !ok || loc.Len != x.Len {
			return nil
		}
		x.Loc = manifest.Location{Pack: &loc.Pack.Ref, FrameOffset: loc.FrameOffset, FrameLen: loc.FrameLen, Offset: loc.Offset}
	}
	return &out
}

// stored tells whether the content of an entry that a dead run left is still
// in the store.
func (c *capture) stored(e *manifest.Entry) bool {
	if c.usable == nil {
		return true
	}
	for i := range e.Chunks {
		if p := e.Chunks[i].Loc.Pack; p == nil || !c.usable(p.Hash) {
			return false
		}
	}
	return true
}

// needed is every object that the snapshot needs.
func (t *localTrailer) needed() []pack.Object {
	return append(slices.Clip(t.objects), pack.Object{Kind: wire.KindManifest, Hash: t.manifest.Hash, Size: t.manifest.Size})
}

// followsParent makes sure that what was taken over from the last manifest is
// still there. The newest snapshot is never deleted; but an older state
// directory may have come back, and its manifest be that of another. Nor may
// the machine have slept since the look that the run rests on.
func (c *capture) followsParent(ctx context.Context, number uint64, t *localTrailer) error {
	if (c.parent == nil || number == c.parent.trailer.number+1) && !c.index.Old() {
		return nil
	}
	return c.index.Verify(ctx, t.needed(), true)
}
