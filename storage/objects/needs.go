package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// Needs finds out which objects snapshots need, for counting the space that they take in
// the store. It asks the store once or twice for each snapshot, and a few times
// for each domain. It is safe for concurrent use.
type Needs struct {
	repo *Objects

	mu      sync.Mutex
	domains map[domainOf]*domainNeeds
}

type domainOf struct {
	host   string
	domain seal.DomainID
}

type domainNeeds struct {
	once      sync.Once
	reader    *Reader // of lists of objects, which share the one from which they differ
	deletions *deletion.Deletions
	listed    map[ID]uint64 // sizes; only where packs were repacked
	err       error
}

// Needs of the snapshots of this repository.
func (r *Objects) Needs() *Needs {
	return &Needs{repo: r, domains: map[domainOf]*domainNeeds{}}
}

// Of returns the objects that a snapshot needs with their stored sizes in bytes,
// by its manifest, or the store of what was rewritten since. The error is
// trust.ErrNoUsableIdentity when the snapshot is sealed, or a *authentic.DamageError.
func (n *Needs) Of(ctx context.Context, s *history.Snapshot) (map[ID]uint64, error) {
	if s.Body == nil {
		return nil, fmt.Errorf("%s: %w opens it: give one of its recipients' with --identity", s.Ref(), trust.ErrNoUsableIdentity)
	}
	d, err := n.domain(ctx, s)
	if err != nil {
		return nil, err
	}
	m := &s.Body.Manifest
	objects, err := d.reader.Objects(ctx, s.Body)
	if errors.Is(err, storage.ErrNotFound) {
		err = &authentic.DamageError{Key: deletion.Key(s.Host, s.Domain.ID, ID{Kind: m.Kind, Hash: m.Hash}), What: m.Kind.String(), Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}

	out := map[ID]uint64{}
	for _, o := range objects {
		id := ID{Kind: o.Kind, Hash: o.Hash}
		if d.listed == nil {
			out[id] = o.Size
			continue
		}
		there := func(id ID) bool { _, ok := d.listed[id]; return ok }
		for _, stands := range d.deletions.Resolve(m.Hash, id, there) {
			if out[stands] = d.listed[stands]; stands == id {
				out[stands] = o.Size
			}
		}
	}
	return out, nil
}

// domain reads once what was deleted and rewritten in the domain of a snapshot.
func (n *Needs) domain(ctx context.Context, s *history.Snapshot) (*domainNeeds, error) {
	of := domainOf{s.Host, s.Root.Domain}
	n.mu.Lock()
	d := n.domains[of]
	if d == nil {
		d = &domainNeeds{reader: n.repo.NewReader(s.Host, s.Domain)}
		n.domains[of] = d
	}
	n.mu.Unlock()
	d.once.Do(func() {
		if d.deletions, d.err = n.repo.d.Deletions(ctx, of.host, of.domain); d.err != nil || len(d.deletions.Repacks) == 0 {
			return
		}
		objects, err := domain{s.Domain, n.repo, s.Host}.list(ctx, map[wire.Kind]int{wire.KindPack: 1, wire.KindManifest: 1})
		d.err, d.listed = err, map[ID]uint64{}
		for _, o := range objects {
			d.listed[o.ID] = o.Size
		}
	})
	return d, d.err
}
