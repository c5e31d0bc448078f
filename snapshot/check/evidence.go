package check

import (
	"cmp"
	"sync"

	"knowngood/snapshot/manifest"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/pack"
)

// evidence is what was found in the objects of a domain: which chunks there really
// are, and what is missing or damaged.
type evidence struct {
	actual *index.Table // made of the packs' own contents

	mu       sync.Mutex // guards the rest while packs are read
	suspects map[deletion.ObjectID]*suspect
	tabled   map[[32]byte]bool // packs that hold a manifest table
	// filesOnly are damaged packs whose contents show no manifest.
	filesOnly map[[32]byte]bool
	remnants  map[[32]byte]remnant
	bad       map[[32]byte]string // chunks that do not verify, and the pack's key
}

// suspect is a pack or container that is missing or damaged. What it held may
// have been stored again since: then it affects nobody.
type suspect struct {
	err    error
	needed bool // a kept snapshot relies only on it for something
	lists  bool // a kept snapshot has its list of files there, or a part of it
}

// suspect notes what is wrong with an object, once.
func (v *evidence) suspect(id deletion.ObjectID, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.suspects[id] = cmp.Or(v.suspects[id], &suspect{err: err})
}

// suspected reports whether something is wrong with an object.
func (v *evidence) suspected(id deletion.ObjectID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.suspects[id] != nil
}

// elsewhere reports whether a chunk lies in a pack that is whole.
func (v *evidence) elsewhere(id [32]byte) bool {
	_, ok := v.actual.Lookup(id)
	return ok
}

// remnantsElsewhere reports whether all chunks that a damaged pack seems to hold lie in
// packs that are whole.
func (v *evidence) remnantsElsewhere(hash [32]byte) bool {
	for id, r := range v.remnants {
		if r.pack.Hash == hash && !v.elsewhere(id) {
			return false
		}
	}
	return true
}

// there reports whether a chunk is where an entry locates it, or in a pack that is
// whole.
func (v *evidence) there(c *manifest.Chunk) bool {
	if loc, ok := v.actual.Lookup(c.ID); ok {
		return loc.Len == c.Len
	}
	r, ok := v.remnants[c.ID]
	return ok && r.len == c.Len && (r.pack == *c.Loc.Pack || c.Loc.Pack.Small() && r.pack.Hash == c.Loc.Pack.Hash)
}

// badChunk notes a chunk that a pack does not hold as it should. Of several packs the
// first by its key is named.
func (v *evidence) badChunk(id [32]byte, key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if other := v.bad[id]; other == "" || key < other {
		v.bad[id] = key
	}
}

// known takes the contents of a pack into the table of what there really is.
func (v *evidence) known(hash [32]byte, size int64, tail *pack.Tail, c *pack.Contents) error {
	if len(c.Manifest) > 0 {
		v.mu.Lock()
		v.tabled[hash] = true
		v.mu.Unlock()
	}
	return v.actual.Add(tail.Ref(hash), c.Files)
}

// remnant is a chunk of a pack whose bytes are not those of its name. Who
// opens it as that pack may still find the chunk there.
type remnant struct {
	pack pack.Ref
	len  uint32
}

// doubt takes the contents of a damaged pack, or of another object in its
// place.
func (v *evidence) doubt(hash [32]byte, tail *pack.Tail, c *pack.Contents) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.filesOnly[hash] = len(c.Manifest) == 0
	for _, f := range c.Files {
		for _, ch := range f.Chunks {
			v.remnants[ch.ID] = remnant{tail.Ref(hash), ch.Len}
		}
	}
}
