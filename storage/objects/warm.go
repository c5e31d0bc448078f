package objects

import (
	"context"
	"sync"
	"time"

	"knowngood/storage/deletion"
)

// ownView is what the store showed of the index of the host's own domain at a
// time.
type ownView struct {
	runs      *runs
	loaded    *loaded
	deletions *deletion.Deletions
	at        time.Time
}

// refresh loads the runs and reads the pending deletions.
func (v *ownView) refresh(ctx context.Context) error {
	now := time.Now()
	d, err := v.runs.excludeDeleted(ctx, true)
	if err != nil {
		return err
	}
	l, err := v.runs.load(ctx, true)
	if err != nil {
		return err
	}
	v.loaded, v.deletions, v.at = l, d, now
	return nil
}

// warm is the index of the host's own domain, kept open between captures. Several
// captures may use it at once.
type warm struct {
	mu   sync.Mutex
	view ownView // runs is nil until first opened
}

// ownView of the index: the one that is kept open, if one may be.
func (r *Objects) ownView(ctx context.Context, own domain) (v ownView, err error) {
	if r.keepIndex > 0 {
		return r.warm.open(ctx, own, min(r.keepIndex, maxUnverified/2))
	}
	if v.runs, err = own.openRuns(own.indexDir()); err != nil {
		return v, err
	}
	if err = v.refresh(ctx); err != nil {
		v.runs.table.Close()
	}
	return v, err
}

// open returns the index as the store showed it at most maxAge ago.
func (w *warm) open(ctx context.Context, own domain, maxAge time.Duration) (ownView, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view.runs != nil && w.view.runs.ID != own.ID { // enrolled again
		w.drop()
	}
	if w.view.runs == nil {
		runs, err := own.openRuns(own.indexDir())
		if err != nil {
			return ownView{}, err
		}
		fresh := ownView{runs: runs}
		if err := fresh.refresh(ctx); err != nil {
			runs.table.Close()
			return ownView{}, err
		}
		w.view = fresh
		return fresh, nil
	}
	if since(w.view.at) >= maxAge || w.view.changedHere() {
		if err := w.view.refresh(ctx); err != nil {
			return ownView{}, err
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
func (v *ownView) changedHere() bool {
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
		w.view.runs.table.Close()
		w.view = ownView{}
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

// KnownBytes are the stored bytes of the packs that the index kept open knows;
// 0 while none is.
func (r *Objects) KnownBytes() uint64 {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view.runs == nil {
		return 0
	}
	sum := uint64(0)
	for _, n := range w.view.runs.table.PackSizes() {
		sum += n
	}
	return sum
}
