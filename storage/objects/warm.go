package objects

import (
	"context"
	"knowngood/storage/trust"
	"sync"
	"time"
)

// maxUnverified is how long a writer may rely on what it saw in the store
// before it looks again; docs/FORMAT.md, section 10.
const maxUnverified = 24 * time.Hour

// warm is the index of the host's own domain, kept open between runs. Several
// runs may use it at once.
type warm struct {
	mu    sync.Mutex // held by whoever takes runs in, or publishes
	index *Index     // nil until first opened
}

// warmIndex is the index as the store showed it at most r.keepIndex ago. It
// tells whether the index is known to be complete.
func (r *Objects) warmIndex(ctx context.Context, host *trust.Host) (x *Index, complete bool, err error) {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.index != nil && w.index.domain.ID != host.Domain.ID { // enrolled anew
		w.index.table.Close()
		w.index = nil
	}
	opened := false
	if w.index == nil {
		if w.index, err = r.openIndex(ctx, host.Name, host.Domain, r.indexDir(host.Domain.ID)); err != nil {
			return nil, false, err
		}
		opened = true
	}
	if opened || w.index.age() >= min(r.keepIndex, maxUnverified/2) || r.toldSince(w.index) {
		now := time.Now()
		if complete, err = w.index.sync(ctx); err != nil {
			if opened {
				w.index.table.Close()
				w.index = nil
			}
			return nil, false, err
		}
		w.index.synced = now
	}
	run := *w.index
	run.shared = w
	return &run, complete || !opened, nil
}

// toldSince tells whether another process on this machine, a prune by hand say,
// has announced or deleted something since the index looked at that.
func (r *Objects) toldSince(x *Index) bool {
	next := x.deletions.Free()
	if next == 0 || r.t.State.None() {
		return false
	}
	_, err := r.t.State.Dir().Stat(r.d.PendingFile(x.host, x.domain.ID, next))
	return err == nil
}

// LookAnew makes the next run compare the index with the store, however short
// ago that was done.
func (r *Objects) LookAnew() {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.index != nil {
		w.index.synced = time.Time{}
	}
}

// Close releases what is kept between runs. No run may be under way.
func (r *Objects) Close() {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.index != nil {
		w.index.table.Close()
		w.index = nil
	}
}

// KnownBytes are the stored bytes of the packs that the index kept open knows;
// 0 while none is.
func (r *Objects) KnownBytes() uint64 {
	w := &r.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.index == nil {
		return 0
	}
	sum := uint64(0)
	for _, n := range w.index.table.PackSizes() {
		sum += n
	}
	return sum
}
