package index

import (
	"cmp"
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
	d, err := t.cache.finder(files, runs)
	if err != nil {
		return err
	}

	t.mu.Lock()
	d.assign(func(i int) *File { return files[i] })
	for _, f := range files {
		f.covered = true
	}
	t.finders = append(slices.DeleteFunc(t.finders, func(d *finder) bool { return slices.Contains(old, d) }), d)
	t.arrange()
	t.mu.Unlock()
	return t.discard(old, d.name)
}

// discard closes finders that are not used any more, and removes them from the
// cache, unless the one that took their place has their name.
func (t *Table) discard(old []*finder, except string) error {
	for _, d := range old {
		d.Close()
		if d.name != "" && d.name != except {
			if err := t.cache.remove(d.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Cover makes sure that a lookup asks few places, however many runs there are. It
// takes the finders that are in the cache, and makes those that are missing. It belongs
// after Adopt.
func (t *Table) Cover() error {
	if !t.taken {
		if err := t.takeFinders(); err != nil {
			return err
		}
		t.taken = true
	}
	return t.cover(true)
}

// takeFinders takes from the cache the finders that still cover something, the
// largest first, and removes the others.
func (t *Table) takeFinders() error {
	found, err := t.cache.finders()
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b *finder) int { return cmp.Compare(b.entries, a.entries) })
	var old []*finder
	t.mu.Lock()
	byHash := map[[32]byte]*File{}
	for _, f := range t.runs {
		byHash[f.info.Hash] = f
	}
	for _, d := range found {
		entries := d.entries
		d.assign(func(i int) *File {
			if f := byHash[d.covers[i]]; f != nil && !f.covered {
				return f
			}
			return nil
		})
		if d.entries == 0 || 2*d.entries < entries {
			old = append(old, d)
			continue
		}
		for _, f := range d.files {
			if f != nil {
				f.covered = true
			}
		}
		t.finders = append(t.finders, d)
	}
	t.arrange()
	t.mu.Unlock()
	return t.discard(old, "")
}

// DropDamaged closes the runs that turned out to be damaged, and removes them from
// the cache, and finders likewise.
func (t *Table) DropDamaged() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	damaged := func(f *File) bool { return f.damaged.Load() }
	var files []*File
	for _, f := range t.runs {
		if damaged(f) {
			files = append(files, f)
		}
	}
	t.runs = slices.DeleteFunc(t.runs, damaged)
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
	t.finders = slices.DeleteFunc(t.finders, func(d *finder) bool { return slices.Contains(old, d) })
	t.drop(files)
	for _, f := range files {
		if err := t.cache.Remove(f.info.Hash); err != nil {
			return err
		}
	}
	return t.discard(old, "")
}
