package check

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/history"
)

// link is an entry that is one of several names of an inode.
type link struct {
	group uint64
	what  [16]byte // see manifest.Entry.InodeDigest
	at    int32    // position in its segment
}

// linksOf are the hard links of a segment; but not what no restore makes one.
func linksOf(entries []manifest.Entry) (out []link) {
	for i := range entries {
		if e := &entries[i]; e.Link != 0 && e.Flags&manifest.ContentUnread == 0 {
			out = append(out, link{e.Link, e.InodeDigest(), int32(i)})
		}
	}
	return out
}

// checkedGroup is what is remembered of a group of hard links.
type checkedGroup struct {
	first   link
	segment int  // of the first name
	named   bool // as one whose names differ
}

// links finds entries that a snapshot has as names of one file and that differ. A
// group may lie in any segments; where a snapshot before had the same ones, there is
// nothing new in them.
func (d *domainCheck) links(ctx context.Context, s *history.Snapshot, tree *snapshot.Tree) error {
	set, any := sha256.New(), false
	for i := range tree.Table.Segments {
		if id := tree.Table.Segments[i].ID; len(d.segments[id]) > 0 {
			set.Write(id[:])
			any = true
		}
	}
	key := [32]byte(set.Sum(nil))
	if !any || d.linked[key] {
		return nil
	}

	l := linkCheck{tree, map[uint64]checkedGroup{}, nil, 0}
	for i := range tree.Table.Segments {
		for _, x := range d.segments[tree.Table.Segments[i].ID] {
			if err := l.add(ctx, i, x); err != nil {
				return d.object(d.key(tree.Container(i)), err)
			}
		}
	}
	d.linked[key] = true
	if l.unlike > 0 {
		more := ""
		if n := l.unlike - len(l.named); n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		d.note(fmt.Sprintf("hard links of %s: %s differ in content or metadata, though its list has them as names of one file: a restore writes each of them as a file of its own (%s%s)",
			s.Ref(), english.Plural(l.unlike, "entry", "entries"), strings.Join(l.named, ", "), more))
	}
	return nil
}

// linkCheck goes through the hard links of one snapshot.
type linkCheck struct {
	tree   *snapshot.Tree
	groups map[uint64]checkedGroup
	named  []string // the first entries that differ, by their paths
	unlike int      // how many there are
}

// add compares an entry of a segment with the first one of its group, and names both
// when they differ.
func (l *linkCheck) add(ctx context.Context, segment int, x link) error {
	g, known := l.groups[x.group]
	switch {
	case !known:
		l.groups[x.group] = checkedGroup{first: x, segment: segment}
		return nil
	case g.first.what == x.what:
		return nil
	}
	if !g.named {
		g.named = true
		l.groups[x.group] = g
		if err := l.differs(ctx, g.segment, g.first); err != nil {
			return err
		}
	}
	return l.differs(ctx, segment, x)
}

// differs counts an entry, and names the first few.
func (l *linkCheck) differs(ctx context.Context, segment int, x link) error {
	if l.unlike++; len(l.named) >= maxNamed {
		return nil
	}
	entries, err := l.tree.Segment(ctx, segment)
	if err == nil {
		l.named = append(l.named, "/"+printable.Name(entries[x.at].Path))
	}
	return err
}
