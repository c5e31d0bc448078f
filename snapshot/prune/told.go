package prune

import (
	"cmp"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/statement"
)

// saying tells what stands for an old pack, for manifests. The lists are in
// order.
type saying struct {
	old             [32]byte
	into, manifests [][32]byte
}

// recorded are the repacks that say so, as few as may be.
func recorded(said []saying) []statement.Repack {
	lists := func(a, b [][32]byte) int { return slices.CompareFunc(a, b, deletion.CompareHashes) }
	slices.SortFunc(said, func(a, b saying) int {
		return cmp.Or(lists(a.manifests, b.manifests), lists(a.into, b.into), deletion.CompareHashes(a.old, b.old))
	})
	var out []statement.Repack
	for i, s := range said {
		other := i == 0 || lists(s.manifests, said[i-1].manifests) != 0
		if other {
			out = append(out, statement.Repack{Manifests: s.manifests})
		}
		x := &out[len(out)-1]
		if other || lists(s.into, said[i-1].into) != 0 {
			x.Moves = append(x.Moves, statement.Move{New: s.into})
		}
		m := &x.Moves[len(x.Moves)-1]
		m.Old = append(m.Old, s.old)
	}
	return out
}

// told are the repacks of statements that will not be read any more once since
// is told, as they hold now: of packs that kept snapshots name, and for
// forgotten ones whose manifests are still there of all, for they may be taken
// back.
func (d *domain) told(since uint64) []statement.Repack {
	kept, named := map[[32]byte]bool{}, map[[32]byte]bool{}
	for _, m := range d.manifests {
		kept[m.Body.Manifest.Hash] = true
		for _, o := range m.objects {
			named[o.Hash] = true
		}
	}
	for _, x := range d.deletions.Repacks {
		for _, h := range x.New {
			named[h] = named[h] || x.Serial >= since
		}
	}
	there := func(id deletion.ObjectID) bool {
		_, ok := d.objects[id]
		return ok
	}
	done := map[[2][32]byte]bool{} // of a manifest and an old pack
	var out []saying
	for _, x := range d.deletions.Repacks {
		if x.Serial >= since {
			continue
		}
		for _, old := range x.Old {
			by := map[string]*saying{} // by what stands for it
			for _, m := range x.Manifests {
				if !there(deletion.ObjectID{Kind: wire.KindManifest, Hash: m}) || kept[m] && !named[old] || done[[2][32]byte{m, old}] {
					continue
				}
				done[[2][32]byte{m, old}] = true
				var into [][32]byte
				key := ""
				for _, id := range d.deletions.Resolve(m, deletion.ObjectID{Kind: wire.KindPack, Hash: old}, there) {
					into = append(into, id.Hash)
				}
				slices.SortFunc(into, deletion.CompareHashes)
				for _, h := range into {
					key += string(h[:])
				}
				if by[key] == nil {
					by[key] = &saying{old: old, into: into}
				}
				by[key].manifests = append(by[key].manifests, m)
			}
			for _, s := range by {
				if !slices.Contains(s.into, old) {
					out = append(out, *s)
				}
			}
		}
	}
	return recorded(out)
}
