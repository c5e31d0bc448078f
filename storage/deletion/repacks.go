package deletion

import (
	"context"
	"fmt"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Repack names what packs were rewritten into for some manifests.
type Repack struct {
	statement.Move
	Manifests [][32]byte
	Serial    uint64 // of its statement
}

// addRepacks adds the repacks of a statement; statements come the newest first. They
// count even where an old pack was spared since: a manifest that needed the new packs
// still needs them.
func (d *Deletions) addRepacks(s *statement.Deletion) {
	for _, x := range s.Repacks {
		for _, m := range x.Moves {
			for _, h := range m.Old {
				d.rewritten[h] = append(d.rewritten[h], len(d.Repacks))
			}
			d.Repacks = append(d.Repacks, Repack{m, x.Manifests, s.Serial})
		}
	}
}

// Resolve returns what a manifest needs instead of an object that its list names: the
// object itself, or the packs that it was rewritten into for that manifest. While one
// of these is missing and the object still exists, it returns the object too.
func (d *Deletions) Resolve(manifest [32]byte, id ObjectID, exists func(ObjectID) bool) []ObjectID {
	if id.Kind != wire.KindPack || len(d.rewritten[id.Hash]) == 0 {
		return []ObjectID{id}
	}
	r := &resolution{d, manifest, exists, map[[32]byte]bool{}, map[[32]byte]bool{}, nil}
	r.visit(id.Hash)
	return r.out
}

// resolution finds the packs that one was rewritten into.
type resolution struct {
	*Deletions
	manifest [32]byte
	exists   func(ObjectID) bool
	visited  map[[32]byte]bool // whether the pack, or all that replaces it, exists
	within   map[[32]byte]bool // packs on the path to the one that is visited
	out      []ObjectID
}

// visit adds what replaces a pack to r.out, and reports whether all of it exists.
func (r *resolution) visit(pack [32]byte) (complete bool) {
	if complete, visited := r.visited[pack]; visited {
		return complete
	}
	id := ObjectID{Kind: wire.KindPack, Hash: pack}
	i := slices.IndexFunc(r.rewritten[pack], func(i int) bool { return contains(r.Repacks[i].Manifests, r.manifest) })
	if i < 0 || r.within[pack] { // a pack is never rewritten into itself
		r.out = append(r.out, id)
		r.visited[pack] = r.exists(id)
		return r.visited[pack]
	}
	r.within[pack] = true
	defer delete(r.within, pack)
	mark := len(r.out)
	complete = true
	for _, h := range r.Repacks[r.rewritten[pack][i]].New {
		complete = r.visit(h) && complete
	}
	if !complete && r.exists(id) {
		found := slices.DeleteFunc(r.out[mark:], func(o ObjectID) bool { return !r.exists(o) })
		r.out = append(r.out[:mark+len(found)], id)
		complete = true
	}
	r.visited[pack] = complete
	return complete
}

func contains(sorted [][32]byte, h [32]byte) bool {
	_, found := slices.BinarySearchFunc(sorted, h, CompareHashes)
	return found
}

// CompareHashes orders hashes as statements do.
func CompareHashes(a, b [32]byte) int { return slices.Compare(a[:], b[:]) }

// Moved reports whether what was needed of a pack was rewritten.
func (d *Deletions) Moved(pack [32]byte) bool { return d != nil && len(d.rewritten[pack]) > 0 }

// Rewrites are, by pack, the lists of packs that it was rewritten into in any
// statement, for any manifest.
type Rewrites map[[32]byte][][][32]byte

// Rewrites reads every statement of a domain that verifies, even where a later one
// makes it outdated, because an attacker may have published the later one.
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

// Beyond are all packs that a pack was rewritten into, directly or by further
// rewrites.
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
