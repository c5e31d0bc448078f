package objects

import (
	"context"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"time"
)

// OpenRuns is ReadRuns; those of this host's own domain are cached where its
// captures cache them.
func (r *Objects) OpenRuns(ctx context.Context, host string, domain *seal.Domain) (*Index, error) {
	own, err := r.t.OwnDomain()
	if err != nil {
		return nil, err
	}
	if own == nil || own.ID != domain.ID || r.t.State.Dir().None() {
		return r.ReadRuns(ctx, host, domain)
	}
	x, err := r.openIndex(ctx, host, domain, r.indexDir(domain.ID))
	if err != nil {
		return nil, err
	}
	x.reading = true
	if _, err = x.sync(ctx); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Replaced are the index runs that are in the store and count as absent,
// because a live one that the store took before a time replaces them, by key;
// and whether there are more that do not count yet for long enough.
func (x *Index) Replaced(ctx context.Context, before time.Time) (old []storage.Object, more bool, err error) {
	by := map[[32]byte][32]byte{}
	live := map[[32]byte]time.Time{}
	for _, run := range x.table.Runs() {
		live[run.Hash] = time.Time{}
		for _, h := range run.Replaces {
			by[h] = run.Hash
		}
	}
	var listed []storage.Object
	for o, err := range x.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(x.host, x.domain.ID)}) {
		if err != nil {
			return nil, false, err
		}
		_, _, _, hash, ok := layout.ParseIndexRunKey(o.Key)
		if _, isLive := live[hash]; isLive {
			live[hash] = o.Modified
		} else if _, replaced := by[hash]; ok && replaced {
			listed = append(listed, o)
		}
	}
	for _, o := range listed {
		_, _, _, hash, _ := layout.ParseIndexRunKey(o.Key)
		if at := live[by[hash]]; at.IsZero() || !at.Before(before) {
			more = true
			continue
		}
		old = append(old, o)
	}
	return old, more || len(x.unread) > 0, nil
}
