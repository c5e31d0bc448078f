package objects

import (
	"context"
	"slices"

	"knowngood/storage/deletion"
	"knowngood/storage/trust"
)

// RebuildIndex replaces the index runs of the host's own domain that are missing or
// damaged in the store, and returns their hashes, sorted. What they held is taken
// from the contents of the packs, and from the copies in the state directory of
// those that are missing, and published in runs that replace them. Where none is
// missing or damaged it publishes nothing. named are the runs that the newest root
// has seen.
func (r *Objects) RebuildIndex(ctx context.Context, host *trust.Host, named [][32]byte) (replaced [][32]byte, err error) {
	x, err := r.OpenIndex(ctx, host, Verification{Listing: true, runs: true})
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
