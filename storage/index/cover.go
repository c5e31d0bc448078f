package index

import (
	"cmp"
	"errors"
	"slices"
)

const (
	// So many bare files are asked one by one before they get a finder, unless they
	// have so many entries together that asking them costs more than memory near by.
	bareFiles, bareEntries = 4, 8 << 10
	// absorbTimes is how many times the entries of what is new a finder may have to
	// be made again with it. So there are few, and an entry is written to a new one
	// about log2 of the number of entries times.
	absorbTimes = 4
)

// cover makes a finder of the bare ones among the layers, or among the runs, and of
// what smaller finders cover. Those of runs stay in the cache. Of the files none may be
// dropped meanwhile.
func (t *Table) cover(runs bool) error {
	t.mu.RLock()
	kind := t.layers
	if runs {
		kind = t.runs
	}
	files := slices.DeleteFunc(slices.Clone(kind), func(f *File) bool { return f.covered })
	finders := slices.DeleteFunc(slices.Clone(t.finders), func(d *finder) bool { return (d.name != "") != runs })
	entries := 0
	for _, f := range files {
		entries += f.len()
	}
	if len(files) < bareFiles && entries < bareEntries {
		t.mu.RUnlock()
		return nil
	}
	slices.SortFunc(finders, func(a, b *finder) int { return cmp.Compare(a.entries, b.entries) })
	var old []*finder
	for _, d := range finders {
		if d.entries > absorbTimes*entries {
			break
		}
		for _, f := range d.files {
			if f != nil {
				files, entries = append(files, f), entries+f.len()
			}
		}
		old = append(old, d)
	}
	t.mu.RUnlock()
	files = slices.DeleteFunc(files, func(f *File) bool { return !f.Whole() }) // what it is made of
	if len(files) == 0 || len(files) > maxCovered {
		return nil
	}
	even := slices.Clone(files)
	d, err := t.cache.finder(even, runs)
	if err != nil {
		return err
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range files {
		f.covered = false
	}
	t.use(d, func(i int) *File { return even[i] })
	return t.discard(old)
}

// use adds a finder of files, by their number; mu is held.
func (x *files) use(d *finder, files func(i int) *File) {
	d.assign(files)
	for _, f := range d.files {
		if f != nil {
			f.covered = true
		}
	}
	x.finders = append(x.finders, d)
}

// discard closes finders, whose files others cover, and removes them from the cache;
// mu is held.
func (x *files) discard(old []*finder) error {
	x.finders = slices.DeleteFunc(x.finders, func(d *finder) bool { return slices.Contains(old, d) })
	x.arrange()
	var errs []error
	for _, d := range old {
		d.Close()
		if d.name != "" {
			errs = append(errs, x.cache.remove(d.name))
		}
	}
	return errors.Join(errs...)
}

// Cover makes sure that a lookup asks few places, however many runs there are. It
// takes the finders that are in the cache, and makes those that are missing. It belongs
// after Adopt.
func (t *Table) Cover() error {
	if !t.taken {
		found, err := t.cache.finders()
		if err != nil {
			return err
		}
		t.mu.Lock()
		err = t.take(found)
		t.mu.Unlock()
		if err != nil {
			return err
		}
		t.taken = true
	}
	return t.cover(true)
}

// take uses the finders of the cache that still cover most of what they did, the
// largest first, and removes the others; mu is held.
func (x *files) take(found []*finder) error {
	slices.SortFunc(found, func(a, b *finder) int { return cmp.Compare(b.entries, a.entries) })
	byHash := map[[32]byte]*File{}
	for _, f := range x.runs {
		byHash[f.info.Hash] = f
	}
	var old []*finder
	for _, d := range found {
		had := d.entries
		d.assign(func(i int) *File { return byHash[d.covers[i]] })
		if 2*d.entries < had || d.entries == 0 {
			old = append(old, d)
			continue
		}
		x.use(d, func(i int) *File { return byHash[d.covers[i]] })
		for _, f := range d.files {
			if f != nil {
				delete(byHash, f.info.Hash)
			}
		}
	}
	return x.discard(old)
}

// DropDamaged closes the runs that turned out to be damaged, and removes them from
// the cache, and finders likewise.
func (t *Table) DropDamaged() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var files []*File
	var errs []error
	for _, f := range t.runs {
		if f.damaged.Load() {
			files = append(files, f)
			errs = append(errs, t.cache.Remove(f.info.Hash))
		}
	}
	t.runs = slices.DeleteFunc(t.runs, func(f *File) bool { return slices.Contains(files, f) })
	t.drop(files)
	var old []*finder
	for _, d := range t.finders {
		if d.damaged.Load() {
			old = append(old, d)
			for _, f := range d.files {
				if f != nil {
					f.covered = false
				}
			}
		}
	}
	return errors.Join(append(errs, t.discard(old))...)
}
