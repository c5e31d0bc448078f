package manifest

import "knowngood/storage/pack"

// What is stored once may count many times when it is read: paths share their
// beginning, and many entries name one owner or one set of attributes. These
// limits hold for sums over the entries of a segment (docs/FORMAT.md section
// 12), so that a few bytes of a foreign manifest cannot fill the memory of its
// readers. A writer keeps them by cutting segments where CutAfter decides, when
// each entry keeps those of one entry, which Check looks at.
const (
	maxPaths  = 4 << 20  // bytes of all paths, in full
	maxOwners = 4 << 20  // bytes of the names of all entries' owners
	maxXattrs = 32 << 20 // of all entries, as XattrBytes counts
	maxHoles  = 1 << 18
	maxChunks = 1 << 21
)

// Limits of one entry, besides MaxPath and MaxXattrValue.
const (
	MaxName        = 4096     // bytes of the name of a user or group
	maxEntryXattrs = 16 << 20 // as XattrBytes counts
	maxEntryHoles  = 1 << 16
)

// xattrOverhead is what an attribute counts besides its name and value.
const xattrOverhead = 64

// Weight is what an entry counts towards the size of a segment, in bytes.
func Weight(e *Entry) int {
	return 64 + len(e.Path) + len(e.User) + len(e.Group) + len(e.Target) + len(e.Ext) + XattrBytes(e) + 16*len(e.Holes) + 40*len(e.Chunks)
}

// XattrBytes is how many bytes the attributes of an entry count: their names,
// their values and 64 bytes each.
func XattrBytes(e *Entry) int { return xattrBytes(e.Xattrs) }

func xattrBytes(set []Xattr) (n int) {
	for i := range set {
		n += xattrOverhead + len(set[i].Name) + len(set[i].Value)
	}
	return n
}

// overBudget is what is too much of one entry; "" when nothing is.
func (e *Entry) overBudget() string {
	switch {
	case len(e.User) > MaxName || len(e.Group) > MaxName:
		return "the name of its owner is too long"
	case XattrBytes(e) > maxEntryXattrs:
		return "it has more attributes than can be stored"
	case len(e.Holes) > maxEntryHoles:
		return "it has more holes than can be stored"
	}
	return ""
}

const (
	// heavy is from what weight on an entry may not fit a segment: a chunk weighs
	// 40 bytes and takes at most 135, when it is the only one of its pack.
	heavy = pack.MaxSegmentContent / 4
	// besides is what the other entries of its segment take at most: their
	// weight is below cutMaxBytes, and hints take some more.
	besides = 4 * cutMaxBytes
)

// Fits reports whether a segment has room for an entry, whatever stands in it
// already.
func (x *Encoder) Fits(e *Entry) bool {
	return Weight(e) < heavy || len(x.Append(nil, []*Entry{e}, nil)) <= pack.MaxSegmentContent-besides
}

// budget is what is left of the sums over a segment's entries.
type budget struct{ paths, owners, xattrs, holes int }

func newBudget() budget { return budget{maxPaths, maxOwners, maxXattrs, maxHoles} }

// spend takes n of what is left of what, and fails when that is not enough: the
// caller allocates afterwards.
func (p *parser) spend(left *int, n int, what string) bool {
	if n > *left {
		p.Fail("the %s of the segment add up to more than allowed", what)
		return false
	}
	*left -= n
	return true
}
