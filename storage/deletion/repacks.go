package deletion

import (
	"context"
	"fmt"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Repack tells into what packs were rewritten for some manifests.
type Repack struct {
	statement.Move
	Manifests [][32]byte
	Serial    uint64 // of the statement that says so
}

// repacked takes in what a statement says of rewritten packs; statements come
// the newest first. That an old pack was spared since changes nothing: who was
// told to need the new ones needs them still.
func (d *Deletions) repacked(s *statement.Deletion) {
	for _, x := range s.Repacks {
		for _, m := range x.Moves {
			for _, h := range m.Old {
				d.rewritten[h] = append(d.rewritten[h], len(d.Repacks))
			}
			d.Repacks = append(d.Repacks, Repack{m, x.Manifests, s.Serial})
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
	id := ObjectID{Kind: wire.KindPack, Hash: pack}
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

// Moved reports whether what was needed of a pack was rewritten.
func (d *Deletions) Moved(pack [32]byte) bool { return d != nil && len(d.rewritten[pack]) > 0 }

// Rewrites tell of packs into what they were ever said to be rewritten, for
// whatever manifests.
type Rewrites map[[32]byte][][][32]byte

// Rewrites reads every statement of a domain that verifies, those too that
// count no more: who may put one can have others pass for outdated.
func (x *Deletion) Rewrites(ctx context.Context, host string, domain seal.DomainID) (Rewrites, error) {
	out := Rewrites{}
	for e, err := range x.ledger(host, domain).All(ctx, ahead) {
		if err != nil {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if !e.Counts() {
			continue // of which Deletions warns
		}
		for _, repack := range e.Value.Repacks {
			for _, m := range repack.Moves {
				for _, h := range m.Old {
					out[h] = append(out[h], m.New)
				}
			}
		}
	}
	return out, nil
}

// Beyond are all packs that one leads to.
func (w Rewrites) Beyond(pack [32]byte) [][32]byte {
	var out [][32]byte
	seen := map[[32]byte]bool{pack: true}
	for next := [][32]byte{pack}; len(next) > 0; next = next[1:] {
		for _, into := range w[next[0]] {
			for _, h := range into {
				if !seen[h] {
					seen[h] = true
					out, next = append(out, h), append(next, h)
				}
			}
		}
	}
	return out
}
