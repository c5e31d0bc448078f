package objects

import (
	"context"
	"iter"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/replay"
)

// view is what the store showed of the index of a domain at a time.
type view struct {
	runs      *runs
	loaded    *loaded
	deletions *deletion.Deletions
	at        time.Time
}

// refresh loads the runs and reads the pending deletions, for a capture or for
// reading.
func (v *view) refresh(ctx context.Context, capture bool) error {
	r := v.runs
	store, pending := r.repo.t.Store(), layout.PrefixDeletions(r.host, r.ID)
	at := replay.ListedAt(store, pending)
	d, err := r.excludeDeleted(ctx, capture)
	if err != nil {
		return err
	}
	v.deletions = d
	if v.changedHere() && replay.Distrust(store, pending) {
		return v.refresh(ctx, capture)
	}
	if listed := replay.ListedAt(store, layout.PrefixIndexRuns(r.host, r.ID)); listed.Before(at) {
		at = listed
	}
	l, err := r.load(ctx, capture)
	if err != nil {
		return err
	}
	v.loaded, v.at = l, at
	return nil
}

// Lookup finds a chunk.
func (v *view) Lookup(id [32]byte) (index.Location, bool) { return v.runs.table.Lookup(id) }

// All yields every chunk that the runs name, with where they have it.
func (v *view) All() iter.Seq2[[32]byte, index.Location] { return v.runs.table.All }

// PackSizes are the stored bytes of every pack that the runs name, or that was added.
func (v *view) PackSizes() map[[32]byte]uint64 { return v.runs.table.PackSizes() }

// ownView of the index of the host's own domain; with fetch set, of runs that are
// fetched again.
func (r *Objects) ownView(ctx context.Context, own domain, fetch bool) (v view, err error) {
	if v.runs, err = own.openRuns(own.indexDir()); err != nil {
		return v, err
	}
	if fetch {
		v.runs.again = func([32]byte) bool { return true }
	}
	if err = v.refresh(ctx, true); err != nil {
		v.runs.close()
	}
	return v, err
}

// changedHere reports whether another process on this machine, such as a prune by
// hand, has announced or deleted something since the pending deletions were read.
func (v *view) changedHere() bool {
	r := v.runs.repo
	next := v.deletions.Free()
	if next == 0 || r.t.State.None() {
		return false
	}
	_, err := r.t.State.Dir().Stat(r.d.PendingFile(v.runs.host, v.runs.ID, next))
	return err == nil
}

// KnownBytes are the stored bytes of the packs of this host's domain that the store
// holds, as far as this process knows; 0 where it knows nothing.
func (r *Objects) KnownBytes() (sum uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.inventories {
		v.with(func(known *inventory.Inventory) {
			if known == nil {
				return
			}
			for o := range known.Objects(wire.KindPack) {
				sum += o.Size
			}
		})
	}
	return sum
}
