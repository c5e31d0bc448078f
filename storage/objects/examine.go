package objects

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/inventory"
)

// examinedAtOnce is how many objects are fetched at once to be compared with
// their names. None is held in memory.
const examinedAtOnce = 4

// examine reads objects that the inventory shows, and compares their SHA-256 with
// their names. It returns those that differ, and, after a warning, those that
// cannot be read now: nothing is known of them. done, when set, is called with how
// many bytes were read, concurrently.
func (v *ownInventory) examine(ctx context.Context, ids []ID, done func(bytes int)) (damaged []loss, unread []ID, err error) {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(examinedAtOnce)
	for _, id := range ids {
		there := false
		v.with(func(known *inventory.Inventory) { _, there = known.Size(id) })
		if !there {
			continue // a loss of its own, if something refers to it
		}
		g.Go(func() error {
			same, err := v.matchesName(gctx, id, done)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				unread = append(unread, id)
				v.repo.t.Warn(fmt.Errorf("whether an object is damaged could not be looked at: %w", err))
			case !same:
				damaged = append(damaged, loss{inventory.Object{ID: id}, inventory.Damaged})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return damaged, unread, nil
}

// matchesName reports whether the bytes of an object are those of its name.
func (v *ownInventory) matchesName(ctx context.Context, id ID, done func(bytes int)) (bool, error) {
	body, err := v.repo.t.Store().Get(ctx, v.key(id), 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer body.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		sum.Write(buf[:n])
		if done != nil {
			done(n)
		}
		if err == io.EOF {
			return [32]byte(sum.Sum(nil)) == id.Hash, nil
		}
		if err != nil {
			return false, err
		}
	}
}
