package objects

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

const (
	// maxInventoryAge is how long a listing counts: no snapshot is committed on
	// an older one.
	maxInventoryAge = 24 * time.Hour
	// renewInventory is from what age on a run begins with a new listing, so
	// that most runs end within the day.
	renewInventory = maxInventoryAge - time.Hour
	// listInParts is how many objects of a kind the last listing must have
	// shown for the next one to be made in parts at once, by the first digit of
	// the hash: each page shows a thousand.
	listInParts = 4000
)

// ownInventory is the inventory of a domain of this host. The runs of a process
// share it in memory, and processes share the file.
type ownInventory struct {
	name    string     // of the file
	listing sync.Mutex // held while the store is listed

	mu      sync.Mutex           // guards the rest
	known   *inventory.Inventory // nil: none
	file    fs.FileInfo          // that known was last read from or written to
	unsaved bool
}

// inventoryOf is the inventory of a domain of this host.
func (r *Objects) inventoryOf(domain seal.DomainID) *ownInventory {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.inventories[domain]
	if o == nil {
		o = &ownInventory{name: r.t.State.OfStore(filepath.Join("inventory", domain.String()))}
		if r.inventories == nil {
			r.inventories = map[seal.DomainID]*ownInventory{}
		}
		r.inventories[domain] = o
	}
	return o
}

// now is the moment on both clocks.
func (r *Objects) now() inventory.Moment {
	m := inventory.Moment{Wall: time.Now()}
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) == nil {
		m.Boot = time.Duration(boot.Nano())
	}
	// Where there is no /proc, the wall clock alone counts.
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		if id, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")); err == nil && len(id) == len(m.BootID) {
			m.BootID = [16]byte(id)
		}
	}
	return m
}

// with calls do with the inventory, nil when there is none. do must not wait
// for anything.
func (o *ownInventory) with(do func(known *inventory.Inventory)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do(o.known)
}

// loadInventory takes in what other processes wrote into the file. One that
// cannot be read counts as none: then the store is listed.
func (x *Index) loadInventory() {
	r, o := x.repo, x.inventory
	info, err := r.t.State.Dir().Stat(o.name)
	if err != nil {
		return
	}
	x.inventory.with(func(known *inventory.Inventory) {
		if o.file != nil && os.SameFile(o.file, info) && o.file.ModTime().Equal(info.ModTime()) && o.file.Size() == info.Size() {
			return
		}
		b, err := r.t.State.Dir().ReadList(o.name)
		if err != nil {
			return
		}
		written, err := inventory.Parse(b)
		if err != nil {
			return
		}
		if known != nil {
			written = inventory.Merge(known, written)
		}
		o.known, o.file = written, info
	})
}

// saveInventory writes the file, if there is something to write. That it cannot
// be written only costs the next process a listing.
func (x *Index) saveInventory() {
	r, o := x.repo, x.inventory
	unsaved := false
	x.inventory.with(func(known *inventory.Inventory) { unsaved = known != nil && o.unsaved })
	if !unsaved || r.t.State.None() {
		return
	}
	err := r.t.State.Locked(func() error {
		x.loadInventory()
		var b []byte
		x.inventory.with(func(known *inventory.Inventory) {
			b = known.Append(nil)
			o.unsaved = false
		})
		if err := r.t.State.Write(o.name, b); err != nil {
			return err
		}
		info, err := r.t.State.Dir().Stat(o.name)
		x.inventory.with(func(*inventory.Inventory) { o.file = info })
		return err
	})
	if err != nil {
		r.t.Warn(fmt.Errorf("the list of what the store holds is not kept; the next run asks for it: %w", err))
	}
}

// inventoryAge is how long ago the store was listed.
func (x *Index) inventoryAge() time.Duration {
	age, now := time.Duration(1<<63-1), x.repo.now()
	x.inventory.with(func(known *inventory.Inventory) {
		if known != nil {
			age = now.Since(known.Taken)
		}
	})
	return age
}

// listedSince reports whether the inventory is of a listing that began at a
// time or later.
func (x *Index) listedSince(at time.Time) (since bool) {
	x.inventory.with(func(known *inventory.Inventory) {
		since = known != nil && !known.Taken.Wall.Round(0).Before(at.Round(0))
	})
	return since
}

// takeInventory lists the store, unless another run of this process did so
// while this one waited for it.
func (x *Index) takeInventory(ctx context.Context) error {
	o, asked := x.inventory, time.Now()
	o.listing.Lock()
	defer o.listing.Unlock()
	if x.listedSince(asked) {
		return nil
	}
	parts := map[wire.Kind]int{}
	x.inventory.with(func(known *inventory.Inventory) {
		for _, kind := range [...]wire.Kind{wire.KindPack, wire.KindManifest} {
			if parts[kind] = 1; known != nil && known.Listed(kind) > listInParts {
				parts[kind] = 16
			}
		}
	})
	taken := x.repo.now()
	listing, err := x.repo.listObjects(ctx, x.host, x.domain.ID, parts)
	if err != nil {
		return err
	}
	x.inventory.with(func(known *inventory.Inventory) {
		o.known, o.unsaved = inventory.New(taken, listing, known), true
	})
	x.saveInventory()
	return nil
}

// listObjects lists the packs and containers of a domain, each kind in so many
// parts at once: 1, or 16.
func (r *Objects) listObjects(ctx context.Context, host string, domain seal.DomainID, parts map[wire.Kind]int) ([]inventory.Object, error) {
	var mu sync.Mutex
	var all []inventory.Object
	g, gctx := errgroup.WithContext(ctx)
	for kind, n := range parts {
		prefix := layout.PrefixPacks(host, domain)
		if kind == wire.KindManifest {
			prefix = layout.PrefixManifests(host, domain)
		}
		for i := range n {
			part := prefix
			if n > 1 {
				part += fmt.Sprintf("%x", i)
			}
			g.Go(func() error {
				var found []inventory.Object
				for o, err := range r.t.Store().List(gctx, storage.ListOptions{Prefix: part}) {
					if err != nil {
						return err
					}
					if id, ok := deletion.ParseKey(o.Key); ok && o.Size >= 0 {
						found = append(found, inventory.Object{ID: id, Size: uint64(o.Size)})
					}
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

// confirmed notes an object that the store has taken.
func (x *Index) confirmed(id ID, size uint64) {
	x.inventory.with(func(known *inventory.Inventory) {
		if known != nil {
			known.Put(id, size, time.Now())
			x.inventory.unsaved = true
		}
	})
}

// ErrLost says that the store lacks an object that a snapshot refers to. A new
// run stores its content again, as far as it is still there to be read.
var ErrLost = errors.New("the store lost what this snapshot refers to: run it again, which reads and stores that anew")

// loss is an object that the store lacks, and why it is said so.
type loss struct {
	inventory.Object
	why inventory.Loss
}

// lacking are those of the objects that are lost, how many of them were not
// known to be, and when the listing began that says so.
func (x *Index) lacking(objects []inventory.Object) (lost []loss, news int, listed time.Time) {
	x.inventory.with(func(known *inventory.Inventory) {
		listed = known.Taken.Wall.Round(0)
		for _, o := range objects {
			if why := known.Lacks(o); why != 0 {
				lost = append(lost, loss{o, why})
				if !known.Lost(o.ID) {
					news++
				}
			}
		}
	})
	return lost, news, listed
}

// expect compares objects with the inventory, of which those count as lost from
// now on that it lacks. What is news is looked for in a new listing first: the
// one at hand may be older than the object. listed is when that listing began.
func (x *Index) expect(ctx context.Context, objects []inventory.Object) (lost []loss, listed time.Time, err error) {
	lost, news, listed := x.lacking(objects)
	if news > 0 && !x.listedSince(x.began) {
		if err := x.takeInventory(ctx); err != nil {
			return nil, listed, err
		}
		lost, _, listed = x.lacking(objects)
	}
	x.lose(lost)
	return lost, listed, nil
}

// lose makes lookups take what lies in lost packs for not stored.
func (x *Index) lose(lost []loss) {
	if len(lost) == 0 {
		return
	}
	packs := map[[32]byte]bool{}
	var news []loss
	x.inventory.with(func(known *inventory.Inventory) {
		for _, l := range lost {
			if known.Lose(l.ID, l.why) {
				news = append(news, l)
			}
			if l.Kind == wire.KindPack {
				packs[l.Hash] = true
			}
		}
		x.inventory.unsaved = x.inventory.unsaved || len(news) > 0
	})
	x.table.Lost(packs)
	if len(news) == 0 {
		return
	}
	key := func(l loss) string { return deletion.Key(x.host, x.domain.ID, ID{Kind: l.Kind, Hash: l.Hash}) }
	first := slices.MinFunc(news, func(a, b loss) int { return strings.Compare(key(a), key(b)) })
	x.repo.t.Warn(fmt.Errorf("host %s refers to %s not in the store, or not whole (%s is %v): the content is stored again as far as it is still on this machine; find out what happened, and run `knowngood check` to see what older snapshots lack",
		x.host, english.Plural(len(news), "object that is", "objects that are"), key(first), first.why))
}

// Expect compares the objects that an earlier snapshot needs with what the
// store holds. Those that it lacks are Lost from now on.
func (x *Index) Expect(ctx context.Context, objects []pack.Object) error {
	_, _, err := x.expect(ctx, inventoried(objects))
	return err
}

func inventoried(objects []pack.Object) []inventory.Object {
	out := make([]inventory.Object, len(objects))
	for i, o := range objects {
		out[i] = inventory.Object{ID: ID{Kind: o.Kind, Hash: o.Hash}, Size: o.Size}
	}
	return out
}

// LostPack is the lost pack that a chunk lay in; ok is false when it lay in none,
// as far as the index knows.
func (x *Index) LostPack(id [32]byte) (hash [32]byte, ok bool) { return x.table.LostPack(id) }

// Lost reports whether the store is known to lack an object.
func (x *Index) Lost(kind wire.Kind, hash [32]byte) (lost bool) {
	if x.reading {
		return false
	}
	x.inventory.with(func(known *inventory.Inventory) { lost = known != nil && known.Lost(ID{Kind: kind, Hash: hash}) })
	return lost
}

// Verification is how a run that writes looks at what the store holds before it
// relies on it. The zero value is a listing of the last day.
type Verification struct {
	Listing bool // takes a new listing
	Data    bool // and reads every object, and compares it with its name
	// Read, when set, is told how many bytes of objects were read, concurrently.
	Read func(bytes int)
}

// compareWithStore makes sure that the inventory counts, takes a new listing
// where it does not, or is wanted, looks at what was found to be damaged, and
// compares the packs that the index knows with it all.
func (x *Index) compareWithStore(ctx context.Context, v Verification) error {
	x.loadInventory()
	noted, err := x.repo.notedDamage(x.domain.ID)
	if err != nil {
		return err
	}
	var packs []inventory.Object
	for hash, size := range x.table.PackSizes() { // before listing: what comes meanwhile is there
		if id := (ID{Kind: wire.KindPack, Hash: hash}); !x.deletions.Absent(id) {
			packs = append(packs, inventory.Object{ID: id, Size: size})
		}
	}
	anew := v.Listing || v.Data || len(noted) > 0 || x.inventoryAge() >= renewInventory
	if anew {
		if err := x.takeInventory(ctx); err != nil {
			return err
		}
		if err := x.followHints(ctx, noted); err != nil {
			return err
		}
	}
	if x.unopenable, err = x.repo.t.CheckWrappedKeys(ctx, anew); err != nil {
		return err
	}
	if v.Data {
		if err := x.examineAll(ctx, v.Read); err != nil {
			return err
		}
	}
	_, _, err = x.expect(ctx, packs)
	return err
}

// examineAll reads every object of the domain that the store holds.
func (x *Index) examineAll(ctx context.Context, done func(bytes int)) error {
	var all []ID
	x.inventory.with(func(known *inventory.Inventory) {
		for _, kind := range [...]wire.Kind{wire.KindPack, wire.KindManifest} {
			for o := range known.Objects(kind) {
				all = append(all, o.ID)
			}
		}
	})
	unread, err := x.examine(ctx, all, done)
	if err == nil && len(unread) > 0 {
		err = fmt.Errorf("%d of %d objects could not be read, so not all is verified: try again later", len(unread), len(all))
	}
	return err
}
