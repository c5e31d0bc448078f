package walk

import (
	"errors"
	"path"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

// emitter is the consumer's side: it follows the tree in path order.
type emitter struct {
	*walker
	lister *lister
	yield  func(*Node) error
}

// place emits a place outside of all sources, and what it leads to.
func (e *emitter) place(p *place) error {
	if p.source != nil {
		return e.source(p)
	}
	if err := e.implied(p); err != nil {
		return err
	}
	for _, b := range p.below {
		if err := e.place(b); err != nil {
			return err
		}
	}
	return nil
}

// implied emits a parent of sources. It is its own directory, because it may be
// reached over a symbolic link.
func (e *emitter) implied(p *place) error {
	r, err := follow(p.abs())
	if err != nil {
		return p.fail(err)
	}
	t, err := openTree(r)
	if err != nil {
		return p.fail(err)
	}
	defer t.release()
	n := &Node{Path: p.path, Name: ".", Stat: t.stat, Implied: true, Listed: true}
	n.refTo(&location{tree: t, id: t.stat.ID()})
	return e.yield(n)
}

// source emits a source and all below it.
func (e *emitter) source(p *place) error {
	t, n, err := openSource(p)
	if err != nil {
		return p.fail(err)
	}
	defer t.release()
	at := &location{tree: t, id: t.stat.ID()}
	if err := e.describeSource(p, n, at); err != nil {
		return p.fail(err)
	}
	if len(p.below) > 0 && n.Stat.Type != manifest.Dir {
		return p.below[0].fail(unix.ENOTDIR)
	}
	if t.linked && e.opts.Resolved != nil {
		e.opts.Resolved(p.source.Path, path.Join(t.real, n.Name))
	}
	if n.Stat.Type == manifest.Symlink && e.opts.KeptLink != nil {
		e.opts.KeptLink(p.source.Path)
	}
	if n.Stat.Type == manifest.Dir {
		if n.Stat.Dev != t.stat.Dev {
			n.Mount = EnteredMount
		}
		src := &source{Source: p.source, prefix: len(p.path) + 1, dev: n.Stat.Dev}
		rel := n.Name
		if p.path == "" {
			src.prefix = 0
		}
		if n.Name == "." {
			rel = ""
		}
		n.Implied = p.source.Rules.Match("", true) != filter.Include
		n.sub = &dir{path: p.path, rel: rel, tree: t, src: src, place: p}
	}
	return e.tree(n, at)
}

// describeSource finds out what the source lies on, and asks for its attributes
// where the kernel's may be out of date.
func (e *emitter) describeSource(p *place, n *Node, at *location) error {
	h, err := at.get()
	if err != nil {
		return err
	}
	defer h.Release()
	fd, _, err := posix.OpenNode(h.FD(), n.Name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n.Volume = p.source.volume(e.volumes.Of(fd, n.Stat.Dev))
	if n.Volume.Kind().CachesAttributes() && !p.source.CachedAttributes {
		n.Stat, err = posix.CurrentStatFd(fd)
	}
	return err
}

// frame is a directory that the consumer is in.
type frame struct {
	dir   *dir
	block *block // the k-th, or nil
	k, i  int    // of the next node: the i-th of the block
}

// tree emits a node and all below it. A directory is left as soon as its last
// node is reached, so that a chain of directories does not pile up.
func (e *emitter) tree(n *Node, in *location) error {
	var stack []frame
	for {
		sub, err := e.node(n, in)
		if err != nil {
			return err
		}
		if sub != nil {
			stack = append(stack, frame{dir: sub})
		}
		if stack, n, in, err = e.advance(stack); n == nil || err != nil {
			return err
		}
	}
}

// advance finds the next node, or nil at the end.
func (e *emitter) advance(stack []frame) ([]frame, *Node, *location, error) {
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		d := f.dir
		if f.k == len(d.blocks) {
			e.left(d)
			stack = stack[:len(stack)-1]
			continue
		}
		if f.block == nil {
			var err error
			if f.block, err = e.needBlock(e.lister, d, f.k); err != nil {
				return nil, nil, nil, err
			}
		}
		var n *Node
		if f.i < len(f.block.nodes) {
			n = &f.block.nodes[f.i]
		}
		if f.i++; f.i >= len(f.block.nodes) {
			e.consumed(f.block)
			d.blocks[f.k] = nil
			f.block, f.k, f.i = nil, f.k+1, 0
		}
		if n == nil {
			continue
		}
		if f.k == len(d.blocks) {
			e.left(d)
			stack = stack[:len(stack)-1]
		}
		return stack, n, d.where, nil
	}
	return nil, nil, nil, nil
}

// node emits one node and gives the directory to go into, if any.
func (e *emitter) node(n *Node, in *location) (*dir, error) {
	if n.place != nil && n.place.source != nil {
		return nil, e.source(n.place)
	}
	if n.skip != 0 {
		e.skipped(n.Path, n.skip)
		return nil, nil
	}
	sub := n.sub
	if sub != nil {
		if err := e.needDir(e.lister, sub); err != nil {
			return nil, err
		}
		n.Err = sub.err
		n.Volume = sub.volume
		if sub.found {
			if sub.stat.ID() != n.Stat.ID() {
				n.Stat = sub.stat // replaced between its description and its listing
			}
		} else {
			n.Gone = errors.Is(sub.err, unix.ENOENT)
			n.Listed = !n.Gone && !errors.Is(sub.err, unix.ENOTDIR)
			if errors.Is(sub.err, unix.ENOTDIR) {
				n.Stat = posix.Stat{} // something else has its name
			}
		}
	}
	if err := lost(n); err != nil {
		return nil, err
	}
	if sub != nil && (sub.skip == OtherFileSystem || sub.skip == KernelFileSystem) {
		n.Mount = SkippedMount
	}
	if n.Listed {
		n.refTo(in)
	}
	if err := e.yield(n); err != nil {
		return nil, err
	}
	if sub == nil || !sub.found {
		return nil, nil
	}
	if sub.skip != 0 {
		e.skipped(sub.path, sub.skip)
	}
	return sub, nil
}

// lost is the error of a source that the node led to and does no more.
func lost(n *Node) error {
	p := n.place
	if n.sub != nil {
		p = n.sub.place
	}
	switch {
	case p == nil || len(p.below) == 0 || n.sub != nil && n.sub.found:
		return nil
	case n.Err == nil:
		return p.below[0].fail(unix.ENOTDIR)
	}
	return p.below[0].fail(n.Err)
}

func (e *emitter) skipped(path string, why Reason) {
	if e.opts.Skipped != nil {
		e.opts.Skipped(path, why)
	}
}
