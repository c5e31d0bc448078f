package index

// HasPacks returns a function that tells whether a pack is known: whether its
// contents are in a run or were added. It sees the table as it is now.
func (t *Table) HasPacks() func(hash [32]byte) bool {
	known := map[[32]byte]bool{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, files := range [2][]*File{t.layers, t.runs} {
		for _, f := range files {
			for i := range len(f.packs) / packLen {
				known[f.pack(i).Hash] = true
			}
		}
	}
	for _, m := range append([]*memtable{t.mem}, t.frozen...) {
		for _, p := range m.packs {
			known[p.Hash] = true
		}
	}
	return func(hash [32]byte) bool { return known[hash] }
}
