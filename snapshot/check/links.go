package check

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/history"
	"knowngood/storage/layout"
)

// checkedGroup is what is remembered of a group of hard links.
type checkedGroup struct {
	what  [16]byte // see manifest.Entry.InodeDigest
	first int32    // segment of its first name
	named bool     // as one whose names differ
}

// links finds entries that a snapshot has as names of one file and that differ.
// A group may lie in any segments, so those with hard links are read again;
// where a snapshot before had the same ones, there is nothing new in them.
func (d *domainCheck) links(ctx context.Context, s *history.Snapshot, tree *snapshot.Tree) error {
	set, any := sha256.New(), false
	for i := range tree.Table.Segments {
		if id := tree.Table.Segments[i].ID; d.segments[id] {
			set.Write(id[:])
			any = true
		}
	}
	key := [32]byte(set.Sum(nil))
	if !any || d.linked[key] {
		return nil
	}

	l := linkCheck{d, tree, map[uint64]checkedGroup{}, nil, 0}
	for i := range tree.Table.Segments {
		if !d.segments[tree.Table.Segments[i].ID] {
			continue
		}
		entries, err := tree.Segment(ctx, i)
		if err != nil {
			return d.object(layout.KeyManifest(d.host, d.domain.ID, tree.ContainerHash(i)), err)
		}
		for j := range entries {
			if err := l.entry(ctx, int32(i), &entries[j]); err != nil {
				return err
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
	*domainCheck
	tree   *snapshot.Tree
	groups map[uint64]checkedGroup
	named  []string // the first entries that differ, by their paths
	unlike int      // how many there are
}

// entry compares an entry with the first one of its group, and names both when
// they differ.
func (l *linkCheck) entry(ctx context.Context, segment int32, e *manifest.Entry) error {
	if e.Link == 0 || e.Flags&manifest.ContentUnread != 0 { // which no restore makes a name of it
		return nil
	}
	what := e.InodeDigest()
	g, known := l.groups[e.Link]
	switch {
	case !known:
		l.groups[e.Link] = checkedGroup{what: what, first: segment}
		return nil
	case g.what == what:
		return nil
	}

	if !g.named {
		g.named = true
		l.groups[e.Link] = g
		first := ""
		if len(l.named) < maxNamed { // it is named only then
			entries, err := l.tree.Segment(ctx, int(g.first))
			if err != nil {
				return err
			}
			first = entries[slices.IndexFunc(entries, func(x manifest.Entry) bool { return x.Link == e.Link })].Path
		}
		l.differs(first)
	}
	l.differs(e.Path)
	return nil
}

// differs counts an entry, and names the first few.
func (l *linkCheck) differs(path string) {
	l.unlike++
	if len(l.named) < maxNamed {
		l.named = append(l.named, "/"+printable.Name(path))
	}
}
