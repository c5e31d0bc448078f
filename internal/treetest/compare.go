package treetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind of a difference.
type Kind string

// Kinds of differences.
const (
	Missing   Kind = "missing" // not in the tree that was got, though its directory is
	Extra     Kind = "extra"   // only in the tree that was got
	TypeKind  Kind = "type"    // nothing else of such a node is compared
	Mode      Kind = "mode"
	Owner     Kind = "owner"
	Mtime     Kind = "mtime"
	Xattr     Kind = "xattr"   // one for each name
	Size      Kind = "size"    // then the content is not compared
	Content   Kind = "content" // the first 64 KiB block that differs
	Target    Kind = "target"
	Device    Kind = "device"     // its major and minor number
	Links     Kind = "hard links" // it is one inode with other paths than it should be
	HolesLost Kind = "holes"      // only with Options.Holes
)

// Difference between two trees at one path. Want and Got describe what differs.
type Difference struct {
	Path      string
	Kind      Kind
	Want, Got string
}

func (d Difference) String() string {
	return fmt.Sprintf("%q: %s: want %s, got %s", d.Path, d.Kind, d.Want, d.Got)
}

// Options are what of two trees need not be equal.
type Options struct {
	IgnoreOwners bool // for restores without the right to chown
	IgnoreRoot   bool // metadata of the two directories themselves

	// Holes demands that what was a hole still is one, and that a file takes
	// no more disk than before. Both trees should lie on file systems of the
	// same kind.
	Holes bool
	// HoleSlack is how many bytes of each hole may be lost, where the file
	// system of the second tree has larger blocks.
	HoleSlack int64
}

// allocationSlack is what the file system may need for its own account of a
// file's extents, in bytes.
const allocationSlack = 64 << 10

// Equal reports each difference between two directories as an error of t.
func Equal(t T, wantDir, gotDir string, o Options) {
	t.Helper()
	Snapshot(t, wantDir).Equal(t, gotDir, o)
}

// Equal reports each difference of gotDir from an earlier snapshot.
func (want Tree) Equal(t T, gotDir string, o Options) {
	t.Helper()
	for _, d := range want.Compare(Snapshot(t, gotDir), o) {
		t.Errorf("%s: %v", gotDir, d)
	}
}

// Compare returns the differences between two directories, sorted by path. It
// fails t only when it cannot read one of them.
func Compare(t T, wantDir, gotDir string, o Options) []Difference {
	t.Helper()
	return Snapshot(t, wantDir).Compare(Snapshot(t, gotDir), o)
}

// Compare returns the differences of another tree, sorted by path.
func (want Tree) Compare(got Tree, o Options) []Difference {
	c := comparison{Options: o}
	wantLeaders, gotLeaders := want.leaders(got), got.leaders(want)
	for _, p := range slices.Sorted(maps.Keys(want)) {
		w, g := want[p], got[p]
		if g == nil {
			if _, ok := got[parentOf(p)]; ok {
				c.differ(p, Missing, w.Type, "nothing")
			}
			continue
		}
		c.compare(p, w, g)
		if wl, gl := wantLeaders[p], gotLeaders[p]; wl != gl {
			c.differ(p, Links, fmt.Sprintf("the inode of %q", wl), fmt.Sprintf("the inode of %q", gl))
		}
	}
	for p, g := range got {
		if _, ok := want[parentOf(p)]; ok && want[p] == nil {
			c.differ(p, Extra, "nothing", g.Type)
		}
	}
	slices.SortStableFunc(c.found, func(a, b Difference) int {
		return strings.Compare(a.Path, b.Path)
	})
	return c.found
}

func parentOf(p string) string {
	return p[:max(0, strings.LastIndexByte(p, '/'))]
}

// leaders names each inode by the least of its paths, of only those paths
// that another tree has with the same type: what is missing there is reported
// elsewhere.
func (tree Tree) leaders(other Tree) map[string]string {
	byInode := make(map[inode]string)
	leaders := make(map[string]string)
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		n := tree[p]
		if o := other[p]; o == nil || o.Type != n.Type {
			continue
		}
		if _, ok := byInode[n.inode]; !ok {
			byInode[n.inode] = p
		}
		leaders[p] = byInode[n.inode]
	}
	return leaders
}

type comparison struct {
	Options
	found []Difference
}

func (c *comparison) differ(p string, kind Kind, want, got any) {
	c.found = append(c.found, Difference{p, kind, fmt.Sprint(want), fmt.Sprint(got)})
}

func (c *comparison) compare(p string, w, g *Node) {
	if w.Type != g.Type {
		c.differ(p, TypeKind, w.Type, g.Type)
		return
	}
	if p != "" || !c.IgnoreRoot {
		c.compareMetadata(p, w, g)
	}
	if w.Target != g.Target {
		c.differ(p, Target, fmt.Sprintf("%q", w.Target), fmt.Sprintf("%q", g.Target))
	}
	if w.Rdev != g.Rdev {
		c.differ(p, Device, fmt.Sprintf("%#x", w.Rdev), fmt.Sprintf("%#x", g.Rdev))
	}
	if w.Size != g.Size {
		c.differ(p, Size, w.Size, g.Size)
		return
	}
	for i := range w.Content {
		if w.Content[i] != g.Content[i] {
			c.differ(p, Content, fmt.Sprintf("%x at byte %d", w.Content[i][:4], i*blockSize), fmt.Sprintf("%x", g.Content[i][:4]))
			break
		}
	}
	if c.Holes {
		c.compareHoles(p, w, g)
	}
}

func (c *comparison) compareMetadata(p string, w, g *Node) {
	if w.Mode != g.Mode {
		c.differ(p, Mode, fmt.Sprintf("%04o", w.Mode), fmt.Sprintf("%04o", g.Mode))
	}
	if !c.IgnoreOwners && (w.UID != g.UID || w.GID != g.GID) {
		c.differ(p, Owner, fmt.Sprintf("%d:%d", w.UID, w.GID), fmt.Sprintf("%d:%d", g.UID, g.GID))
	}
	if !w.Mtime.Equal(g.Mtime) {
		c.differ(p, Mtime, w.Mtime, g.Mtime)
	}
	names := make(map[string]bool)
	for name := range w.Xattrs {
		names[name] = true
	}
	for name := range g.Xattrs {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		wv, wok := w.Xattrs[name]
		gv, gok := g.Xattrs[name]
		if wok != gok || wv != gv {
			c.differ(p, Xattr, describeXattr(name, wv, wok), describeXattr(name, gv, gok))
		}
	}
}

func describeXattr(name, value string, ok bool) string {
	if !ok {
		return fmt.Sprintf("no %q", name)
	}
	if len(value) > 64 {
		return fmt.Sprintf("%q = %q... (%d bytes)", name, value[:64], len(value))
	}
	return fmt.Sprintf("%q = %q", name, value)
}

func (c *comparison) compareHoles(p string, w, g *Node) {
	for _, hole := range w.Holes {
		lost := hole.Length
		for _, other := range g.Holes {
			from := max(hole.Offset, other.Offset)
			to := min(hole.Offset+hole.Length, other.Offset+other.Length)
			lost -= max(0, to-from)
		}
		if lost > c.HoleSlack {
			c.differ(p, HolesLost, fmt.Sprintf("holes %v", w.Holes), fmt.Sprintf("holes %v", g.Holes))
			return
		}
	}
	if g.Allocated > w.Allocated+allocationSlack+c.HoleSlack*int64(len(w.Holes)) {
		c.differ(p, HolesLost, fmt.Sprintf("%d bytes on disk", w.Allocated), fmt.Sprintf("%d bytes", g.Allocated))
	}
}
