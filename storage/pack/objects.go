package pack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"knowngood/internal/wire"
)

// objectMin is the shortest encoding of an Object, in bytes; maxListed is how many a
// list has at most.
const (
	objectMin = 1 + sha256.Size + 2
	maxListed = MaxContents / objectMin
)

// Object is what a snapshot needs of the store.
type Object struct {
	Kind wire.Kind
	Hash [32]byte
	Size uint64 // stored bytes
	Live uint64 // content bytes that the snapshot refers to
}

// CompareObjects orders by kind, then hash.
func CompareObjects(a, b Object) int {
	if a.Kind != b.Kind {
		return int(a.Kind) - int(b.Kind)
	}
	return slices.Compare(a.Hash[:], b.Hash[:])
}

// AppendObjects appends a list of objects to b.
func AppendObjects(b []byte, objects []Object) []byte {
	b = wire.AppendUvarint(b, uint64(len(objects)))
	for i := range objects {
		o := &objects[i]
		b = append(b, byte(o.Kind))
		b = append(b, o.Hash[:]...)
		b = wire.AppendUvarint(b, o.Size)
		b = wire.AppendUvarint(b, o.Live)
	}
	return b
}

// ParseObjects reads a list of objects.
func ParseObjects(d *wire.Decoder) (objects []Object) {
	for range d.Count(objectMin) {
		o := Object{Kind: wire.Kind(d.U8())}
		d.Copy(o.Hash[:])
		o.Size, o.Live = d.Uvarint(), d.Uvarint()
		if k := len(objects); k > 0 && CompareObjects(objects[k-1], o) >= 0 {
			d.Fail("objects out of order")
		}
		if o.Kind != wire.KindPack && o.Kind != wire.KindManifest {
			d.Fail("a %v among the objects of a snapshot", o.Kind)
		}
		if d.Err() != nil {
			break
		}
		objects = append(objects, o)
	}
	return objects
}

// ObjectsDigest commits to the objects that a snapshot needs; roots carry it.
func ObjectsDigest(objects []Object) [32]byte { return sha256.Sum256(AppendObjects(nil, objects)) }

// ObjectList is the list of what a snapshot needs, as it stands beside the manifest
// table: whole, or as what differs from the whole list of another snapshot.
type ObjectList struct {
	Base    Object   // kind and hash of what holds that list; zero for none
	Removed []uint32 // positions in its list, ascending
	Added   []Object // sorted
}

// ListObjects is the list of objects that differs from base in what it names.
func ListObjects(base Object, of, objects []Object) ObjectList {
	l := ObjectList{Base: base}
	i := 0
	for _, o := range objects {
		for ; i < len(of) && CompareObjects(of[i], o) < 0; i++ {
			l.Removed = append(l.Removed, uint32(i))
		}
		if i < len(of) && of[i].Hash == o.Hash && of[i].Kind == o.Kind {
			i++
			if of[i-1] == o {
				continue
			}
			l.Removed = append(l.Removed, uint32(i-1))
		}
		l.Added = append(l.Added, o)
	}
	for ; i < len(of); i++ {
		l.Removed = append(l.Removed, uint32(i))
	}
	return l
}

// Differs reports whether the list is given as what differs from another.
func (l *ObjectList) Differs() bool { return l.Base.Kind != 0 }

// Whole is the list, of being that from which it differs.
func (l *ObjectList) Whole(of []Object) ([]Object, error) {
	out := make([]Object, 0, len(of)+len(l.Added))
	removed := l.Removed
	for i, o := range of {
		if len(removed) > 0 && removed[0] == uint32(i) {
			removed = removed[1:]
			continue
		}
		out = append(out, o)
	}
	if len(removed) > 0 {
		return nil, fmt.Errorf("list of objects: %w: it removes what the list that it differs from does not have", wire.ErrMalformed)
	}
	out = append(out, l.Added...)
	slices.SortFunc(out, CompareObjects)
	for i := 1; i < len(out); i++ {
		if CompareObjects(out[i-1], out[i]) == 0 {
			return nil, errors.Join(wire.ErrMalformed, errors.New("list of objects: one is named twice"))
		}
	}
	return out, nil
}

// Append appends the list to b.
func (l *ObjectList) Append(b []byte) []byte {
	if !l.Differs() {
		b = append(b, 0)
		return AppendObjects(b, l.Added)
	}
	b = append(append(b, byte(l.Base.Kind)), l.Base.Hash[:]...)
	b = wire.AppendUvarint(b, uint64(len(l.Removed)))
	next := uint32(0)
	for _, i := range l.Removed {
		b = wire.AppendUvarint(b, uint64(i-next))
		next = i + 1
	}
	return AppendObjects(b, l.Added)
}

// ParseObjectList reads what Append made.
func ParseObjectList(d *wire.Decoder) (l ObjectList) {
	switch kind := wire.Kind(d.U8()); kind {
	case 0:
	case wire.KindPack, wire.KindManifest:
		l.Base.Kind = kind
		d.Copy(l.Base.Hash[:])
		next := uint64(0)
		for range d.Count(1) {
			i := next + d.UvarintMax(maxListed)
			if i >= maxListed {
				d.Fail("removed object %d: no list is that long", i)
			}
			if d.Err() != nil {
				break
			}
			l.Removed, next = append(l.Removed, uint32(i)), i+1
		}
	default:
		d.Fail("a list of objects of an unknown form")
	}
	l.Added = ParseObjects(d)
	return l
}
