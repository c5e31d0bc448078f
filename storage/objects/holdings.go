package objects

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/internal/wire"
	"knowngood/storage/inventory"
	"knowngood/storage/pack"
)

// maxUnverified is how long a writer may rely on what it saw in the store
// before it revalidates its index; docs/FORMAT.md, section 10.
const maxUnverified = 24 * time.Hour

// ErrOvertaken means that what a capture relied on was deleted meanwhile, or is
// about to be. A new capture stores it again.
var ErrOvertaken = errors.New("what this run relied on was deleted meanwhile, or is about to be: nothing is lost, run it again")

// ErrLost means that the store lacks an object that a snapshot refers to. A new
// capture stores its content again, as far as it is still there to be read.
var ErrLost = errors.New("the store lost what this snapshot refers to: run it again, which reads and stores that again")

// Verification is what a capture finds out about what the store holds before it
// relies on it. The zero value is a listing of the last day.
type Verification struct {
	Listing bool // takes a new listing
	Data    bool // and reads every object, and compares it with its name
	runs    bool // fetches every index run again
	// Read, when set, is called with how many bytes of objects were read,
	// concurrently.
	Read func(bytes int)
}

// Holdings is what the store holds of the host's own domain, as far as one capture
// may rely on it. What the store lost, or what is about to be deleted, counts as
// not stored: Index.Lookup does not find what lies in it.
type Holdings struct {
	domain
	view
	inventory *ownInventory

	began      time.Time // the capture
	verified   time.Time
	unopenable []error
}

// Unopenable is what is missing or damaged of the epochs that this host seals to
// and nobody can open: *authentic.DamageError of each of their wrapped keys. A snapshot is
// not complete while there is one.
func (h *Holdings) Unopenable() []error { return h.unopenable }

// Verified is when the listing began with which Verify last found that the store
// has the objects; zero before that.
func (h *Holdings) Verified() time.Time { return h.verified }

// Lost reports whether the store is known to lack an object.
func (h *Holdings) Lost(kind wire.Kind, hash [32]byte) bool {
	return h.inventory.lost(ID{Kind: kind, Hash: hash})
}

// Absent reports whether an object must not be referred to: it is deleted, about
// to be deleted, or lost.
func (h *Holdings) Absent(kind wire.Kind, hash [32]byte) bool {
	return h.deletions.Absent(ID{Kind: kind, Hash: hash}) || h.Lost(kind, hash)
}

// Old reports whether the pending deletions were read too long ago to be relied
// on. What is left to be done must fit into the rest of the time.
func (h *Holdings) Old() bool { return since(h.at) >= maxUnverified-time.Hour }

// since is how long ago a time was. A machine that slept stops one of the clocks,
// somebody who sets the time moves the other.
func since(at time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(at), now.Round(0).Sub(at.Round(0)))
}

// Revalidate must be called before a capture publishes its index. When the pending
// deletions were read too long ago, it reads them again, compares the packs with a
// new listing, and reports true.
func (h *Holdings) Revalidate(ctx context.Context) (again bool, err error) {
	if !h.Old() {
		return false, nil
	}
	now := time.Now()
	if err := h.compare(ctx, Verification{Listing: true}); err != nil {
		return false, err
	}
	return true, h.readDeletions(ctx, now)
}

// readDeletions reads the pending deletions; now is before that.
func (h *Holdings) readDeletions(ctx context.Context, now time.Time) error {
	d, err := h.runs.excludeDeleted(ctx, true)
	if err != nil {
		return err
	}
	h.deletions, h.at = d, now
	return nil
}

// Expect compares the objects that an earlier snapshot needs with what the
// store holds. Those that it lacks are Lost from now on.
func (h *Holdings) Expect(ctx context.Context, objects []pack.Object) error {
	_, _, err := h.expect(ctx, inventoried(objects))
	return err
}

func inventoried(objects []pack.Object) []inventory.Object {
	out := make([]inventory.Object, len(objects))
	for i, o := range objects {
		out[i] = inventory.Object{ID: ID{Kind: o.Kind, Hash: o.Hash}, Size: o.Size}
	}
	return out
}

// Verify makes sure that the store has the objects, by a listing that is less
// than a day old, or, with fresh set, by a new one, and by pending deletions that
// are read again. The error is ErrLost when it lacks one, and ErrOvertaken when
// one is about to be deleted.
func (h *Holdings) Verify(ctx context.Context, objects []pack.Object, fresh bool) error {
	now := time.Now()
	fresh = fresh || h.Old()
	if fresh || h.inventory.age() >= maxInventoryAge {
		if err := h.inventory.take(ctx); err != nil {
			return err
		}
	}
	if fresh {
		if err := h.readDeletions(ctx, now); err != nil {
			return err
		}
	}
	for _, o := range objects { // before what is missing counts as a loss
		if id := (ID{Kind: o.Kind, Hash: o.Hash}); h.deletions.Absent(id) {
			return fmt.Errorf("%s: %w", h.key(id), ErrOvertaken)
		}
	}
	lost, listed, err := h.expect(ctx, inventoried(objects))
	if err != nil {
		return err
	}
	h.inventory.save()
	if len(lost) > 0 {
		return fmt.Errorf("%s is %v: %w", h.key(lost[0].ID), lost[0].why, ErrLost)
	}
	h.verified = listed
	return nil
}

// compare makes sure that the inventory counts. Where it does not, or a new listing is
// wanted, it takes one, examines what was reported as damaged, and compares the packs
// that the index knows with all that. Else only what is known to be lost counts as
// lost, so that the packs need not be read out of the index for each capture: Verify
// compares those that the snapshot needs.
func (h *Holdings) compare(ctx context.Context, v Verification) error {
	h.inventory.load()
	noted, err := h.notes().read()
	if err != nil {
		return err
	}
	fresh := v.Listing || v.Data || len(noted) > 0 || h.inventory.age() >= renewInventory
	var packs []inventory.Object
	var held map[[32]byte]uint64
	if fresh { // before listing: what comes meanwhile is there
		held = h.runs.table.HeldPacks()
		for hash, size := range h.runs.table.PackSizes() {
			if id := (ID{Kind: wire.KindPack, Hash: hash}); !h.deletions.Absent(id) {
				packs = append(packs, inventory.Object{ID: id, Size: size})
			}
		}
	}
	if fresh {
		if err := h.inventory.take(ctx); err != nil {
			return err
		}
		packs = h.forgetHeld(held, packs)
		if err := h.followReports(ctx, noted); err != nil {
			return err
		}
	}
	if h.unopenable, err = h.repo.t.CheckWrappedKeys(ctx, fresh); err != nil {
		return err
	}
	if v.Data {
		if err := h.examineAll(ctx, v.Read); err != nil {
			return err
		}
	}
	h.lose(h.inventory.allLost())
	_, _, err = h.expect(ctx, packs)
	return err
}

// forgetHeld makes lookups pass over the held packs that a new listing does not show, and
// returns the other packs. Pruners do not know what this host holds, so no statement
// that is still read need name them: that they are gone is no loss by itself. What the
// last snapshots need is compared by Expect.
func (h *Holdings) forgetHeld(held map[[32]byte]uint64, packs []inventory.Object) (others []inventory.Object) {
	gone := map[[32]byte]bool{}
	for _, o := range packs {
		listed := false
		h.inventory.with(func(known *inventory.Inventory) { _, listed = known.Size(o.ID) })
		if _, ok := held[o.Hash]; ok && !listed {
			gone[o.Hash] = true
			continue
		}
		others = append(others, o)
	}
	h.runs.table.Lost(gone)
	return others
}

// expect compares objects with the inventory. Those that it lacks are lost from
// now on. When that is news, a new listing is taken first, because the one at hand
// may be older than the object. listed is when that listing began.
func (h *Holdings) expect(ctx context.Context, objects []inventory.Object) (lost []loss, listed time.Time, err error) {
	lost, news, listed := h.inventory.lacking(objects)
	if news > 0 && !h.inventory.listedSince(h.began) {
		if err := h.inventory.take(ctx); err != nil {
			return nil, listed, err
		}
		lost, _, listed = h.inventory.lacking(objects)
	}
	if lost, err = h.inventory.keepOverwritten(ctx, lost); err != nil {
		return nil, listed, err
	}
	h.lose(lost)
	return lost, listed, nil
}

// lose makes lookups treat what lies in lost packs as not stored.
func (h *Holdings) lose(lost []loss) {
	if len(lost) == 0 {
		return
	}
	news := h.inventory.lose(lost)
	packs := map[[32]byte]bool{}
	for _, l := range lost {
		if l.Kind == wire.KindPack {
			packs[l.Hash] = true
		}
	}
	h.runs.table.Lost(packs)
	if len(news) == 0 {
		return
	}
	first := slices.MinFunc(news, func(a, b loss) int { return strings.Compare(h.key(a.ID), h.key(b.ID)) })
	h.repo.t.Warn(fmt.Errorf("host %s refers to %s not in the store, or not whole (%s is %v): a snapshot stores the content again as far as it is still on this machine; find out what happened, and run `knowngood check` to see what older snapshots lack",
		h.host, english.Plural(len(news), "object that is", "objects that are"), h.key(first.ID), first.why))
}

// followReports examines the objects that somebody found to be damaged: here,
// where they are noted, or elsewhere, by reports. Those that are damaged are lost
// from now on.
func (h *Holdings) followReports(ctx context.Context, noted map[ID]bool) error {
	objects, reports, err := h.repo.damageReports(h.host, h.ID).readNew(ctx, h.inventory.reports())
	if err != nil {
		return err
	}
	maps.Copy(objects, noted)
	unread, err := h.examine(ctx, slices.Collect(maps.Keys(objects)), nil)
	if err != nil {
		return err
	}
	for _, id := range unread {
		delete(noted, id)
	}
	if len(noted) > 0 {
		if err := h.notes().remove(slices.Collect(maps.Keys(noted))); err != nil {
			h.repo.t.Warn(err)
		}
	}
	if len(unread) == 0 && len(reports) > 0 {
		h.inventory.addReports(reports)
	}
	return nil
}

// examine reads objects and compares their SHA-256 with their names. Those that
// differ are lost from now on. What cannot be read now is returned.
func (h *Holdings) examine(ctx context.Context, ids []ID, done func(bytes int)) (unread []ID, err error) {
	damaged, unread, err := h.inventory.examine(ctx, ids, done)
	if err == nil {
		h.lose(damaged)
	}
	return unread, err
}

// examineAll reads every object of the domain that the listing shows.
func (h *Holdings) examineAll(ctx context.Context, done func(bytes int)) error {
	all := h.inventory.spoiled() // which may be whole again
	for _, o := range h.inventory.objects(wire.KindPack, wire.KindManifest) {
		all = append(all, o.ID)
	}
	unread, err := h.examine(ctx, all, done)
	if err == nil && len(unread) > 0 {
		err = fmt.Errorf("%d of %d objects could not be read, so not all is verified: try again later", len(unread), len(all))
	}
	return err
}
