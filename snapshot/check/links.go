package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

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
// where a snapshot before had the same ones and they were as they should be,
// there is nothing new in them.
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

	l := linkCheck{d, s, tree, map[uint64]checkedGroup{}, 0}
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
	d.linked[key] = l.unlike == 0
	return nil
}

// linkCheck goes through the hard links of one snapshot.
type linkCheck struct {
	*domainCheck
	snapshot *history.Snapshot
	tree     *snapshot.Tree
	groups   map[uint64]checkedGroup
	unlike   int
}

var errUnlike = errors.New("its list has files that differ as names of one file, in content or metadata: a restore writes each of them by itself")

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

	object := "hard links of " + l.snapshot.Ref()
	l.damage(object, errUnlike)
	if l.unlike++; !g.named && l.unlike <= maxHurt {
		g.named = true
		l.groups[e.Link] = g
		entries, err := l.tree.Segment(ctx, int(g.first))
		if err != nil {
			return err
		}
		first := slices.IndexFunc(entries, func(x manifest.Entry) bool { return x.Link == e.Link })
		l.hurts(object, Hurt{Ref: l.snapshot.Ref(), Path: entries[first].Path})
	}
	l.hurts(object, Hurt{Ref: l.snapshot.Ref(), Path: e.Path})
	return nil
}
