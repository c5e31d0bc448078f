package objects

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/inventory"
)

// examinedAtOnce is how many objects are fetched at once to be compared with
// their names. None is held in memory.
const examinedAtOnce = 4

// keepOverwritten removes from a list of lost objects those that the listing shows with
// another size and whose own version lies beneath, which is reported. They count as
// listed with their size. Those that were lost before stay in the list.
func (v *ownInventory) keepOverwritten(ctx context.Context, lost []loss) (still []loss, err error) {
	for _, l := range lost {
		if l.why == inventory.WrongSize && !v.lost(l.ID) {
			size, err := v.trueSize(ctx, l.ID)
			if err != nil && !authentic.Damaged(err) {
				return nil, err
			}
			if err == nil && size == l.Size {
				v.found(l.ID, size)
				continue
			}
		}
		still = append(still, l)
	}
	return still, nil
}

// trueSize is the size of the version of an object that has the bytes of its name.
func (v *ownInventory) trueSize(ctx context.Context, id ID) (uint64, error) {
	var listed uint64
	v.with(func(known *inventory.Inventory) { listed, _ = known.Size(id) })
	s := v.stored(id.Kind)
	if err := s.compare(ctx, id.Hash, int64(listed), nil); err != nil {
		return 0, err
	}
	size, err := s.Size(ctx, s.key(id.Hash), id.Hash, int64(listed))
	return uint64(size), err
}

// examine reads objects that the listing shows, and compares their SHA-256 with
// their names, beneath the current view too. Those that were lost and are whole are
// lost no more. It returns those that differ, and, after a warning, those that
// cannot be read now: nothing is known of them. done, when set, is called with how
// many bytes were read, concurrently.
func (v *ownInventory) examine(ctx context.Context, ids []ID, done func(bytes int)) (damaged []loss, unread []ID, err error) {
	from := map[wire.Kind]*stored{wire.KindPack: v.stored(wire.KindPack), wire.KindManifest: v.stored(wire.KindManifest)}
	var mu sync.Mutex
	var whole []inventory.Object
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(examinedAtOnce)
	for _, id := range ids {
		var size uint64
		there := false
		v.with(func(known *inventory.Inventory) { size, there = known.Shown(id) })
		if !there {
			continue // a loss of its own, if something refers to it
		}
		g.Go(func() error {
			s := from[id.Kind]
			err := s.compare(gctx, id.Hash, int64(size), done)
			found := int64(size)
			if err == nil && v.lost(id) {
				found, err = s.Size(gctx, s.key(id.Hash), id.Hash, found)
			}
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case authentic.Damaged(err):
				damaged = append(damaged, loss{inventory.Object{ID: id}, inventory.Damaged})
			case err != nil:
				unread = append(unread, id)
				v.repo.t.Warn(fmt.Errorf("whether an object is damaged could not be looked at: %w", err))
			case v.lost(id):
				whole = append(whole, inventory.Object{ID: id, Size: uint64(found)})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	v.recover(whole)
	return damaged, unread, nil
}
