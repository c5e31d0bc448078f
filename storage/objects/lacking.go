package objects

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Lacking returns those of the snapshots of a host of which some content is in the
// store no more, not even hidden. A snapshot that nothing at hand opens, or whose
// list of objects is damaged, is not among them.
func (r *Objects) Lacking(ctx context.Context, host string, snapshots []*history.Snapshot) ([]*history.Snapshot, error) {
	byDomain := map[seal.DomainID][]*history.Snapshot{}
	for _, s := range snapshots {
		if s.Body != nil {
			byDomain[s.Root.Domain] = append(byDomain[s.Root.Domain], s)
		}
	}
	var mu sync.Mutex
	var out []*history.Snapshot
	for id, of := range byDomain {
		deletions, err := r.d.Deletions(ctx, host, id)
		if err != nil {
			return nil, err
		}
		there, err := domain{&seal.Domain{ID: id}, r, host}.there(ctx)
		if err != nil {
			return nil, err
		}
		reader := r.NewReader(host, of[0].Domain)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(tailsInFlight)
		for _, s := range of {
			g.Go(func() error {
				lacks, err := lacks(gctx, s, reader, deletions, there)
				if lacks {
					mu.Lock()
					defer mu.Unlock()
					out = append(out, s)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// there are the packs and containers of the domain, hidden ones included.
func (d domain) there(ctx context.Context) (map[ID]bool, error) {
	there := map[ID]bool{}
	for _, prefix := range []string{layout.PrefixPacks(d.host, d.ID), layout.PrefixManifests(d.host, d.ID)} {
		listed, _, err := d.listBeneath(ctx, prefix)
		if err != nil {
			return nil, err
		}
		for _, o := range listed {
			there[o.ID] = true
		}
	}
	return there, nil
}

// lacks reports whether something that a snapshot needs is not there.
func lacks(ctx context.Context, s *history.Snapshot, reader *Reader, d *deletion.Deletions, there map[ID]bool) (bool, error) {
	m := s.Body.Manifest
	table := ID{Kind: m.Kind, Hash: m.Hash}
	if !there[table] {
		return true, nil
	}
	objects, err := reader.Objects(ctx, s.Body)
	if errors.Is(err, storage.ErrNotFound) { // the list from which its own differs
		return true, nil
	}
	if authentic.Damaged(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, o := range objects {
		for _, id := range d.Resolve(m.Hash, ID{Kind: o.Kind, Hash: o.Hash}, func(id ID) bool { return there[id] }) {
			if !there[id] {
				return true, nil
			}
		}
	}
	return false, nil
}
