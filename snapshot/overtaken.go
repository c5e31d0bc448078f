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
// not stored twice. Of what dead runs left each entry is looked at by itself.
func (c *capture) letGo() {
	if c.parent != nil && slices.ContainsFunc(c.parent.trailer.needed(), func(o pack.Object) bool { return c.index.Absent(o.Kind, o.Hash) }) {
		c.parent.close()
		c.parent = nil
		c.Progress.warn("the last manifest of this host refers to what is being deleted; every file is read again")
	}
	if len(c.partials) > 0 {
		c.usable = c.index.Usable()
	}
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
// directory may have come back, and its manifest be that of another.
func (c *capture) followsParent(ctx context.Context, number uint64, t *localTrailer) error {
	if c.parent == nil || number == c.parent.trailer.number+1 {
		return nil
	}
	return c.index.Verify(ctx, t.needed())
}
