package walk

import (
	"errors"
	"sync/atomic"

	"knowngood/internal/posix"
)

// Node is one node of the walked tree.
type Node struct {
	// Path is that of an entry. It shares memory with the paths of
	// neighbours.
	Path string
	// Name of the node in Dir; "." where Dir is the node itself.
	Name string
	// Stat of the node.
	Stat posix.Stat
	// Volume that the node lies on. It is nil when there is no Stat.
	Volume *posix.Volume
	// Dir is where the node lies. It is nil when there is no Stat. The
	// consumer releases it, once.
	Dir *DirRef
	// Implied marks a directory that is not captured itself, but leads to
	// what is.
	Implied bool
	// Listed means that the node was found and Stat holds. It is false only
	// beside Err; Stat.Type is then what the directory said of the name, 0 when
	// it said nothing.
	Listed bool
	// Gone means that the node was seen and existed no more when it was looked
	// at; Listed is false.
	Gone bool
	// Mount is set for a directory on another file system than the directory
	// that it lies in.
	Mount Mount
	// Err is why the node could not be described, or why a directory could
	// not be listed, or not to its end. It does not name the path.
	Err error

	ref   DirRef
	sub   *dir   // a directory that is to be walked
	place *place // sources at or below this node
	skip  Reason // not yielded
}

// Mount is, of a directory, whether it is a mount point, as far as device
// numbers show that, and whether the walk enters it.
type Mount uint8

// The kinds of mount points.
const (
	NoMount Mount = iota
	EnteredMount
	SkippedMount // yielded as an empty directory
)

// ErrReplaced means that a directory is no longer the one that was walked.
var ErrReplaced = errors.New("its directory was replaced by another while the snapshot was taken")

var errReleased = errors.New("directory of a node used after its release")

// DirRef is the directory of a node, for those who read the node later. It is
// opened when it is asked for, and costs no descriptor until then. It is not
// safe for concurrent use.
type DirRef struct {
	in   *location
	open *posix.Dir
}

// Open gives a descriptor of the directory, good for *at calls until Release.
// It fails when the directory has vanished (ENOENT) or is another one now
// (ErrReplaced).
func (d *DirRef) Open() (int, error) {
	if d.open != nil {
		return d.open.FD(), nil
	}
	if d.in == nil {
		return -1, errReleased
	}
	h, err := d.in.get()
	if err != nil {
		return -1, err
	}
	d.open = h
	return h.FD(), nil
}

// Release gives the directory back. A node that has none needs no check.
func (d *DirRef) Release() {
	if d == nil {
		return
	}
	if d.open != nil {
		d.open.Release()
		d.open = nil
	}
	if d.in != nil {
		d.in.tree.release()
		d.in = nil
	}
}

// location is a directory that was seen.
type location struct {
	tree *tree
	rel  string // below the root of the tree
	id   posix.DevIno
}

// get opens the directory, or finds it open.
func (l *location) get() (*posix.Dir, error) {
	h, err := l.tree.dirs.Get(l.rel)
	if err != nil {
		return nil, err
	}
	if h.Stat.ID() != l.id {
		h.Release()
		return nil, ErrReplaced
	}
	return h, nil
}

// refTo makes a node refer to its directory.
func (n *Node) refTo(l *location) {
	l.tree.refs.Add(1)
	n.ref = DirRef{in: l}
	n.Dir = &n.ref
}

// tree is the directory above a source, with the descriptors below it. The
// last who refers to it closes it.
type tree struct {
	dirs   *posix.Dirs
	stat   posix.Stat // of the root
	real   string     // path of the root, free of links
	linked bool       // the root was reached over links
	refs   atomic.Int64
}

func (t *tree) release() {
	if t.refs.Add(-1) == 0 {
		t.dirs.Close() // it is closed only here, so there is no error
	}
}
