package inventory

import (
	"bytes"
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"knowngood/internal/wire"
)

// ID names a pack or a manifest container of a domain.
type ID struct {
	Kind wire.Kind
	Hash [32]byte
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Hash[:], b.Hash[:]))
}

// Object is one with its stored size, in bytes.
type Object struct {
	ID
	Size uint64
}

// Loss is why an object counts as lost.
type Loss uint8

// Losses.
const (
	Missing   Loss = iota + 1 // no listing shows it
	WrongSize                 // a listing shows it with another size
	Damaged                   // its bytes are not those of its name
)

func (l Loss) String() string {
	return [...]string{"", "missing", "of another size", "damaged"}[l]
}

// put is an object that the store confirmed after the listing began.
type put struct {
	size uint64
	at   time.Time
}

// mark is what was found out about an object that was lost at some time: why it is,
// or 0 since it is whole again. Of two processes the later one knows.
type mark struct {
	loss Loss
	at   time.Time
}

// Inventory is a listing with what is known since. It is not safe for
// concurrent use.
type Inventory struct {
	// Taken is when the listing began.
	Taken Moment
	// Reports are the hashes of damage reports that were dealt with.
	Reports map[[32]byte]bool

	listed []Object // sorted
	put    map[ID]put
	lost   map[ID]mark
}

// New makes an inventory of a listing, in any order, that began at a moment.
// Of the one before, which may be nil, it takes over what was put since that
// moment, the reports, and what is lost, unless the listing shows otherwise.
func New(taken Moment, listing []Object, before *Inventory) *Inventory {
	v := &Inventory{Taken: taken, Reports: map[[32]byte]bool{}, put: map[ID]put{}, lost: map[ID]mark{},
		listed: slices.SortedFunc(slices.Values(listing), func(a, b Object) int { return compareIDs(a.ID, b.ID) })}
	if before != nil {
		v.takeOver(before)
	}
	return v
}

// takeOver adds what another inventory knows besides its listing.
func (v *Inventory) takeOver(other *Inventory) {
	for id, p := range other.put {
		if !p.at.Before(v.Taken.Wall) {
			v.put[id] = p
			v.wholeAt(id, p.at)
		}
	}
	for id, m := range other.lost {
		if known, ok := v.lost[id]; ok && !known.at.Before(m.at) {
			continue
		}
		if p, ok := v.put[id]; ok && !p.at.Before(m.at) {
			m = mark{0, p.at}
		}
		size, shown := v.Shown(id)
		before, _ := other.Shown(id)
		if m.loss == 0 || m.loss == Damaged || m.loss == Missing && !shown || m.loss == WrongSize && shown && size == before {
			v.lost[id] = m
		}
	}
	maps.Copy(v.Reports, other.Reports)
}

// Merge is what two processes know together: the newer listing, with what the
// other knows besides. Neither may be used any more.
func Merge(a, b *Inventory) *Inventory {
	if b.Taken.Wall.After(a.Taken.Wall) {
		a, b = b, a
	}
	a.takeOver(b)
	return a
}

// Put notes an object that is there: the store confirmed it at a time, or it was read
// and has the bytes of its name. It is not lost any more.
func (v *Inventory) Put(id ID, size uint64, at time.Time) {
	v.put[id] = put{size, at.Round(0)}
	v.wholeAt(id, at)
}

// Lose notes that an object was found to be lost at a time, and reports whether that
// is news.
func (v *Inventory) Lose(id ID, loss Loss, at time.Time) (news bool) {
	news = !v.Lost(id)
	v.lost[id] = mark{loss, at.Round(0)}
	return news
}

// wholeAt ends what was found out about an object before.
func (v *Inventory) wholeAt(id ID, at time.Time) {
	if known, ok := v.lost[id]; ok && !known.at.After(at.Round(0)) {
		v.lost[id] = mark{0, at.Round(0)}
	}
}

// Size is that of an object that is there. Lost ones are not.
func (v *Inventory) Size(id ID) (size uint64, ok bool) {
	if v.Lost(id) {
		return 0, false
	}
	return v.Shown(id)
}

// Lost reports whether an object is known to be lost.
func (v *Inventory) Lost(id ID) bool { return v.lost[id].loss != 0 }

// AllLost are the objects that are known to be lost, with why, in no order.
func (v *Inventory) AllLost() iter.Seq2[ID, Loss] {
	return func(yield func(ID, Loss) bool) {
		for id, m := range v.lost {
			if m.loss != 0 && !yield(id, m.loss) {
				return
			}
		}
	}
}

// Spoiled are the objects that a listing shows and that are lost all the same, in
// no order: they have another size, or other bytes.
func (v *Inventory) Spoiled() iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for id, loss := range v.AllLost() {
			if loss != Missing && !yield(id) {
				return
			}
		}
	}
}

// Shown is the size of an object as it was listed or put, be it lost or not.
func (v *Inventory) Shown(id ID) (size uint64, ok bool) {
	if p, ok := v.put[id]; ok {
		return p.size, true
	}
	i, ok := slices.BinarySearchFunc(v.listed, id, func(o Object, id ID) int { return compareIDs(o.ID, id) })
	if !ok {
		return 0, false
	}
	return v.listed[i].Size, true
}

// Lacks reports how an object of a size is lost: 0 when it is there.
func (v *Inventory) Lacks(o Object) Loss {
	if loss := v.lost[o.ID].loss; loss != 0 {
		return loss
	}
	switch size, ok := v.Shown(o.ID); {
	case !ok:
		return Missing
	case size != o.Size:
		return WrongSize
	}
	return 0
}

// Objects are those of a kind that are there, in no order.
func (v *Inventory) Objects(kind wire.Kind) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, o := range v.listed {
			if _, again := v.put[o.ID]; o.Kind == kind && !again && !v.Lost(o.ID) && !yield(o) {
				return
			}
		}
		for id, p := range v.put {
			if id.Kind == kind && !v.Lost(id) && !yield(Object{id, p.size}) {
				return
			}
		}
	}
}

// Listed is how many objects of a kind the listing showed.
func (v *Inventory) Listed(kind wire.Kind) int {
	from, _ := slices.BinarySearchFunc(v.listed, kind, func(o Object, k wire.Kind) int { return cmp.Compare(o.Kind, k) })
	to, _ := slices.BinarySearchFunc(v.listed, kind+1, func(o Object, k wire.Kind) int { return cmp.Compare(o.Kind, k) })
	return to - from
}
