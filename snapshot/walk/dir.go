package walk

import (
	"errors"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/live"
	"knowngood/snapshot/manifest"
)

// blockNodes is how many nodes are described in one go, and remoteNodes how
// many where each takes a request.
const (
	blockNodes  = 512
	remoteNodes = 16
)

// phase of a piece of work. It is guarded by walker.mu.
type phase uint8

const (
	idle phase = iota
	running
	done
)

// dir is a directory that is to be walked.
type dir struct {
	path  string
	rel   string // in the tree of its source
	tree  *tree
	src   *source
	state filter.State
	place *place // sources below it, or nil
	only  bool   // walk nothing but what leads to sources below

	phase phase
	claim []phase // of each block

	// What listing found.
	stat    posix.Stat
	found   bool // it is a directory still, and stat holds
	err     error
	skip    Reason // why its content, or most of it, is left out
	where   *location
	volume  *posix.Volume
	current bool // attributes are asked for, not remembered ones believed
	step    int  // nodes of a block
	names   names
	blocks  []*block
}

// source is what a walk needs to know of a Source.
type source struct {
	*Source
	prefix int // bytes of a path before that which is relative to the source
	dev    uint64
}

// block is a run of the names of a directory, described.
type block struct {
	nodes  []Node
	memory int64
}

// lister does the work; each goroutine has its own.
type lister struct {
	*walker
	dirs []byte // for ReadDir
	text []byte // paths of a block, each with a NUL
	ends []int
}

func newLister(w *walker) *lister {
	return &lister{walker: w, dirs: make([]byte, posix.DirBuffer)}
}

// list reads the names of a directory and describes the first of them.
func (l *lister) list(d *dir) {
	h, err := d.tree.dirs.Get(d.rel)
	if err != nil {
		d.err = err
		return
	}
	defer h.Release()
	d.found, d.stat = true, h.Stat
	d.where = &location{tree: d.tree, rel: d.rel, id: h.Stat.ID()}
	d.volume, d.step = d.src.volume(l.volumes.Of(h.FD(), h.Stat.Dev)), blockNodes
	if d.volume.Kind().CachesAttributes() && !d.src.CachedAttributes {
		d.current, d.step = true, remoteNodes
		l.remote.Do(func() { l.start(remoteWorkers) })
		// Asked before it is read: what the kernel remembers of the names is
		// dropped when the directory turns out to have changed.
		if d.stat, d.err = posix.CurrentStatFd(h.FD()); d.err != nil {
			d.found = false
			return
		}
	}
	switch {
	case d.only:
	case d.src.OneFileSystem && h.Stat.Dev != d.src.dev:
		d.skip, d.only = OtherFileSystem, true
	case d.volume.Kind().OfKernel() && h.Stat.Dev != d.src.dev:
		d.skip, d.only = KernelFileSystem, true
	default:
		d.err = l.read(d, h)
	}
	if d.only {
		d.names = names{}
	}
	if d.place != nil {
		for _, p := range d.place.below {
			if !d.names.has(p.name) {
				d.names.add([]byte(p.name), 0)
				d.names.sort()
			}
		}
	}
	n := (d.names.len() + d.step - 1) / d.step
	d.blocks, d.claim = make([]*block, n), make([]phase, n)
	if n > 0 {
		d.claim[0] = done
		d.blocks[0] = l.describeIn(d, h, 0)
	}
}

func (l *lister) read(d *dir, h *posix.Dir) error {
	if !h.Readable {
		fd, err := posix.OpenDir(h.FD(), ".")
		if err == nil { // the right was given meanwhile
			defer unix.Close(fd)
			err = l.readNames(d, fd)
		}
		return err
	}
	return l.readNames(d, h.FD())
}

func (l *lister) readNames(d *dir, fd int) error {
	err := posix.ReadDir(fd, l.dirs, func(name []byte, t manifest.Type) error {
		d.names.add(name, t)
		return nil
	})
	d.names.sort()
	switch d.skip = d.src.MarkedBy(fd, d.names.has); d.skip {
	case Marked:
		d.names.keep(func(name string) bool { return slices.Contains(d.src.ExcludeIfPresent, name) })
	case Cache:
		d.names.keep(func(name string) bool { return name == cacheTag })
	}
	return err
}

// describe does the k-th block of a directory that is listed.
func (l *lister) describe(d *dir, k int) *block {
	h, err := d.where.get()
	if err != nil {
		return l.failed(d, k, err)
	}
	defer h.Release()
	return l.describeIn(d, h, k)
}

func (d *dir) span(k int) (from, to int) {
	return k * d.step, min((k+1)*d.step, d.names.len())
}

// paths puts the paths of a block's names one after the other, each with a NUL
// so that the kernel can be given the end of each.
func (l *lister) paths(d *dir, from, to int) string {
	l.text, l.ends = l.text[:0], l.ends[:0]
	for i := from; i < to; i++ {
		if d.path != "" {
			l.text = append(append(l.text, d.path...), '/')
		}
		l.text = append(l.text, d.names.name(i)...)
		l.ends = append(l.ends, len(l.text))
		l.text = append(l.text, 0)
	}
	return string(l.text)
}

// failed is a block of which nothing can be described.
func (l *lister) failed(d *dir, k int, err error) *block {
	from, to := d.span(k)
	all := l.paths(d, from, to)
	b := &block{nodes: make([]Node, to-from), memory: blockMemory(all, to-from)}
	start := 0
	for i, end := range l.ends {
		n := &b.nodes[i]
		*n = Node{Path: all[start:end], Name: all[end-len(d.names.name(from+i)) : end], Err: err}
		n.Stat.Type = d.names.kind(from + i)
		start = end + 1
	}
	return b
}

func blockMemory(paths string, nodes int) int64 {
	return int64(len(paths)) + int64(nodes)*int64(unsafe.Sizeof(Node{}))
}

func (l *lister) describeIn(d *dir, h *posix.Dir, k int) *block {
	from, to := d.span(k)
	all := l.paths(d, from, to)
	b := &block{nodes: make([]Node, 0, to-from), memory: blockMemory(all, to-from)}
	start := 0
	for i, end := range l.ends {
		size := len(d.names.name(from + i))
		b.nodes = append(b.nodes, Node{Path: all[start:end], Name: all[end-size : end]})
		n := &b.nodes[len(b.nodes)-1]
		if !l.node(d, h, n, d.names.kind(from+i), l.text[end-size:end+1]) {
			b.nodes = b.nodes[:len(b.nodes)-1]
		}
		start = end + 1
	}
	return b
}

// node describes one node, and reports whether it exists. The name ends with a NUL.
func (l *lister) node(d *dir, h *posix.Dir, n *Node, kind manifest.Type, name []byte) bool {
	if n.place = d.place.child(n.Name); n.place != nil && n.place.source != nil {
		return true // it is another source's
	}
	if len(n.Path) > manifest.MaxPath {
		n.Err = errors.New("its path is longer than 1 MiB")
		return true
	}
	stat := func() bool {
		err := n.Stat.ReadAt(h.FD(), name, d.current)
		if n.Volume = d.volume; err == nil && n.Stat.Dev != d.stat.Dev {
			err = l.mounted(d, h, n, name)
		}
		if err == nil && n.Stat.Type == 0 {
			err = errors.New("it is of an unknown type")
		}
		if n.Err, n.Listed = err, err == nil; err != nil {
			n.Stat.Type = kind
		}
		return err == nil
	}
	if kind == 0 && !stat() {
		return n.place != nil || !d.vanished(n.Err, h)
	}
	isDir := kind == manifest.Dir || n.Stat.Type == manifest.Dir
	state, decision := d.state, filter.Include
	if d.only {
		decision = filter.Exclude
	} else if d.src.Rules != nil {
		state, decision = d.src.Rules.Step(d.state, n.Path[d.src.prefix:], isDir)
	}
	if decision == filter.Exclude && n.place == nil {
		n.skip = Excluded
		return true
	}
	if !n.Listed && !stat() {
		return n.place != nil || !d.vanished(n.Err, h)
	}
	switch {
	case slices.Contains(l.opts.Omit, n.Stat.ID()):
		if n.place == nil {
			n.skip = Omitted
			return true
		}
		decision = filter.Exclude
	case n.Stat.Type == manifest.Dir && live.IsDir(h.FD(), n.Name):
		n.skip = Omitted
		return true
	case d.src.TooLarge(&n.Stat):
		n.skip = TooLarge
		return true
	case n.Stat.Type == manifest.File && unfinished(h.FD(), n.Name):
		n.skip = Unfinished
		return true
	}
	n.Implied = decision != filter.Include
	if n.Stat.Type == manifest.Dir && n.Stat.Dev != h.Stat.Dev {
		n.Mount = EnteredMount
	}
	if n.Stat.Type == manifest.Dir {
		n.sub = &dir{path: n.Path, rel: relative(d.rel, n.Name, n.Path), tree: d.tree, src: d.src, state: state,
			place: n.place, only: decision == filter.Exclude}
	}
	return true
}

// mounted completes what is known of a node that lies on another device than
// its directory.
func (l *lister) mounted(d *dir, h *posix.Dir, n *Node, name []byte) error {
	if n.Volume = l.volumes.Known(n.Stat.Dev); n.Volume == nil {
		fd, _, err := posix.OpenNode(h.FD(), n.Name)
		if err != nil {
			return err
		}
		n.Volume = l.volumes.Of(fd, n.Stat.Dev)
		unix.Close(fd)
	}
	if !d.current && n.Volume.Kind().CachesAttributes() && !d.src.CachedAttributes {
		return n.Stat.ReadAt(h.FD(), name, true)
	}
	return nil
}

// relative is dir/name, as a part of path, which ends with it.
func relative(dir, name, path string) string {
	if dir == "" {
		return name
	}
	return path[len(path)-len(dir)-1-len(name):]
}

// vanished reports whether a name that is not found was removed after the
// directory was read. A name in a directory that has not changed since is one
// that the file system lists and cannot find, which must not go unnoticed.
func (d *dir) vanished(err error, h *posix.Dir) bool {
	if !errors.Is(err, unix.ENOENT) {
		return false
	}
	now, err := posix.CurrentStatFd(h.FD())
	return err != nil || now.Mtime != d.stat.Mtime
}
