package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/pack"
	"knowngood/storage/statement"
)

// ErrOvertaken says that what a run relied on was deleted meanwhile, or is
// about to be. A new run stores it again.
var ErrOvertaken = errors.New("what this run relied on was deleted meanwhile, or is about to be: nothing is lost, run it again")

// heed takes in which objects count as absent. Who reads may still read what
// is only announced.
func (x *Index) heed(ctx context.Context) error {
	d, err := x.repo.Deletions(ctx, x.host, x.domain.ID)
	if err != nil {
		return err
	}
	x.deletions = d
	absent, deleted := d.packs(Announced, Deleted), d.packs(Deleted)
	if x.reading {
		absent = deleted
	}
	x.table.PassOver(absent, deleted)
	return nil
}

// Absent tells whether an object must be taken for not there.
func (x *Index) Absent(kind wire.Kind, hash [32]byte) bool {
	return x.deletions.Absent(ObjectID{kind, hash})
}

// Usable tells of a pack that the index knows whether it may be referred to.
func (x *Index) Usable() func(hash [32]byte) bool {
	known := x.table.PackSizes()
	return func(hash [32]byte) bool {
		_, ok := known[hash]
		return ok && !x.Absent(wire.KindPack, hash)
	}
}

// age is how long ago the index was compared with the store. A machine that
// slept stops one of the clocks, somebody who sets the time moves the other.
func (x *Index) age() time.Duration {
	now := time.Now()
	return max(now.Sub(x.synced), now.Round(0).Sub(x.synced.Round(0)))
}

// Old tells whether the look that the index rests on is too old to be relied
// on; what is left to be done must fit into the rest of the time.
func (x *Index) Old() bool { return x.age() >= maxUnverified-time.Hour }

// LookAgain must be called before a run publishes its index. When the look
// that it began with is too old to be relied on, it looks at the pending
// deletions and at the packs again, and tells so.
func (x *Index) LookAgain(ctx context.Context) (again bool, err error) {
	if !x.Old() {
		return false, nil
	}
	now := time.Now()
	if err := x.miss(ctx); err != nil {
		return false, err
	}
	if err := x.heed(ctx); err != nil {
		return false, err
	}
	x.synced = now
	return true, nil
}

// Verify makes sure that objects exist, and are not about to be deleted. The
// error is ErrOvertaken when one does not or is.
func (x *Index) Verify(ctx context.Context, objects []pack.Object) error {
	now := time.Now()
	there := map[ObjectID]bool{}
	for o, err := range x.objects(ctx) {
		if err != nil {
			return err
		}
		there[o] = true
	}
	if err := x.heed(ctx); err != nil {
		return err
	}
	x.synced = now
	for _, o := range objects {
		id := ObjectID{o.Kind, o.Hash}
		if !there[id] || x.deletions.Absent(id) {
			return fmt.Errorf("%s: %w", objectKey(o.Kind, x.host, x.domain.ID, o.Hash), ErrOvertaken)
		}
	}
	return nil
}

// miss finds the packs that the index knows and the store has no more. Of one
// that no run in the store names, as those of a run that takes days, nothing
// tells any more once its deletion has long been done; and whoever put it into
// the index would have later runs rely on it.
func (x *Index) miss(ctx context.Context) error {
	gone := map[[32]byte]bool{}
	for h := range x.table.PackSizes() { // before listing: what comes meanwhile is there
		gone[h] = true
	}
	for o, err := range x.repo.Store().List(ctx, storage.ListOptions{Prefix: statement.PrefixPacks(x.host, x.domain.ID)}) {
		if err != nil {
			return err
		}
		if _, _, hash, ok := statement.ParsePackKey(o.Key); ok {
			delete(gone, hash)
		}
	}
	x.table.Lost(gone)
	return nil
}

// objects lists the packs and containers of the domain.
func (x *Index) objects(ctx context.Context) func(yield func(ObjectID, error) bool) {
	return func(yield func(ObjectID, error) bool) {
		for _, prefix := range []string{statement.PrefixPacks(x.host, x.domain.ID), statement.PrefixManifests(x.host, x.domain.ID)} {
			for o, err := range x.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix}) {
				if err != nil {
					yield(ObjectID{}, err)
					return
				}
				if id, ok := ParseObjectKey(o.Key); ok && !yield(id, nil) {
					return
				}
			}
		}
	}
}

// ParseObjectKey reads the key of a pack or a manifest container.
func ParseObjectKey(key string) (ObjectID, bool) {
	if _, _, hash, ok := statement.ParsePackKey(key); ok {
		return ObjectID{wire.KindPack, hash}, true
	}
	_, _, hash, ok := statement.ParseManifestKey(key)
	return ObjectID{wire.KindManifest, hash}, ok
}
