package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
)

const (
	// A pack of which by the estimate less than maxEstimate is needed is
	// looked into, and rewritten when it is less than maxShare.
	maxEstimate = 0.5
	maxShare    = 0.6

	maxRepacked      = 4096 // packs in a run: no more new ones come of them, and statements must name those
	segmentsInFlight = 8
	// lockMargin is how long after its announcement a pack may still be locked
	// to be worth rewriting.
	lockMargin = 7 * 24 * time.Hour
)

// candidate is a pack that may be rewritten.
type candidate struct {
	id    deletion.ObjectID
	size  uint64 // stored
	share float64
	tail  *pack.Tail
	table *pack.Contents
}

// choose estimates what is needed of each pack by the lists of objects, which is a
// lower bound of what is needed in all, and
// takes those of which the least is, as far as the budget goes. With look it reads the
// manifests that need them, and leaves out what cannot be moved.
func (r *repacker) choose(ctx context.Context, chunks iter.Seq2[[32]byte, index.Location], look bool) ([]*candidate, error) {
	held := map[[32]byte]uint64{} // content bytes
	for _, loc := range chunks {
		held[loc.Pack.Hash] += uint64(loc.Len)
	}
	tables := map[deletion.ObjectID]bool{}
	for _, m := range r.facts.manifests {
		tables[deletion.ObjectID{Kind: m.Body.Manifest.Kind, Hash: m.Body.Manifest.Hash}] = true
	}
	var all []*candidate
	for id, o := range r.facts.objects {
		content := held[id.Hash]
		share := float64(r.facts.live[id]) / float64(max(content, 1))
		if id.Kind != wire.KindPack || tables[id] || !r.facts.needed[id] || content == 0 || share >= maxEstimate ||
			r.facts.deletions.Absent(id) || r.facts.now.Sub(o.at) < young {
			continue
		}
		all = append(all, &candidate{id: id, size: o.size, share: share})
	}
	slices.SortFunc(all, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.share, b.share), deletion.CompareHashes(a.id.Hash, b.id.Hash))
	})
	if look {
		var err error
		if all, err = r.movable(ctx, all); err != nil {
			return nil, err
		}
	}
	var chosen []*candidate
	budget := r.MaxRepack
	for _, c := range all {
		if len(chosen) == maxRepacked {
			break
		}
		if c.size > budget {
			continue
		}
		locked, err := r.locked(ctx, deletion.Key(r.facts.host, r.facts.domain, c.id))
		if err != nil {
			return nil, err
		}
		if locked {
			continue
		}
		budget -= c.size
		chosen = append(chosen, c)
	}
	return chosen, nil
}

// movable leaves out the packs from which a kept snapshot takes a segment of its
// manifest, or its list of objects: a repack moves only chunks.
func (r *repacker) movable(ctx context.Context, packs []*candidate) ([]*candidate, error) {
	fixed := map[[32]byte]bool{}
	for _, m := range r.needy(packs) {
		tree, err := snapshot.OpenTree(ctx, r.repo, m.Snapshot)
		if err != nil {
			return nil, err
		}
		own := &m.Body.Manifest
		_, contents, err := tree.Reader.Contents(ctx, own.Kind, own.Hash, int64(own.Size))
		tree.Reader.Close()
		if err != nil {
			return nil, err
		}
		fixed[contents.List.Base.Hash] = true
		for i := range tree.Table.Containers {
			fixed[tree.Table.Containers[i].Hash] = true
		}
	}
	return slices.DeleteFunc(packs, func(c *candidate) bool { return fixed[c.id.Hash] }), nil
}

// open reads what the packs hold.
func (r *repacker) open(ctx context.Context, reader *objects.Reader, packs []*candidate) (err error) {
	for _, c := range packs {
		if c.tail, c.table, err = reader.Contents(ctx, wire.KindPack, c.id.Hash, int64(c.size)); err != nil {
			return err
		}
	}
	return nil
}

// locked reports whether an object cannot be deleted for so long, as far as is
// known, that rewriting it frees nothing soon.
func (r *repacker) locked(ctx context.Context, key string) (bool, error) {
	l, ok := storage.Capability[storage.Retainer](r.repo.Store())
	if !ok {
		return false, nil
	}
	lock, err := l.Retention(ctx, key, "")
	switch {
	case errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrDenied):
		return false, nil
	case errors.Is(err, storage.ErrNotFound): // a delete marker hides it: nothing is known of its lock
		return true, nil
	}
	return lock.Mode != "" && lock.Until.After(r.facts.now.Add(r.Announce+lockMargin)), err
}

// needy are the manifests that need one of the packs.
func (r *repacker) needy(packs []*candidate) []*manifest {
	among := map[deletion.ObjectID]bool{}
	for _, c := range packs {
		among[c.id] = true
	}
	var out []*manifest
	for _, m := range r.facts.manifests {
		if m.needsOne(func(id deletion.ObjectID) bool { return among[id] }) {
			out = append(out, m)
		}
	}
	return out
}

// used reports of each chunk in the packs whether a kept snapshot refers to it,
// be it to a copy elsewhere. A segment that several share is read once.
func (r *repacker) used(ctx context.Context, packs []*candidate, by []*manifest) (map[[32]byte]bool, error) {
	used := map[[32]byte]bool{}
	for _, c := range packs {
		for _, f := range c.table.Files {
			for _, ch := range f.Chunks {
				used[ch.ID] = false
			}
		}
	}
	var mu sync.Mutex
	seen := map[[32]byte]bool{}
	for _, m := range by {
		tree, err := snapshot.OpenTree(ctx, r.repo, m.Snapshot)
		if err != nil {
			return nil, err
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(segmentsInFlight)
		for i := range tree.Table.Segments {
			if id := tree.Table.Segments[i].ID; seen[id] {
				continue
			} else {
				seen[id] = true
			}
			g.Go(func() error {
				entries, err := tree.Segment(gctx, i)
				if err != nil {
					return fmt.Errorf("manifest of %s: %w", m.Ref(), err)
				}
				mu.Lock()
				defer mu.Unlock()
				for j := range entries {
					for k := range entries[j].Chunks {
						if _, held := used[entries[j].Chunks[k].ID]; held {
							used[entries[j].Chunks[k].ID] = true
						}
					}
				}
				return nil
			})
		}
		err = g.Wait()
		tree.Reader.Close()
		if err != nil {
			return nil, err
		}
	}
	return used, nil
}

// exact is the share of the pack's content that is used.
func (c *candidate) exact(used map[[32]byte]bool) float64 {
	var live, all uint64
	for _, f := range c.table.Files {
		for _, ch := range f.Chunks {
			all += uint64(ch.Len)
			if used[ch.ID] {
				live += uint64(ch.Len)
			}
		}
	}
	return float64(live) / float64(max(all, 1))
}
