package objects

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/pack"
)

// ErrOvertaken says that what a run relied on was deleted meanwhile, or is
// about to be. A new run stores it again.
var ErrOvertaken = errors.New("what this run relied on was deleted meanwhile, or is about to be: nothing is lost, run it again")

// heed takes in which objects count as absent. Who reads may still read what
// is only announced.
func (x *Index) heed(ctx context.Context) error {
	d, err := x.repo.d.Deletions(ctx, x.host, x.domain.ID)
	if err != nil {
		return err
	}
	x.deletions = d
	absent, deleted := d.Packs(deletion.Announced, deletion.Deleted), d.Packs(deletion.Deleted)
	if x.reading {
		absent = deleted
	}
	x.table.PassOver(absent, deleted)
	return nil
}

// Absent reports whether an object must be taken for not there: it is about to
// be deleted, or lost.
func (x *Index) Absent(kind wire.Kind, hash [32]byte) bool {
	return x.deletions.Absent(ID{Kind: kind, Hash: hash}) || x.Lost(kind, hash)
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
	if err := x.compareWithStore(ctx, Verification{Listing: true}); err != nil {
		return false, err
	}
	if err := x.heed(ctx); err != nil {
		return false, err
	}
	x.synced = now
	return true, nil
}

// Unopenable is what is missing or damaged of the epochs that this host seals to
// and nobody can open: *authentic.DamageError of each of their wrapped keys. A snapshot is
// not complete while there is one.
func (x *Index) Unopenable() []error { return x.unopenable }

// Verify makes sure that the store has the objects, by a listing that is less
// than a day old, or by a new one together with a new look at the pending
// deletions. The error is ErrLost when it lacks one, and ErrOvertaken when one
// is about to be deleted.
func (x *Index) Verify(ctx context.Context, objects []pack.Object, anew bool) error {
	now := time.Now()
	if anew || x.inventoryAge() >= maxInventoryAge {
		if err := x.takeInventory(ctx); err != nil {
			return err
		}
	}
	lost, listed, err := x.expect(ctx, inventoried(objects))
	if err != nil {
		return err
	}
	if anew {
		if err := x.heed(ctx); err != nil {
			return err
		}
		x.synced = now
	}
	x.saveInventory()
	for _, o := range objects {
		if x.deletions.Absent(ID{Kind: o.Kind, Hash: o.Hash}) {
			return fmt.Errorf("%s: %w", deletion.Key(x.host, x.domain.ID, ID{Kind: o.Kind, Hash: o.Hash}), ErrOvertaken)
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%s is %v: %w", deletion.Key(x.host, x.domain.ID, ID{Kind: lost[0].Kind, Hash: lost[0].Hash}), lost[0].why, ErrLost)
	}
	x.verified = listed
	return nil
}

// Verified is when the listing began with which Verify last found that the store
// has the objects; zero before that.
func (x *Index) Verified() time.Time { return x.verified }
