package objects

import (
	"context"
	"maps"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/pack"
	"knowngood/storage/trust"
)

// Index is where a capture finds the chunks of the host's own domain, and adds
// those that it stores.
type Index struct {
	*Holdings
	marker *marker
}

// OpenIndex opens the index of the host's own domain for a capture. It includes
// packs that a killed capture left, or that no index run names because everything
// local was lost: these are found by a listing.
//
// The packs that it knows are compared with a listing that is less than a day
// old, or as v has it. What lies in packs that the store lost, or that are
// damaged, counts as not stored.
func (r *Objects) OpenIndex(ctx context.Context, host *trust.Host, v Verification) (*Index, error) {
	began := time.Now()
	own := domain{host.Domain, r, host.Name}
	view, err := r.ownView(ctx, own, v.Data || v.runs)
	if err != nil {
		return nil, err
	}
	x := &Index{Holdings: &Holdings{domain: own, view: view, inventory: own.ownInventory(), began: began}}
	if err := x.prepare(ctx, v); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// prepare marks the capture and compares the index with the store. Where the index
// may lack something, it adds the packs that no run names.
func (x *Index) prepare(ctx context.Context, v Verification) (err error) {
	if x.marker, err = x.placeMarker(); err != nil {
		return err
	}
	adopt := !x.loaded.complete || len(x.marker.stale) > 0 || v.Data || v.runs
	v.Listing = v.Listing || adopt
	if err := x.compare(ctx, v); err != nil || !adopt {
		return err
	}
	if err := x.adoptPacks(ctx); err != nil {
		return err
	}
	x.runs.supersede(x.loaded.damaged)
	return nil
}

// adoptPacks adds the contents of every pack of the inventory, which was just
// taken, that no run names.
func (x *Index) adoptPacks(ctx context.Context) error {
	known := x.runs.table.PackSizes()
	damaged, err := x.readContents(ctx, x.inventory.objects(wire.KindPack), nil, func(hash [32]byte) bool {
		_, have := known[hash]
		return have || x.Absent(wire.KindPack, hash)
	}, func(info pack.Ref, c *pack.Contents) error {
		// It may have been found beneath other bytes, of another size.
		x.inventory.found(ID{Kind: wire.KindPack, Hash: info.Hash}, info.Size)
		return x.add(info, c)
	})
	if err == nil {
		_, err = x.examine(ctx, damaged, nil)
	}
	return err
}

func (x *Index) add(info pack.Ref, c *pack.Contents) error {
	return x.runs.table.Add(info, c.Files)
}

// LostPack is the lost pack that a chunk lay in; ok is false when it lay in none,
// as far as the index knows.
func (x *Index) LostPack(id [32]byte) (hash [32]byte, ok bool) { return x.runs.table.LostPack(id) }

// Contents is how many bytes of content some packs hold, as far as the index knows.
func (x *Index) Contents(packs map[[32]byte]bool) map[[32]byte]uint64 {
	return x.runs.table.Contents(packs)
}

// Usable returns a function that reports whether a pack may be referred to: the
// index knows it, and it is not absent.
func (x *Index) Usable() func(hash [32]byte) bool {
	known := x.runs.table.PackSizes()
	return func(hash [32]byte) bool {
		_, ok := known[hash]
		return ok && !x.Absent(wire.KindPack, hash)
	}
}

// Exclude makes lookups treat what lies in packs as not stored, until the pending
// deletions are read again.
func (x *Index) Exclude(packs map[[32]byte]bool) {
	absent := x.deletions.Packs(deletion.Announced, deletion.Deleted)
	maps.Copy(absent, packs)
	x.runs.table.PassOver(absent, x.deletions.Packs(deletion.Deleted))
}

// PublishMany is Publish, unless little was added: then it is left to Hold.
func (x *Index) PublishMany(ctx context.Context, w *Writer) ([][32]byte, error) {
	if len(x.runs.superseded) == 0 && x.runs.table.Few() {
		return x.runs.hashes(), nil
	}
	return x.Publish(ctx, w)
}

// Hold keeps what was added since Publish in the state directory, for a later capture
// to publish. It belongs after the manifest, in whose pack the last chunks may lie.
func (x *Index) Hold() error {
	x.runs.mu.Lock()
	defer x.runs.mu.Unlock()
	if err := x.runs.table.Hold(); err != nil {
		return err
	}
	x.marker.removeStale()
	return nil
}

// Publish writes what was added as index runs, merges small ones, and returns the
// hashes of all live runs, sorted. It may be called repeatedly.
func (x *Index) Publish(ctx context.Context, w *Writer) ([][32]byte, error) {
	x.runs.mu.Lock()
	defer x.runs.mu.Unlock()
	p := &publication{runs: x.runs, host: w.host}
	defer func() { w.stored.Add(p.stored) }()
	if err := p.added(ctx); err != nil {
		return nil, err
	}
	if err := p.merge(ctx); err != nil {
		return nil, err
	}
	if err := x.runs.cache.Keep(x.runs.table.Runs()); err != nil {
		return nil, err
	}
	x.marker.removeStale()

	if err := x.runs.table.Cover(); err != nil {
		return nil, err
	}
	return x.runs.hashes(), nil
}

// Done must be called when the capture is complete: then the next one does not
// look for packs that this one left.
func (x *Index) Done() {
	x.inventory.save()
	x.marker.remove()
}

// Close releases the index. The marker of a capture that is not Done stays, for
// the next one.
func (x *Index) Close() {
	x.runs.close()
	x.marker.close()
}
