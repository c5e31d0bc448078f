package snapshot

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
)

// Which packs of the last manifest a capture stops referring to. It knows what
// the last snapshot needs of a pack, not what older ones need.
const (
	// A pack is sparse when both what is stored of it and its content are more
	// than so many times the content that is needed: storing that again takes less.
	sparseTimes = 2
	// Packs below tinySize are stored again together, as soon as there are tinyPacks.
	tinySize  = 1 << 20
	tinyPacks = 16
	// A file is read again when at least one part in fileShare of it lies in such packs.
	fileShare = 4
)

// vacatedFile names the packs that captures chose, in the folder of the environment.
const vacatedFile = "vacated"

// vacating is what a capture does so that its snapshot, and those after it, do
// not need packs of which little is needed: it reads the files again whose
// content lies there. Such a pack is free once no older snapshot is kept that
// needs it. It takes no identity.
type vacating struct {
	packs  map[[32]byte]bool
	budget uint64 // bytes of files that may still be read
	// chosen are the packs that were chosen before and that the last manifest
	// still needs. They are not chosen again: a file that is too large for the
	// budget, or lies there by a small part, keeps them.
	chosen map[string]bool
}

// vacate chooses among the objects that the last manifest needs, and has lookups
// pass over what it chose. dir is that of the environment.
func vacate(dir userdir.Dir, needed []pack.Object, index *objects.Index, budget uint64) (v vacating) {
	v.load(dir)
	v.choose(needed, index.Contents, budget)
	if len(v.packs) > 0 {
		index.Exclude(v.packs)
	}
	return v
}

// choose chooses among the objects that the last manifest needs. contents is how
// many bytes of content packs hold.
func (v *vacating) choose(needed []pack.Object, contents func(map[[32]byte]bool) map[[32]byte]uint64, budget uint64) {
	var sparse, tiny []pack.Object
	before := v.chosen
	v.packs, v.budget, v.chosen = map[[32]byte]bool{}, budget, map[string]bool{}
	candidates := map[[32]byte]bool{}
	for _, o := range needed {
		switch name := hex.EncodeToString(o.Hash[:]); {
		case o.Kind != wire.KindPack:
		case before[name]:
			v.chosen[name] = true
		case o.Size < tinySize:
			tiny = append(tiny, o)
		case o.Live*sparseTimes < o.Size:
			sparse, candidates[o.Hash] = append(sparse, o), true
		}
	}
	if len(candidates) > 0 {
		holds := contents(candidates)
		sparse = slices.DeleteFunc(sparse, func(o pack.Object) bool { return o.Live*sparseTimes >= holds[o.Hash] })
	}
	if len(tiny) >= tinyPacks {
		sparse = append(sparse, tiny...)
	}
	slices.SortStableFunc(sparse, func(a, b pack.Object) int {
		return cmp.Compare(float64(a.Live)/float64(a.Size), float64(b.Live)/float64(b.Size))
	})
	for _, o := range sparse {
		if o.Live <= budget {
			budget -= o.Live
			v.packs[o.Hash], v.chosen[hex.EncodeToString(o.Hash[:])] = true, true
		}
	}
}

// displaces reports whether a file of the last manifest is to be read again, and
// takes it from the budget.
func (v *vacating) displaces(e *manifest.Entry) bool {
	if len(v.packs) == 0 || e.Size > v.budget {
		return false
	}
	var in uint64
	for i := range e.Chunks {
		if x := &e.Chunks[i]; x.Loc.Pack != nil && v.packs[x.Loc.Pack.Hash] {
			in += uint64(x.Len)
		}
	}
	if in == 0 || in*fileShare < e.Size {
		return false
	}
	v.budget -= e.Size
	return true
}

func (v *vacating) load(dir userdir.Dir) {
	var names []string
	if b, err := dir.ReadFile(vacatedFile); err == nil {
		_ = json.Unmarshal(b, &names) // what is lost is chosen once more
	}
	v.chosen = map[string]bool{}
	for _, name := range names {
		v.chosen[name] = true
	}
}

// save remembers what was chosen, after a capture that chose something.
func (v *vacating) save(dir userdir.Dir) error {
	if len(v.packs) == 0 {
		return nil
	}
	b, err := json.Marshal(slices.Sorted(maps.Keys(v.chosen)))
	if err == nil {
		err = dir.Replace(vacatedFile, b)
	}
	return err
}
