package objects

import (
	"context"
	"iter"
	"sync"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/inventory"
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
	now := time.Now()
	d, err := v.runs.excludeDeleted(ctx, capture)
	if err != nil {
		return err
	}
	l, err := v.runs.load(ctx, capture)
	if err != nil {
		return err
	}
	v.loaded, v.deletions, v.at = l, d, now
	return nil
}

// Lookup finds a chunk.
func (v *view) Lookup(id [32]byte) (index.Location, bool) { return v.runs.table.Lookup(id) }

// All yields every chunk that the runs name, with where they have it.
func (v *view) All() iter.Seq2[[32]byte, index.Location] { return v.runs.table.All }

// PackSizes are the stored bytes of every pack that the runs name, or that was added.
func (v *view) PackSizes() map[[32]byte]uint64 { return v.runs.table.PackSizes() }

// warm is the index of the host's own domain, kept open between captures. Several
// captures may use it at once.
type warm struct {
	mu   sync.Mutex
	view view // runs is nil until first opened
}

// ownView of the index: the one that is kept open, if one may be; else one of runs that
// are fetched again when fetch is set.
func (r *Objects) ownView(ctx context.Context, own domain, fetch bool) (v view, err error) {
	if r.keepIndex > 0 {
		return r.warm.open(ctx, own, min(r.keepIndex, maxUnverified/2))
	}
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

// open returns the index as the store showed it at most maxAge ago.
func (w *warm) open(ctx context.Context, own domain, maxAge time.Duration) (view, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view.runs != nil && w.view.runs.ID != own.ID { // enrolled again
		w.drop()
	}
	if w.view.runs == nil {
		runs, err := own.openRuns(own.indexDir())
		if err != nil {
			return view{}, err
		}
		fresh := view{runs: runs}
		if err := fresh.refresh(ctx, true); err != nil {
			runs.close()
			return view{}, err
		}
		w.view = fresh
		return fresh, nil
	}
	if since(w.view.at) >= maxAge || w.view.changedHere() {
		if err := w.view.refresh(ctx, true); err != nil {
			return view{}, err
		}
	}
	// What was incomplete when it was opened has been completed since.
	current := w.view
	complete := *current.loaded
	complete.complete = true
	current.loaded = &complete
	return current, nil
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

// drop closes what is kept; w.mu is held.
func (w *warm) drop() {
	if w.view.runs != nil {
		w.view.runs.close()
		w.view = view{}
	}
}

// InvalidateIndex makes the next capture load the index from the store, however
// recently that was done.
func (r *Objects) InvalidateIndex() {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.at = time.Time{}
}

// Close releases what is kept between captures. No capture may be running.
func (r *Objects) Close() {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop()
}

// KnownBytes are the stored bytes of the packs that the store is known to hold for
// the host; 0 while its index is not kept open.
func (r *Objects) KnownBytes() (sum uint64) {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view.runs == nil {
		return 0
	}
	w.view.runs.ownInventory().with(func(known *inventory.Inventory) {
		if known != nil {
			for o := range known.Objects(wire.KindPack) {
				sum += o.Size
			}
		}
	})
	return sum
}
