package snapshot

import (
	"context"
	"slices"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
)

// letGo lets go of the last manifest when it refers to what is deleted, or
// about to be: then files are read again, and what of them is still stored is
// not stored twice. Not so when all of that was rewritten: then the index tells
// where it lies now. Of what dead runs left each entry is looked at by itself.
func (c *capture) letGo() {
	if c.parent != nil {
		lost := false
		for _, o := range c.parent.trailer.needed() {
			if c.index.Absent(o.Kind, o.Hash) {
				c.moved = true
				lost = lost || o.Kind != wire.KindPack || !c.index.Moved(o.Hash)
			}
		}
		if lost {
			c.parent.close()
			c.parent = nil
			c.Progress.warn("the last manifest of this host refers to what is being deleted; every file is read again")
		}
	}
	if len(c.partials) > 0 {
		c.usable = c.index.Usable()
	}
}

// relocated gives an entry of the last manifest the places where its chunks lie
// now, if one lies in a pack that is deleted, or about to be. It is nil when
// one of them is not stored any more.
func (c *capture) relocated(e *manifest.Entry) *manifest.Entry {
	gone := func(x manifest.Chunk) bool { return c.index.Absent(wire.KindPack, x.Loc.Pack.Hash) }
	if !c.moved || !slices.ContainsFunc(e.Chunks, gone) {
		return e
	}
	out := *e
	out.Chunks = slices.Clone(e.Chunks)
	for i := range out.Chunks {
		x := &out.Chunks[i]
		if !gone(*x) {
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
	return c.index.Verify(ctx, t.needed())
}
