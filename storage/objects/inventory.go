package objects

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/inventory"
	"knowngood/storage/seal"
)

const (
	// maxInventoryAge is how long a listing counts: no snapshot is committed on
	// an older one.
	maxInventoryAge = 24 * time.Hour
	// renewInventory is from what age on a capture begins with a new listing, so
	// that most captures end within the day.
	renewInventory = maxInventoryAge - time.Hour
	// listInParts is how many objects of a kind the last listing must have
	// shown for the next one to be made in parts at once, by the first digit of
	// the hash: each page shows a thousand.
	listInParts = 4000
)

// ownInventory is the inventory of a domain of this host. The captures of a
// process share it in memory, and processes share the file.
type ownInventory struct {
	domain
	name    string     // of the file
	listing sync.Mutex // held while the store is listed

	mu      sync.Mutex           // guards the rest
	known   *inventory.Inventory // nil: none
	file    fs.FileInfo          // that known was last read from or written to
	unsaved bool
}

// inventoryFile is where the inventory of a domain of this host is kept.
func (r *Objects) inventoryFile(domain seal.DomainID) string {
	return r.t.State.OfStore(filepath.Join("inventory", domain.String()))
}

// ownInventory of the domain.
func (d domain) ownInventory() *ownInventory {
	r := d.repo
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.inventories[d.ID]
	if v == nil {
		v = &ownInventory{domain: d, name: r.inventoryFile(d.ID)}
		if r.inventories == nil {
			r.inventories = map[seal.DomainID]*ownInventory{}
		}
		r.inventories[d.ID] = v
	}
	return v
}

// moment is now, on both clocks.
func moment() inventory.Moment {
	m := inventory.Moment{Wall: time.Now()}
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) == nil {
		m.Boot = time.Duration(boot.Nano())
	}
	// Without /proc only the wall clock counts.
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		if id, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")); err == nil && len(id) == len(m.BootID) {
			m.BootID = [16]byte(id)
		}
	}
	return m
}

// with calls do with the inventory, nil when there is none. do must not wait
// for anything.
func (v *ownInventory) with(do func(known *inventory.Inventory)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	do(v.known)
}

// load merges what other processes wrote into the file. One that cannot be read
// counts as none: then the store is listed.
func (v *ownInventory) load() {
	dir := v.repo.t.State.Dir()
	info, err := dir.Stat(v.name)
	if err != nil {
		return
	}
	v.with(func(known *inventory.Inventory) {
		if v.file != nil && os.SameFile(v.file, info) && v.file.ModTime().Equal(info.ModTime()) && v.file.Size() == info.Size() {
			return
		}
		b, err := dir.ReadList(v.name)
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
		v.known, v.file = written, info
	})
}

// save writes the file, if something changed. That it cannot be written only
// costs the next process a listing.
func (v *ownInventory) save() {
	state := v.repo.t.State
	unsaved := false
	v.with(func(known *inventory.Inventory) { unsaved = known != nil && v.unsaved })
	if !unsaved || state.None() {
		return
	}
	err := state.Locked(func() error {
		v.load()
		var b []byte
		v.with(func(known *inventory.Inventory) {
			b = known.Append(nil)
			v.unsaved = false
		})
		if err := state.Write(v.name, b); err != nil {
			return err
		}
		info, err := state.Dir().Stat(v.name)
		v.with(func(*inventory.Inventory) { v.file = info })
		return err
	})
	if err != nil {
		v.repo.t.Warn(fmt.Errorf("the list of what the store holds is not kept; the next run asks for it: %w", err))
	}
}

// age is how long ago the store was listed.
func (v *ownInventory) age() time.Duration {
	age, now := time.Duration(1<<63-1), moment()
	v.with(func(known *inventory.Inventory) {
		if known != nil {
			age = now.Since(known.Taken)
		}
	})
	return age
}

// listedSince reports whether the inventory is of a listing that began at a
// time or later.
func (v *ownInventory) listedSince(at time.Time) (since bool) {
	v.with(func(known *inventory.Inventory) {
		since = known != nil && !known.Taken.Wall.Round(0).Before(at.Round(0))
	})
	return since
}

// take lists the store, unless another capture of this process did so while this
// one waited for it.
func (v *ownInventory) take(ctx context.Context) error {
	asked := time.Now()
	v.listing.Lock()
	defer v.listing.Unlock()
	if v.listedSince(asked) {
		return nil
	}
	parts := map[wire.Kind]int{}
	v.with(func(known *inventory.Inventory) {
		for _, kind := range [...]wire.Kind{wire.KindPack, wire.KindManifest} {
			if parts[kind] = 1; known != nil && known.Listed(kind) > listInParts {
				parts[kind] = 16
			}
		}
	})
	taken := moment()
	listing, err := v.list(ctx, parts)
	if err != nil {
		return err
	}
	v.with(func(known *inventory.Inventory) {
		v.known, v.unsaved = inventory.New(taken, listing, known), true
	})
	v.save()
	return nil
}

// put notes an object that the store has confirmed.
func (v *ownInventory) put(id ID, size uint64) {
	v.with(func(known *inventory.Inventory) {
		if known != nil {
			known.Put(id, size, time.Now())
			v.unsaved = true
		}
	})
}

// found notes the size of an object that was found beneath one with another size.
func (v *ownInventory) found(id ID, size uint64) {
	var listed uint64
	v.with(func(known *inventory.Inventory) { listed, _ = known.Size(id) })
	if listed != size {
		v.put(id, size)
	}
}

// spoiled are the objects that the listing shows and that are not whole.
func (v *ownInventory) spoiled() (all []ID) {
	v.with(func(known *inventory.Inventory) {
		if known != nil {
			all = slices.SortedFunc(known.Spoiled(), func(a, b ID) int { return deletion.CompareHashes(a.Hash, b.Hash) })
		}
	})
	return all
}

// objects are those of some kinds that the store holds.
func (v *ownInventory) objects(kinds ...wire.Kind) (all []inventory.Object) {
	v.with(func(known *inventory.Inventory) {
		for _, kind := range kinds {
			all = slices.AppendSeq(all, known.Objects(kind))
		}
	})
	return all
}

// lost reports whether the store is known to lack an object.
func (v *ownInventory) lost(id ID) (lost bool) {
	v.with(func(known *inventory.Inventory) { lost = known != nil && known.Lost(id) })
	return lost
}

// loss is an object that the store lacks, and why it counts as lost.
type loss struct {
	inventory.Object
	why inventory.Loss
}

// allLost are the objects that are known to be lost.
func (v *ownInventory) allLost() (lost []loss) {
	v.with(func(known *inventory.Inventory) {
		for id, why := range known.AllLost() {
			lost = append(lost, loss{inventory.Object{ID: id}, why})
		}
	})
	return lost
}

// lacking returns those of the objects that are lost, how many of them were not
// known to be, and when the listing began that shows it.
func (v *ownInventory) lacking(objects []inventory.Object) (lost []loss, news int, listed time.Time) {
	v.with(func(known *inventory.Inventory) {
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

// lose notes lost objects, and returns those that were not known to be lost.
func (v *ownInventory) lose(lost []loss) (news []loss) {
	v.with(func(known *inventory.Inventory) {
		for _, l := range lost {
			if known.Lose(l.ID, l.why, time.Now()) {
				news = append(news, l)
			}
		}
		v.unsaved = v.unsaved || len(news) > 0
	})
	return news
}

// recover notes that objects that were lost are there, whole.
func (v *ownInventory) recover(whole []inventory.Object) {
	v.with(func(known *inventory.Inventory) {
		for _, o := range whole {
			known.Put(o.ID, o.Size, time.Now())
		}
		v.unsaved = v.unsaved || len(whole) > 0
	})
}

// reports are the hashes of the damage reports that were dealt with.
func (v *ownInventory) reports() (known map[[32]byte]bool) {
	v.with(func(i *inventory.Inventory) { known = maps.Clone(i.Reports) })
	return known
}

// addReports notes that damage reports were dealt with.
func (v *ownInventory) addReports(reports [][32]byte) {
	v.with(func(known *inventory.Inventory) {
		for _, hash := range reports {
			known.Reports[hash] = true
		}
		v.unsaved = true
	})
	v.save()
}

// NotedDamage are the objects of a domain of this host that were found to be damaged,
// by its captures or by a check or restore here, as far as it remembers. Since then
// they may have been healed.
func (r *Objects) NotedDamage(domain seal.DomainID) (map[ID]bool, error) {
	noted, err := r.damageNotes(domain).read()
	if err != nil {
		return nil, err
	}
	maps.Copy(noted, r.DamagedObjects(domain))
	return noted, nil
}

// DamagedObjects are those of a domain of this host that are in the store and that
// it found to be damaged, as far as it remembers. They may be whole again since: see
// ExamineDamaged.
func (r *Objects) DamagedObjects(domain seal.DomainID) map[ID]bool {
	damaged := map[ID]bool{}
	b, err := r.t.State.Read(r.inventoryFile(domain))
	if err != nil || b == nil {
		return damaged
	}
	if v, err := inventory.Parse(b); err == nil {
		for id := range v.Spoiled() {
			damaged[id] = true
		}
	}
	return damaged
}

// ExamineDamaged reads those of DamagedObjects again for which of returns true, until
// it finds one that is still damaged, or that cannot be read now. Those that are whole
// are not DamagedObjects any more.
func (r *Objects) ExamineDamaged(ctx context.Context, host string, id seal.DomainID, of func(ID) bool) error {
	v := domain{&seal.Domain{ID: id}, r, host}.ownInventory()
	v.load()
	defer v.save()
	ids := slices.DeleteFunc(v.spoiled(), func(id ID) bool { return !of(id) })
	for some := range slices.Chunk(ids, examinedAtOnce) {
		damaged, unread, err := v.examine(ctx, some, nil)
		if err != nil || len(damaged)+len(unread) > 0 {
			return err
		}
	}
	return nil
}
