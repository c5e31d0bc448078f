package objects

import (
	"context"
	"slices"

	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/trust"
)

// RebuildIndex replaces the index runs of the host's own domain that are missing or
// damaged in the store, and returns their hashes, sorted. What they held is taken
// from the contents of the packs, and from the copies in the state directory of
// those that are missing, and published in runs that replace them. Where none is
// missing or damaged it publishes nothing. named are the runs that the newest root
// has seen.
func (r *Objects) RebuildIndex(ctx context.Context, host *trust.Host, named [][32]byte) (replaced [][32]byte, err error) {
	if err := r.forgetListedRuns(ctx, host); err != nil {
		return nil, err
	}
	x, err := r.OpenIndex(ctx, host, Verification{Listing: true})
	if err != nil {
		return nil, err
	}
	defer x.Close()

	if missing := x.MissingRuns(named); len(missing) > 0 {
		if err := x.adoptPacks(ctx); err != nil {
			return nil, err
		}
		x.supersede(missing)
	}
	replaced = slices.Clone(x.superseded.runs)
	slices.SortFunc(replaced, deletion.CompareHashes)
	replaced = slices.Compact(replaced)
	if len(replaced) > 0 {
		if err := x.publishUnsaved(ctx, host, nil); err != nil {
			return nil, err
		}
		if err := x.cache.Keep(x.table.Runs()); err != nil {
			return nil, err
		}
	}
	x.Done()
	return replaced, nil
}

// forgetListedRuns removes the copies of index runs that the store lists, so that
// these are fetched and verified.
func (r *Objects) forgetListedRuns(ctx context.Context, host *trust.Host) error {
	cache, err := index.OpenCache(r.indexDir(host.Domain.ID))
	if err != nil {
		return err
	}
	cached, err := cache.Runs()
	if err != nil {
		return err
	}
	listed := map[[32]byte]bool{}
	for o, err := range r.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(host.Name, host.Domain.ID)}) {
		if err != nil {
			return err
		}
		if _, _, _, hash, ok := layout.ParseIndexRunKey(o.Key); ok {
			listed[hash] = true
		}
	}
	var keep []index.Info
	for _, hash := range cached {
		if !listed[hash] {
			keep = append(keep, index.Info{Hash: hash})
		}
	}
	return cache.Keep(keep)
}
