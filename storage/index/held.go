package index

import "slices"

// An index run costs an object, so what a capture with little content added is held
// in the cache and published with what others added. Where that is lost, the packs are
// in the store, and list what they hold.
const (
	maxHeld     = 32   // files
	heldEntries = 1024 // chunks in one
)

// TakeHeld adds what is held in the cache to what was added, and returns how many files
// that are.
func (t *Table) TakeHeld() (int, error) {
	t.spilling.Lock()
	defer t.spilling.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	files, err := t.cache.held(func(name string) bool {
		return slices.ContainsFunc(t.layers, func(f *File) bool { return f.held == name })
	})
	t.layers = append(t.layers, files...)
	t.arrange()
	held := 0
	for _, f := range t.layers {
		if f.held != "" {
			held++
		}
	}
	return held, err
}

// Few reports whether what was added may be held. What names a deleted pack may not:
// the statement that names it deleted is not read for ever.
func (t *Table) Few() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	other := slices.ContainsFunc(t.layers, func(f *File) bool {
		for i := range f.packs.count {
			if t.deleted[f.pack(i).Hash] {
				return true
			}
		}
		return f.held == ""
	})
	return !other && len(t.frozen) == 0 && len(t.layers) < maxHeld && len(t.mem.chunks) <= heldEntries
}

// Hold holds in the cache what was added and not yet saved.
func (t *Table) Hold() error {
	t.spilling.Lock()
	defer t.spilling.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.mem.chunks) == 0 {
		return nil
	}
	f, err := t.cache.hold(t.mem.body())
	if err != nil {
		return err
	}
	t.mem = newMemtable()
	t.layers = slices.Insert(t.layers, 0, f)
	t.arrange()
	return nil
}
