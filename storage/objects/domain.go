package objects

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// tailsInFlight is how many packs' contents are read at once.
const tailsInFlight = 16

// domain is an open domain of a host of the repository.
type domain struct {
	*seal.Domain
	repo *Objects
	host string
}

func (d domain) key(id ID) string { return deletion.Key(d.host, d.ID, id) }

// indexDir is where copies of the index runs of a domain of this host lie.
func (d domain) indexDir() userdir.Dir { return d.repo.t.State.Dir().In("index", d.ID.String()) }

// listedRun is an index run that the store lists.
type listedRun struct {
	storage.Object
	generation uint64
	hash       [32]byte
}

// listRuns lists the index runs of the domain, in the order of their keys.
func (d domain) listRuns(ctx context.Context) iter.Seq2[listedRun, error] {
	return func(yield func(listedRun, error) bool) {
		for o, err := range d.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(d.host, d.ID)}) {
			_, _, generation, hash, ok := layout.ParseIndexRunKey(o.Key)
			if err == nil && !ok {
				continue
			}
			if !yield(listedRun{o, generation, hash}, err) || err != nil {
				return
			}
		}
	}
}

// list lists the packs and containers of the domain, each kind in so many parts
// at once: 1, or 16.
func (d domain) list(ctx context.Context, parts map[wire.Kind]int) ([]inventory.Object, error) {
	var mu sync.Mutex
	var all []inventory.Object
	g, gctx := errgroup.WithContext(ctx)
	for kind, n := range parts {
		prefix := layout.PrefixPacks(d.host, d.ID)
		if kind == wire.KindManifest {
			prefix = layout.PrefixManifests(d.host, d.ID)
		}
		for i := range n {
			part := prefix
			if n > 1 {
				part += fmt.Sprintf("%x", i)
			}
			g.Go(func() error {
				var found []inventory.Object
				for o, err := range d.listPart(gctx, part) {
					if err != nil {
						return err
					}
					found = append(found, o)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, found...)
				return nil
			})
		}
	}
	return all, g.Wait()
}

// listPart lists the packs or containers whose keys begin with prefix.
func (d domain) listPart(ctx context.Context, prefix string) iter.Seq2[inventory.Object, error] {
	return func(yield func(inventory.Object, error) bool) {
		for o, err := range d.repo.t.Store().List(ctx, storage.ListOptions{Prefix: prefix}) {
			id, ok := deletion.ParseKey(o.Key)
			if err == nil && (!ok || o.Size < 0) {
				continue
			}
			if !yield(inventory.Object{ID: id, Size: uint64(max(o.Size, 0))}, err) || err != nil {
				return
			}
		}
	}
}

// listBeneath lists the packs or containers whose keys begin with prefix, hidden ones
// included. Of those that are covered other versions may lie beneath the current view.
func (d domain) listBeneath(ctx context.Context, prefix string) (all []inventory.Object, covered map[[32]byte]bool, err error) {
	covered = map[[32]byte]bool{}
	for o, err := range d.repo.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
		if err != nil {
			return nil, nil, err
		}
		id, ok := deletion.ParseKey(o.Key)
		if !ok || o.Size < 0 {
			continue
		}
		all = append(all, inventory.Object{ID: id, Size: uint64(o.Size)})
		covered[id.Hash] = o.Older || o.Hidden
	}
	return all, covered, nil
}

// readContents reads the contents of packs and calls take with them,
// concurrently. Packs that skip returns true for are left out. Damaged ones are
// returned, after a warning. Of covered ones, see listBeneath, the hash is verified.
func (d domain) readContents(ctx context.Context, packs []inventory.Object, covered map[[32]byte]bool, skip func(hash [32]byte) bool, take func(pack.Ref, *pack.Contents) error) (damaged []ID, err error) {
	var mu sync.Mutex
	from := d.stored(wire.KindPack)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tailsInFlight)
	for _, o := range packs {
		if skip(o.Hash) {
			continue
		}
		g.Go(func() error {
			if covered[o.Hash] {
				if err := from.uncoverOwn(gctx, o); err != nil {
					return err
				}
			}
			tail, contents, err := from.contents(gctx, o.Hash, int64(o.Size))
			if err == nil {
				err = take(tail.Ref(o.Hash), contents)
			}
			var damage *authentic.DamageError
			if errors.As(err, &damage) {
				d.repo.t.Warn(err) // what it held is stored again
				mu.Lock()
				damaged = append(damaged, o.ID)
				mu.Unlock()
				return nil
			}
			return err
		})
	}
	return damaged, g.Wait()
}
