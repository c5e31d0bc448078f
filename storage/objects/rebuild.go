package objects

import (
	"context"
	"slices"

	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/trust"
)

// RebuildIndex replaces the index runs of the host's own domain that are missing or
// damaged in the store, and returns their hashes, sorted. What they held is taken
// from the contents of the packs, and from the copies in the state directory of
// those that are missing, and published in runs that replace them. Where none is
// missing or damaged it publishes nothing. named are the runs that the newest root
// has seen.
func (r *Objects) RebuildIndex(ctx context.Context, host *trust.Host, named [][32]byte) (replaced [][32]byte, err error) {
	if err := (domain{host.Domain, r, host.Name}).dropListedCopies(ctx); err != nil {
		return nil, err
	}
	x, err := r.OpenIndex(ctx, host, Verification{Listing: true})
	if err != nil {
		return nil, err
	}
	defer x.Close()

	if missing := x.loaded.missing(named); len(missing) > 0 {
		if err := x.adoptPacks(ctx); err != nil {
			return nil, err
		}
		x.runs.supersede(missing)
	}
	x.runs.mu.Lock()
	defer x.runs.mu.Unlock()
	replaced = slices.Clone(x.runs.superseded)
	slices.SortFunc(replaced, deletion.CompareHashes)
	replaced = slices.Compact(replaced)
	if len(replaced) > 0 {
		if err := (&publication{runs: x.runs, host: host}).added(ctx); err != nil {
			return nil, err
		}
		if err := x.runs.cache.Keep(x.runs.table.Runs()); err != nil {
			return nil, err
		}
	}
	x.Done()
	return replaced, nil
}

// dropListedCopies removes the copies of index runs that the store lists, so that
// these are fetched and verified.
func (d domain) dropListedCopies(ctx context.Context) error {
	cache, err := index.OpenCache(d.indexDir())
	if err != nil {
		return err
	}
	cached, err := cache.Runs()
	if err != nil {
		return err
	}
	listed := map[[32]byte]bool{}
	for o, err := range d.listRuns(ctx) {
		if err != nil {
			return err
		}
		listed[o.hash] = true
	}
	var keep []index.Info
	for _, hash := range cached {
		if !listed[hash] {
			keep = append(keep, index.Info{Hash: hash})
		}
	}
	return cache.Keep(keep)
}
