package snapshot

import (
	"context"
	"slices"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// parents are this host's own copies of what earlier captures recorded: the last
// complete manifest, and those of captures that died.
type parents struct {
	last     *localManifest // nil for none
	partials []*localManifest

	index  *objects.Index           // nil in a dry run
	usable func(pack [32]byte) bool // of what partials refer to; nil: all is
	gaps   bool                     // last refers to objects that are lost or deleted

	vacating vacating
}

// openParents opens the copies of a domain in the directory of an environment.
func openParents(dir userdir.Dir, domain seal.DomainID, dryRun bool) (p parents) {
	if m, err := openLocal(dir); err == nil {
		if m.trailer != nil && m.domain == domain {
			p.last = m
		} else {
			m.close()
		}
	}
	if !dryRun {
		p.partials = leftovers(dir, domain)
	}
	return p
}

func (p *parents) close() {
	if p.last != nil {
		p.last.close()
	}
	for _, m := range p.partials {
		m.close()
	}
}

// check finds out whether objects that the last manifest refers to are lost, or
// deleted, or about to be: then its entries are looked at one by one, and so are
// its segments. Of what dead captures left each entry is always looked at by
// itself.
func (p *parents) check(ctx context.Context, index *objects.Index) error {
	p.index = index
	if p.last != nil {
		needed := p.last.trailer.needed()
		if err := index.Expect(ctx, needed); err != nil {
			return err
		}
		p.gaps = slices.ContainsFunc(needed, func(o pack.Object) bool { return index.Absent(o.Kind, o.Hash) })
	}
	if len(p.partials) > 0 {
		p.usable = index.Usable()
	}
	return nil
}

// gone reports whether the pack of a chunk may not, or should not, be referred to
// any more.
func (p *parents) gone(x *manifest.Chunk) bool {
	return p.index.Absent(wire.KindPack, x.Loc.Pack.Hash) || p.vacating.packs[x.Loc.Pack.Hash]
}

// displaced reports whether an entry of the last manifest has chunks in packs
// that are gone.
func (p *parents) displaced(e *manifest.Entry) bool {
	if p.gaps {
		for i := range e.Chunks {
			if p.index.Absent(wire.KindPack, e.Chunks[i].Loc.Pack.Hash) {
				return true
			}
		}
	}
	return p.vacating.displaces(e)
}

// relocated is a displaced entry with the places where its chunks lie now. It is
// nil when one of them is not stored any more.
func (p *parents) relocated(e *manifest.Entry) *manifest.Entry {
	out := *e
	out.Chunks = slices.Clone(e.Chunks)
	for i := range out.Chunks {
		x := &out.Chunks[i]
		if !p.gone(x) {
			continue
		}
		loc, ok := p.index.Lookup(x.ID)
		if !ok || loc.Len != x.Len {
			return nil
		}
		x.Loc = manifest.Location{Pack: loc.Pack, FrameOffset: loc.FrameOffset, FrameLen: loc.FrameLen, Offset: loc.Offset}
	}
	return &out
}

// lostOf are the chunks of an entry that lie in packs that the store lost.
func (p *parents) lostOf(e *manifest.Entry) (lost []manifest.Chunk) {
	for i := range e.Chunks {
		if x := &e.Chunks[i]; p.index.Lost(wire.KindPack, x.Loc.Pack.Hash) {
			lost = append(lost, *x)
		}
	}
	return lost
}

// stored reports whether the content of an entry that a dead capture left is
// still in the store.
func (p *parents) stored(e *manifest.Entry) bool {
	if p.usable == nil {
		return true
	}
	for i := range e.Chunks {
		if in := e.Chunks[i].Loc.Pack; in == nil || !p.usable(in.Hash) {
			return false
		}
	}
	return true
}

// needed is every object that the snapshot needs.
func (t *localTrailer) needed() []pack.Object {
	return append(slices.Clip(t.objects), pack.Object{Kind: t.manifest.Kind, Hash: t.manifest.Hash, Size: t.manifest.Size})
}

// verify makes sure that what a snapshot of a number took over from the last
// manifest is still there. The newest snapshot is never deleted; but an older
// state directory may have come back, and its manifest be that of another. Nor may
// the machine have slept since the pending deletions were read.
func (p *parents) verify(ctx context.Context, number uint64, t *localTrailer) error {
	if (p.last == nil || number == p.last.trailer.number+1) && !p.index.Old() {
		return nil
	}
	return p.index.Verify(ctx, t.needed(), true)
}
