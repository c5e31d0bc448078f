package index

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"

	"knowngood/storage/pack"
)

// Location is where a chunk lies.
type Location struct {
	// Pack is shared by all chunks of the pack, for the life of the Table.
	Pack        *pack.Ref
	FrameOffset uint32 // of the sealed frame, in the pack
	FrameLen    uint32 // sealed
	Offset      uint32 // in the frame's content
	Len         uint32
}

// Table answers where chunks lie: from the runs of a domain and from what was
// added since. What was added last holds, then the newer run before the older.
//
// Lookups and additions may run concurrently with each other and with the one
// goroutine that saves, merges and adopts runs.
type Table struct {
	spill int // entries

	spilling sync.Mutex // held while layers come and go; taken before mu

	mu sync.RWMutex // guards all down to packs
	added
	files
	taken      bool // the finders that were in the cache
	replaced   map[[32]byte]bool
	generation uint64
	absent     map[[32]byte]bool // packs that lookups pass over; see PassOver
	deleted    map[[32]byte]bool // packs that are left out of what is saved or merged
	lost       map[[32]byte]bool // packs that are both for good; see Lost

	packs refs
}

// added is what no file has yet; its methods are called with the mutex of the table.
type added struct {
	mem    *memtable
	frozen []*memtable // full ones, not yet spilled, newest first
}

// files are those that lookups ask; its methods are called with the mutex of the table.
type files struct {
	cache   *Cache
	layers  []*File // spilled ones, not yet saved, newest first
	runs    []*File // live, newest first
	bare    []*File // those of both that no finder covers
	finders []*finder
}

// refs has one copy of each pack.
type refs struct {
	mu sync.RWMutex // taken after that of the table
	of map[pack.Ref]*pack.Ref
}

// NewTable makes an empty table. It closes the runs that it adopts when they are
// replaced and at its own end. Files of what is added go to cache.
func NewTable(cache *Cache) *Table {
	return &Table{files: files{cache: cache}, spill: spillEntries, added: added{mem: newMemtable()}, replaced: map[[32]byte]bool{}, packs: refs{of: map[pack.Ref]*pack.Ref{}}}
}

// PassOver makes lookups from now on treat what lies in absent packs as never
// stored, and leaves what lies in deleted ones out of what is saved or merged.
// The maps must not be changed any more.
func (t *Table) PassOver(absent, deleted map[[32]byte]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.absent, t.deleted = united(absent, t.lost), united(deleted, t.lost)
}

// Lost makes packs that are not in the store any more count as absent and deleted,
// and as not known, for the life of the table.
func (t *Table) Lost(packs map[[32]byte]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = united(t.lost, packs)
	t.absent, t.deleted = united(t.absent, packs), united(t.deleted, packs)
}

// united is a set with the packs of another too; neither is changed.
func united(a, b map[[32]byte]bool) map[[32]byte]bool {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(b)
	maps.Copy(out, a)
	return out
}

// Lookup finds a chunk. Chunks that are gone are not found.
func (t *Table) Lookup(id [32]byte) (Location, bool) {
	t.mu.RLock()
	if loc, found := t.mem.lookup(id); found && !t.absent[loc.Pack.Hash] {
		t.mu.RUnlock()
		return loc, true
	}
	for _, m := range t.frozen {
		if loc, found := m.lookup(id); found && !t.absent[loc.Pack.Hash] {
			t.mu.RUnlock()
			return loc, true
		}
	}
	holds := math.MaxInt
	var loc Location
	found := false
	t.ask(&id, func(f *File) {
		if f.order >= holds {
			return
		}
		if l, ok, known := t.packs.lookup(f, &id); known && !(ok && t.absent[l.Pack.Hash]) {
			holds, loc, found = f.order, l, ok
		}
	})
	t.mu.RUnlock()
	return loc, found
}

// Places are all places at which a chunk lies by runs and by what was added,
// the one that holds first. What lies in absent packs is left out.
func (t *Table) Places(id [32]byte) (places []Location) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, m := range append([]*memtable{t.mem}, t.frozen...) {
		if loc, found := m.lookup(id); found && !t.absent[loc.Pack.Hash] {
			places = append(places, loc)
		}
	}
	in := map[int]Location{} // by the order of the files
	t.ask(&id, func(f *File) {
		if loc, found, _ := t.packs.lookup(f, &id); found && !t.absent[loc.Pack.Hash] {
			in[f.order] = loc
		}
	})
	for _, order := range slices.Sorted(maps.Keys(in)) {
		places = append(places, in[order])
	}
	return places
}

// ask calls of with each file that may have an entry of a chunk, in no order. One may
// come twice. mu is held.
func (x *files) ask(id *[32]byte, of func(*File)) {
	for _, f := range x.bare {
		of(f)
	}
	for _, d := range x.finders {
		d.ask(id, of)
	}
}

// lookup finds a chunk in one file. known reports whether the file has an entry of
// the chunk, which may be that it is gone. The mutex of the table is held.
func (r *refs) lookup(f *File, id *[32]byte) (loc Location, found, known bool) {
	i, ok := f.find(id)
	if !ok {
		return Location{}, false, false
	}
	e := f.entry(i)
	if e.Gone {
		return Location{}, false, true
	}
	pack, frame := f.locate(e)
	if f.damaged.Load() {
		return Location{}, false, false
	}
	return Location{r.shared(pack), frame.Offset, frame.SealedLen, e.Offset, e.Len}, true, true
}

// LostPack is the lost pack that a chunk lay in, by the newest entry that names
// one.
func (t *Table) LostPack(id [32]byte) (hash [32]byte, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.lost) == 0 {
		return hash, false
	}
	newest := math.MaxInt
	t.ask(&id, func(f *File) {
		if loc, found, _ := t.packs.lookup(f, &id); found && f.order < newest && t.lost[loc.Pack.Hash] {
			newest, hash, ok = f.order, loc.Pack.Hash, true
		}
	})
	return hash, ok
}

// shared is the one copy of info.
func (r *refs) shared(info pack.Ref) *pack.Ref {
	r.mu.RLock()
	p := r.of[info]
	r.mu.RUnlock()
	if p != nil {
		return p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p = r.of[info]; p == nil {
		p = new(info)
		r.of[info] = p
	}
	return p
}

// Add adds the contents of a pack that is durable in the store. An error means
// that the contents are impossible or that the cache cannot be written; what was
// added is found either way.
func (t *Table) Add(info pack.Ref, frames []pack.Frame) error {
	if err := checkPack(&info, frames); err != nil {
		return err
	}
	p := t.packs.shared(info)
	t.mu.Lock()
	t.mem.add(p, frames)
	full := len(t.mem.chunks) >= t.spill
	if full {
		t.freeze()
	}
	t.mu.Unlock()
	if !full {
		return nil
	}
	return t.spillFrozen()
}

// freeze begins a new memtable.
func (a *added) freeze() {
	if len(a.mem.chunks) > 0 {
		a.frozen = slices.Insert(a.frozen, 0, a.mem)
		a.mem = newMemtable()
	}
}

// spillFrozen turns frozen memtables into mapped files, the oldest first.
// Lookups and additions go on meanwhile.
func (t *Table) spillFrozen() error {
	t.spilling.Lock()
	defer t.spilling.Unlock()
	for {
		t.mu.RLock()
		var m *memtable
		if n := len(t.frozen); n > 0 {
			m = t.frozen[n-1]
		}
		t.mu.RUnlock()
		if m == nil {
			return nil
		}
		f, err := t.cache.spill(m.body())
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.frozen = slices.Delete(t.frozen, len(t.frozen)-1, len(t.frozen))
		t.layers = slices.Insert(t.layers, 0, f)
		t.arrange()
		t.mu.Unlock()
		if err := t.cover(false); err != nil {
			return err
		}
	}
}

// Runs are the live runs, newest first.
func (t *Table) Runs() []Info {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return infosOf(t.runs)
}

func infosOf(files []*File) []Info {
	infos := make([]Info, len(files))
	for i, f := range files {
		infos[i] = f.info
	}
	return infos
}

// Generation is the highest that the table has seen.
func (t *Table) Generation() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.generation
}

// Adopt adds runs: those that this process published or fetched. Runs
// that others replace are closed.
func (t *Table) Adopt(runs ...*File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.adopt(runs)
}

// adopt is Adopt with mu held.
func (t *Table) adopt(runs []*File) {
	for _, f := range runs {
		t.generation = max(t.generation, f.info.Generation)
		for _, h := range f.info.Replaces {
			t.replaced[h] = true
		}
	}
	all := append(t.runs, runs...)
	slices.SortStableFunc(all, func(a, b *File) int { return newerFirst(a.info, b.info) })
	t.runs = nil
	var old []*File
	for _, f := range all {
		n := len(t.runs)
		switch {
		case n > 0 && t.runs[n-1] == f:
		case t.replaced[f.info.Hash], n > 0 && t.runs[n-1].info.Hash == f.info.Hash:
			old = append(old, f)
		default:
			t.runs = append(t.runs, f)
		}
	}
	t.drop(old)
}

// drop closes files, which are not among layers and runs any more; mu is held.
func (x *files) drop(gone []*File) {
	for _, d := range x.finders {
		had := d.files
		d.assign(func(i int) *File {
			if slices.Contains(gone, had[i]) {
				return nil
			}
			return had[i]
		})
	}
	x.finders = slices.DeleteFunc(x.finders, func(d *finder) bool {
		if d.entries == 0 { // one in the cache is removed by whoever opens it next
			d.Close()
		}
		return d.entries == 0
	})
	for _, f := range gone {
		f.Close()
	}
	x.arrange()
}

// arrange notes what lookups go by, after layers, runs or finders came or went; mu is
// held.
func (x *files) arrange() {
	x.bare = nil
	for i, f := range slices.Concat(x.layers, x.runs) {
		if f.order = i; !f.covered {
			x.bare = append(x.bare, f)
		}
	}
}

// Unsave makes live runs count as not saved any more: what they hold is among the
// next Unsaved, and not among Runs. Of what was added it counts as the oldest.
func (t *Table) Unsave(runs [][32]byte) {
	t.spilling.Lock()
	defer t.spilling.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs = slices.DeleteFunc(t.runs, func(f *File) bool {
		unsaved := slices.Contains(runs, f.info.Hash)
		if unsaved {
			t.layers = append(t.layers, f)
		}
		return unsaved
	})
	t.arrange()
}

// Merge yields the bodies of the runs that replace some of Runs, as Plan chose
// them. Publish all bodies, the last with the hashes of Replaced, and adopt
// them together. The error is ErrDamaged.
func (t *Table) Merge(some []Info) (iter.Seq[*Body], error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	files := slices.DeleteFunc(slices.Clone(t.runs), func(f *File) bool {
		return !slices.ContainsFunc(some, func(i Info) bool { return i.Hash == f.info.Hash })
	})
	if !whole(files) {
		return nil, ErrDamaged
	}
	return Merge(files, MaxEntries, MergeOptions{DropGone: len(files) == len(t.runs), LeaveOut: t.deleted}), nil
}

// Unsaved is what was added up to one moment and not yet saved.
type Unsaved struct {
	t      *Table
	layers []*File
}

// Unsaved returns what was added since the last Saved. What is added
// from now on belongs to the next one.
func (t *Table) Unsaved() (*Unsaved, error) {
	t.mu.Lock()
	t.freeze()
	t.mu.Unlock()
	if err := t.spillFrozen(); err != nil {
		return nil, err
	}
	t.spilling.Lock()
	defer t.spilling.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !whole(t.layers) {
		return nil, fmt.Errorf("what was added to the index: %w", ErrDamaged)
	}
	return &Unsaved{t, slices.Clone(t.layers)}, nil
}

// whole reports whether every byte of files is as it was written.
func whole(files []*File) bool {
	return !slices.ContainsFunc(files, func(f *File) bool { return !f.Whole() })
}

// Bodies yields bodies of at most MaxEntries chunks, each to be published as
// a run of its own. Those that PassOver left nothing in are not among them.
func (u *Unsaved) Bodies() iter.Seq[*Body] {
	u.t.mu.RLock()
	deleted := u.t.deleted
	u.t.mu.RUnlock()
	return func(yield func(*Body) bool) {
		for x := range Merge(u.layers, MaxEntries, MergeOptions{LeaveOut: deleted}) {
			if x.Len > 0 && !yield(x) {
				return
			}
		}
	}
}

// Saved puts the runs that were published from all of Bodies in the place of
// what they were made from. Bodies must not be used after it.
func (u *Unsaved) Saved(runs ...*File) {
	t := u.t
	t.spilling.Lock()
	defer t.spilling.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.layers = slices.DeleteFunc(t.layers, func(f *File) bool { return slices.Contains(u.layers, f) })
	t.adopt(runs)
	for _, f := range u.layers {
		if f.held != "" {
			_ = t.cache.remove(f.held) // what stays is published once more
		}
	}
	t.drop(u.layers)
	u.layers = nil
}

// Close closes all files. Locations remain valid.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, f := range slices.Concat(t.layers, t.runs) {
		errs = append(errs, f.Close())
	}
	for _, d := range t.finders {
		errs = append(errs, d.Close())
	}
	t.layers, t.runs, t.bare, t.finders = nil, nil, nil, nil
	return errors.Join(errs...)
}
