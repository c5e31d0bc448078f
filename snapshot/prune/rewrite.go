package prune

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// copyOver stores the chunks in use again, in packs of a session of this run,
// and publishes where they lie. It returns how many bytes were stored.
func (r *repacker) copyOver(ctx context.Context, host *trust.Host, x *objects.Index, reader *objects.Reader, packs []*candidate, used map[[32]byte]bool) (uint64, error) {
	epoch, err := r.repo.CurrentEpoch(ctx)
	if err != nil {
		return 0, err
	}
	w, err := r.repo.NewWriter(ctx, host, epoch, x, objects.WriterOptions{})
	if err != nil {
		return 0, err
	}
	defer w.Abort()
	fail := func(err error) (uint64, error) {
		if cause := context.Cause(w.Context()); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return 0, err
	}
	to := w.NewFramer()
	hasher := chunk.NewHasher(r.domain.ChunkKey())
	var object []byte
	room := make([]byte, 0, pack.LargeFrame)
	for _, c := range packs {
		if object, err = reader.Whole(w.Context(), object, wire.KindPack, c.id.Hash, int64(c.size)); err != nil {
			return fail(err)
		}
		r.Progress.Read.Add(uint64(len(object)))
		if err := c.same(object, r.domain); err != nil {
			return fail(&authentic.DamageError{Key: deletion.Key(r.facts.host, r.facts.domain, c.id), What: "pack", Err: err})
		}
		ref := c.tail.Ref(c.id.Hash)
		for _, f := range c.table.Files {
			if !slices.ContainsFunc(f.Chunks, func(ch pack.Chunk) bool { return used[ch.ID] }) {
				continue
			}
			content, err := reader.Open(w.Context(), room, &ref, f.Offset, object[f.Offset:f.Offset+f.SealedLen])
			if err != nil {
				return fail(err)
			}
			at := uint32(0)
			for _, ch := range f.Chunks {
				end := at + ch.Len
				if used[ch.ID] {
					if int(end) > len(content) || hasher.ID(content[at:end]) != ch.ID {
						return fail(&authentic.DamageError{Key: deletion.Key(r.facts.host, r.facts.domain, c.id), What: "pack", Err: fmt.Errorf("chunk %x does not verify", ch.ID[:8])})
					}
					if _, _, err := to.Add(ch.ID, content[at:end]); err != nil {
						return fail(err)
					}
				}
				at = end
			}
		}
	}
	if err := w.Flush(); err != nil {
		return fail(err)
	}
	if again, err := x.Revalidate(ctx); err != nil || again {
		return 0, cmp.Or(err, objects.ErrOvertaken) // what was rewritten is there for the next run
	}
	if _, err := x.Publish(ctx, w); err != nil {
		return fail(err)
	}
	return w.StoredBytes(), nil
}

// same makes sure that the pack, which has the bytes of its name, has the
// table by which it was chosen: that was read from whatever the store showed.
func (c *candidate) same(object []byte, domain *seal.Domain) error {
	tail, err := pack.ParseTail(wire.KindPack, object, int64(len(object)))
	if err != nil {
		return err
	}
	table, err := tail.Contents(wire.KindPack, domain)
	if err != nil {
		return err
	}
	if tail.Salt != c.tail.Salt || !bytes.Equal(table.Append(nil), c.table.Append(nil)) {
		return errors.New("the store showed another object in its place")
	}
	return nil
}

// verify makes sure that every chunk in use lies in another pack, which is in
// the store, and returns those packs for each old one. It adds them to the
// inventory.
func (r *repacker) verify(ctx context.Context, x *objects.Index, packs []*candidate, used map[[32]byte]bool) ([]replacement, error) {
	var manifests [][32]byte
	for _, m := range r.needy(packs) {
		manifests = append(manifests, m.Body.Manifest.Hash)
	}
	slices.SortFunc(manifests, deletion.CompareHashes)
	var out []replacement
	sizes := map[[32]byte]uint64{}
	for _, c := range packs {
		in := map[[32]byte]bool{}
		for _, f := range c.table.Files {
			for _, ch := range f.Chunks {
				if !used[ch.ID] {
					continue
				}
				loc, ok := x.Lookup(ch.ID)
				if !ok || loc.Len != ch.Len {
					return nil, fmt.Errorf("chunk %x was rewritten, and the index does not have it: %w", ch.ID[:8], objects.ErrOvertaken)
				}
				in[loc.Pack.Hash], sizes[loc.Pack.Hash] = true, loc.Pack.Size
			}
		}
		out = append(out, replacement{c.id.Hash, slices.SortedFunc(maps.Keys(in), deletion.CompareHashes), manifests})
	}
	var into []pack.Object
	for h, size := range sizes {
		into = append(into, pack.Object{Kind: wire.KindPack, Hash: h, Size: size})
	}
	if err := x.Verify(ctx, into, true); err != nil {
		return nil, err
	}
	for _, o := range into {
		r.facts.objects[deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}] = object{o.Size, r.facts.now}
	}
	return out, nil
}
