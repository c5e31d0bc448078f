package prune

import (
	"cmp"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/statement"
)

// replacement is what is needed in the place of an old pack, for some manifests.
// The lists are in order.
type replacement struct {
	old             [32]byte
	into, manifests [][32]byte
}

// repacksOf are the repacks that state the replacements, as few as possible.
func repacksOf(all []replacement) []statement.Repack {
	lists := func(a, b [][32]byte) int { return slices.CompareFunc(a, b, deletion.CompareHashes) }
	slices.SortFunc(all, func(a, b replacement) int {
		return cmp.Or(lists(a.manifests, b.manifests), lists(a.into, b.into), deletion.CompareHashes(a.old, b.old))
	})
	var out []statement.Repack
	for i, r := range all {
		other := i == 0 || lists(r.manifests, all[i-1].manifests) != 0
		if other {
			out = append(out, statement.Repack{Manifests: r.manifests})
		}
		x := &out[len(out)-1]
		if other || lists(r.into, all[i-1].into) != 0 {
			x.Moves = append(x.Moves, statement.Move{New: r.into})
		}
		m := &x.Moves[len(x.Moves)-1]
		m.Old = append(m.Old, r.old)
	}
	return out
}

// restated are the repacks of statements before since, which will not be read
// any more, as they hold now: of packs that kept snapshots name, and for
// forgotten ones whose manifests still exist of all, because they may be taken
// back.
func (f *facts) restated(since uint64) []statement.Repack {
	kept, named := map[[32]byte]bool{}, map[[32]byte]bool{}
	for _, m := range f.manifests {
		kept[m.Body.Manifest.Hash] = true
		for id := range m.objects.all() {
			named[id.Hash] = true
		}
	}
	for _, x := range f.deletions.Repacks {
		for _, h := range x.New {
			named[h] = named[h] || x.Serial >= since
		}
	}
	done := map[[2][32]byte]bool{} // of a manifest and an old pack
	var out []replacement
	for _, x := range f.deletions.Repacks {
		if x.Serial >= since {
			continue
		}
		for _, old := range x.Old {
			by := map[string]*replacement{} // by the new packs
			for _, m := range x.Manifests {
				there := f.exists(deletion.ObjectID{Kind: wire.KindManifest, Hash: m}) || f.exists(deletion.ObjectID{Kind: wire.KindPack, Hash: m})
				if !there || kept[m] && !named[old] || done[[2][32]byte{m, old}] {
					continue
				}
				done[[2][32]byte{m, old}] = true
				var into [][32]byte
				key := ""
				for _, id := range f.deletions.Resolve(m, deletion.ObjectID{Kind: wire.KindPack, Hash: old}, f.exists) {
					into = append(into, id.Hash)
				}
				slices.SortFunc(into, deletion.CompareHashes)
				for _, h := range into {
					key += string(h[:])
				}
				by[key] = cmp.Or(by[key], &replacement{old: old, into: into})
				by[key].manifests = append(by[key].manifests, m)
			}
			for _, r := range by {
				if !slices.Contains(r.into, old) {
					out = append(out, *r)
				}
			}
		}
	}
	return repacksOf(out)
}
