package drift

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/restore"
	"knowngood/restore/generation"
	"knowngood/snapshot"
	"knowngood/snapshot/diff"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/chunk"
)

// Live is a comparison of a snapshot with the live tree.
type Live struct {
	Tree *snapshot.Tree
	// Sources are what a capture would read now: where each lies, and what it leaves
	// out of what is new. Nil where that is not known.
	Sources []walk.Source
	// Omit are directories that a capture leaves out wherever they are.
	Omit []posix.DevIno
	// Content compares content also of what was not touched since the snapshot.
	Content bool

	set    *Set
	today  *snapshot.Scope
	hasher *chunk.Hasher
	since  time.Time
}

// margin is for times of files, which lag behind the clock.
const margin = time.Second

// Compare adds what differs to a set. What was not touched since the snapshot began, as the
// kernel dates it (ctime), is not read.
func (l *Live) Compare(ctx context.Context, set *Set) error {
	l.since = l.Tree.Snapshot.Body.Started.Add(-margin)
	l.set, l.today, l.hasher = set, snapshot.NewScope(l.Sources), chunk.NewHasher(l.Tree.Reader.Domain().ChunkKey())
	sources, err := l.places()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	next, stop := iter.Pull2(l.Tree.Entries(ctx, ""))
	defer stop()
	m := &merge{Live: l, next: next, g: g}
	err = m.advance()
	if err == nil && len(sources) > 0 {
		err = walk.Walk(ctx, walk.Options{Sources: sources, Omit: l.Omit, Skipped: m.skipped}, m.node)
	}
	if err == nil {
		err = m.removed("", false)
	}
	return errors.Join(g.Wait(), err)
}

// places are the sources of the snapshot that exist, where they lie now.
func (l *Live) places() (sources []walk.Source, err error) {
	for i := range l.Tree.Table.Sources {
		recorded := &l.Tree.Table.Sources[i]
		if len(recorded.Command) > 0 {
			continue
		}
		s, err := snapshot.WalkSource(recorded)
		if err != nil {
			return nil, err
		}
		for _, now := range l.Sources {
			if now.Path == s.Path {
				s.At = now.At
			}
		}
		if _, err := os.Lstat(cmp.Or(s.At, s.Path)); errors.Is(err, fs.ErrNotExist) {
			continue // all of it was removed
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// merge goes through the entries of the snapshot beside the nodes of the tree.
type merge struct {
	*Live
	next   func() (*manifest.Entry, error, bool)
	g      *errgroup.Group
	entry  *manifest.Entry // the present one; nil at the end
	hidden string          // a directory that could not be listed, then or now
	err    error           // of skipped
}

func (m *merge) advance() error {
	e, err, more := m.next()
	if m.entry = e; !more || err != nil {
		m.entry = nil
	}
	return err
}

func (m *merge) isHidden(path string) bool { return m.hidden != "" && manifest.Within(path, m.hidden) }

// removed reports the entries before a path, which the tree does not have; all that are
// left where none is given.
func (m *merge) removed(path string, given bool) error {
	for m.entry != nil && (!given || manifest.Compare(m.entry.Path, path) < 0) {
		if e := m.entry; e.Flags&(manifest.Implied|manifest.Command) == 0 && !m.isHidden(e.Path) {
			m.set.Add(&Pair{Path: e.Path, Was: ofEntry(e)})
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return m.err
}

// skipped is a file that has become larger than what is captured, or has a name as a restore
// gives its own, as anybody can.
func (m *merge) skipped(path string, why walk.Reason) {
	if why == walk.Unfinished && !m.today.LeavesOut(path, &posix.Stat{Type: inode.File}) {
		m.set.Add(&Pair{Path: strings.Clone(path), Is: &Node{Type: inode.File}})
	}
	if why != walk.TooLarge || m.err != nil {
		return
	}
	if m.err = m.removed(path, true); m.err == nil && m.entry != nil && m.entry.Path == path {
		m.set.Add(&Pair{Path: path, Was: ofEntry(m.entry), Is: ofEntry(m.entry), Content: true})
		m.err = m.advance()
	}
}

// node compares a node of the tree with its entry.
func (m *merge) node(n *walk.Node) error {
	if err := m.removed(n.Path, true); err != nil {
		return err
	}
	var e *manifest.Entry
	if m.entry != nil && m.entry.Path == n.Path {
		c := *m.entry
		if e = &c; e.Flags&manifest.ListingUnread != 0 {
			m.hidden = strings.Clone(e.Path)
		}
	}
	switch {
	case n.Gone && e != nil && e.Flags&manifest.Implied == 0:
		m.set.Add(&Pair{Path: e.Path, Was: ofEntry(e)})
		n.Dir.Release()
	case n.Gone, n.Implied, e != nil && e.Flags&manifest.Implied != 0, e == nil && (m.isHidden(n.Path) || m.today.LeavesOut(n.Path, &n.Stat)):
		n.Dir.Release()
	case n.Err != nil:
		m.set.Problem(n.Path, n.Err)
		if n.Stat.Type == inode.Dir || !n.Listed {
			m.hidden = strings.Clone(n.Path)
		}
		n.Dir.Release()
	case e != nil && !m.Content && sameStat(&n.Stat, e) && n.Stat.Ctime.Time().Before(m.since):
		n.Dir.Release()
	default:
		m.g.Go(func() error {
			defer n.Dir.Release()
			err := m.compare(n, e)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, walk.ErrReplaced) {
				return nil // it goes while it is compared: so it is not known
			}
			if err != nil {
				m.set.Problem(n.Path, err)
			}
			return nil
		})
	}
	if e != nil {
		return m.advance()
	}
	return nil
}

// sameStat reports whether a stat shows no difference.
func sameStat(st *posix.Stat, e *manifest.Entry) bool {
	return st.Type == e.Type && st.Mode == e.Mode && st.UID == e.UID && st.GID == e.GID && st.Mtime == e.Mtime && (st.Type != inode.File || st.Size == e.Size) && st.Rdev == e.Rdev
}

// compare opens a node, and adds it where it differs from an entry; nil for none.
func (l *Live) compare(n *walk.Node, e *manifest.Entry) error {
	p := &Pair{Path: n.Path, Is: ofStat(&n.Stat)}
	dirfd, err := n.Dir.Open()
	if err != nil {
		return err
	}
	fd, st, err := posix.OpenNode(dirfd, n.Name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attrs, err := posix.NodeXattrs(fd)
	if err != nil {
		return err
	}
	p.Is.Capable = capable(attrs)
	if st.Type == inode.Symlink {
		if p.Is.Target, err = posix.Readlink(fd, ""); err != nil {
			return err
		}
	}
	if e == nil {
		l.set.Add(p)
		return nil
	}

	p.Was = ofEntry(e)
	p.Owner = st.UID != e.UID || st.GID != e.GID || st.Mode != e.Mode && st.Type != inode.Symlink || e.Flags&manifest.MetadataIncomplete == 0 && !inode.SameXattrs(attrs, e.Xattrs)
	p.Content = st.Type != e.Type || st.Rdev != e.Rdev || p.Is.Target != e.Target
	if e.Flags&manifest.Incomplete != 0 {
		p.Content = st.Type != e.Type
	} else if st.Type == inode.File && !p.Content {
		if p.Content = st.Size != e.Size; !p.Content && (l.Content || st.Mtime != e.Mtime || !st.Ctime.Time().Before(l.since)) {
			same, err := l.sameContent(dirfd, n.Name, e)
			if err != nil {
				return err
			}
			p.Content = !same
		}
	}
	if p.Content || p.Owner || st.Mtime != e.Mtime {
		l.set.Add(p)
	}
	return nil
}

func (l *Live) sameContent(dirfd int, name string, e *manifest.Entry) (bool, error) {
	fd, st, err := posix.OpenFile(dirfd, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return restore.SameContent(l.hasher, fd, &st, e)
}

func capable(attrs []manifest.Xattr) bool {
	return slices.ContainsFunc(attrs, func(x manifest.Xattr) bool { return x.Name == capability })
}

const capability = "security.capability"

func ofStat(st *posix.Stat) *Node { return &Node{Type: st.Type, Mode: st.Mode} }

// ofEntry is the node of an entry; nil for none.
func ofEntry(e *manifest.Entry) *Node {
	if e == nil {
		return nil
	}
	return &Node{Type: e.Type, Mode: e.Mode, Target: strings.Clone(e.Target), Capable: capable(e.Xattrs)}
}

// Generation adds how the live generation of an environment differs from its record, which
// takes neither the repository nor an identity. With content files are read also where a
// stat shows no difference. It returns the generation, and where its tree is.
func Generation(ctx context.Context, o *generation.Options, content bool, set *Set) (*generation.Generation, string, error) {
	root := manifest.EntryPath(o.Config.Root)
	for _, d := range o.Config.Data {
		set.Data = append(set.Data, root+"/"+d.Path)
	}
	return generation.Drift(ctx, o, content, func(top string, c generation.Change) {
		p := &Pair{Path: root + "/" + c.Path, Content: c.Content, Owner: c.Owner}
		if c.Was != nil {
			p.Was = ofStat(c.Was)
		}
		if c.Is != nil {
			p.Is = ofStat(c.Is)
			_, err := unix.Lgetxattr(filepath.Join(top, c.Path), capability, nil)
			p.Is.Capable = err == nil
		}
		set.Add(p)
	}, func(path string, err error) { set.Problem(root+"/"+path, err) })
}

// Between adds how a snapshot differs from an older one.
func Between(ctx context.Context, was, is *snapshot.Tree, set *Set) error {
	for d, err := range diff.Between(ctx, was, is, "") {
		if err != nil {
			return err
		}
		if d.Change == diff.Unread {
			set.Problem(d.Path, fmt.Errorf("one of %s and %s does not have it whole", was.Snapshot.Ref(), is.Snapshot.Ref()))
			continue
		}
		p := &Pair{Path: d.Path, Was: ofEntry(d.From), Is: ofEntry(d.To), Content: d.Change == diff.Modified}
		if a, b := d.From, d.To; a != nil && b != nil {
			p.Owner = a.UID != b.UID || a.GID != b.GID || a.User != b.User || a.Group != b.Group || a.Mode != b.Mode || !inode.SameXattrs(a.Xattrs, b.Xattrs)
		}
		set.Add(p)
	}
	return nil
}
