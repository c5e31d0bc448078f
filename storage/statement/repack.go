package statement

import (
	"bytes"
	"slices"

	"knowngood/internal/wire"
)

// Repack says that packs were rewritten: of each chunk that one of the
// manifests needs from an old pack there is a copy in a new one. Who needs an
// old pack for such a manifest needs the new ones instead, all of them, which
// may have been rewritten themselves since. It says nothing of any other
// manifest.
type Repack struct {
	Old, New  [][32]byte // packs
	Manifests [][32]byte // the containers of their tables
}

// Hashes is how many the Repack names.
func (x *Repack) Hashes() int { return len(x.Old) + len(x.New) + len(x.Manifests) }

func appendRepacks(list []Repack) []byte {
	if len(list) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(list)))
	for _, x := range list {
		for _, hashes := range [][][32]byte{x.Old, x.New, x.Manifests} {
			b = wire.AppendUvarint(b, uint64(len(hashes)))
			for _, h := range hashes {
				b = append(b, h[:]...)
			}
		}
	}
	return b
}

// parseRepacks takes a list of repacks, which names at most MaxDeletionObjects
// hashes in all.
func parseRepacks(r *wire.Fields, tag uint64) []Repack {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}
	d := wire.NewDecoder(v)
	n := d.Count(3 * (1 + 32))
	if n == 0 {
		d.Fail("an empty list")
	}
	list := make([]Repack, n)
	named := 0
	for i := range list {
		x := &list[i]
		for _, hashes := range []*[][32]byte{&x.Old, &x.New, &x.Manifests} {
			n := d.Count(32)
			if named += n; n == 0 || named > MaxDeletionObjects {
				d.Fail("a list of %d hashes", n)
			}
			if d.Err() != nil {
				break
			}
			*hashes = make([][32]byte, n)
			for k := range *hashes {
				d.Copy((*hashes)[k][:])
				if k > 0 && bytes.Compare((*hashes)[k-1][:], (*hashes)[k][:]) >= 0 {
					d.Fail("hashes out of order")
				}
			}
		}
		if d.Err() == nil && slices.ContainsFunc(x.Old, func(h [32]byte) bool { return slices.Contains(x.New, h) }) {
			d.Fail("a pack rewritten into itself")
		}
		if d.Err() != nil {
			break
		}
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return list
}
