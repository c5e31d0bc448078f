package repository

import (
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/statement"
)

// Repack tells of packs that were rewritten; see statement.Repack.
type Repack struct {
	statement.Repack
	Serial uint64 // of the statement that says so
}

// repacked takes in what a statement says of rewritten packs; statements come
// the newest first. What an older one says of a pack that was spared since is
// void: its new packs may be gone, for the old one was needed itself.
func (d *Deletions) repacked(s *statement.Deletion) {
	for _, x := range s.Repacks {
		x.Old = slices.DeleteFunc(slices.Clone(x.Old), func(h [32]byte) bool { return d.void[h] })
		for _, h := range x.Old {
			d.rewritten[h] = append(d.rewritten[h], len(d.Repacks))
		}
		if len(x.Old) > 0 {
			d.Repacks = append(d.Repacks, Repack{x, s.Serial})
		}
	}
	for _, o := range s.Spared {
		if o.Kind == wire.KindPack {
			d.void[o.Hash] = true
		}
	}
}

// Resolve tells what a manifest needs in the place of an object that its list
// names: the object itself, or the packs that it was rewritten into for that
// manifest. An object that is still there stands for itself while one of those
// is not.
func (d *Deletions) Resolve(manifest [32]byte, id ObjectID, there func(ObjectID) bool) []ObjectID {
	if id.Kind != wire.KindPack || len(d.rewritten[id.Hash]) == 0 {
		return []ObjectID{id}
	}
	r := &resolution{d, manifest, there, map[[32]byte]bool{}, map[[32]byte]bool{}, nil}
	r.visit(id.Hash)
	return r.out
}

// resolution follows the packs that one was rewritten into.
type resolution struct {
	*Deletions
	manifest [32]byte
	there    func(ObjectID) bool
	seen     map[[32]byte]bool // whether all that stands for the pack is there
	within   map[[32]byte]bool // packs on the way to the one that is visited
	out      []ObjectID
}

func (r *resolution) visit(pack [32]byte) (whole bool) {
	if whole, seen := r.seen[pack]; seen {
		return whole
	}
	id := ObjectID{wire.KindPack, pack}
	i := slices.IndexFunc(r.rewritten[pack], func(i int) bool { return contains(r.Repacks[i].Manifests, r.manifest) })
	if i < 0 || r.within[pack] { // none is rewritten into itself
		r.out = append(r.out, id)
		r.seen[pack] = r.there(id)
		return r.seen[pack]
	}
	r.within[pack] = true
	defer delete(r.within, pack)
	mark := len(r.out)
	whole = true
	for _, h := range r.Repacks[r.rewritten[pack][i]].New {
		whole = r.visit(h) && whole
	}
	if !whole && r.there(id) {
		found := slices.DeleteFunc(r.out[mark:], func(o ObjectID) bool { return !r.there(o) })
		r.out = append(r.out[:mark+len(found)], id)
		whole = true
	}
	r.seen[pack] = whole
	return whole
}

func contains(sorted [][32]byte, h [32]byte) bool {
	_, found := slices.BinarySearchFunc(sorted, h, CompareHashes)
	return found
}

// CompareHashes orders hashes as statements do.
func CompareHashes(a, b [32]byte) int { return slices.Compare(a[:], b[:]) }

// Moved tells of a pack whether what was needed of it was rewritten.
func (x *Index) Moved(pack [32]byte) bool { return len(x.deletions.rewritten[pack]) > 0 }
