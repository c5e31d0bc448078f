// Package diff compares snapshots. It reads no more of two than what may differ.
package diff

import (
	"context"
	"crypto/sha256"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/inode"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// Change is a difference between two trees.
type Change string

// The kinds of changes.
const (
	Added    Change = "added"
	Removed  Change = "removed"
	Modified Change = "modified" // content, type or target
	Metadata Change = "metadata" // only owner, mode, times or attributes
	Unread   Change = "unread"   // one of the two could not be captured whole
)

// Difference is one path that differs. From is nil when it was added, To when
// it was removed.
type Difference struct {
	Change   Change
	Path     string
	From, To *manifest.Entry
}

// Between yields what differs from a at and below under to b, in path order. Where
// the two have chunk IDs of different keys, because the host was enrolled again
// between them, it reads and compares the content of files of equal size. With equal
// keys, segments that both have are not read.
func Between(ctx context.Context, a, b *snapshot.Tree, under string) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		inA, inB := a.Table.Below(under), b.Table.Below(under)
		if sameKeys(a, b) {
			inA, inB = manifest.Different(a.Table, b.Table, under)
		}
		nextA, stopA := iter.Pull2(a.EntriesIn(ctx, inA, under))
		defer stopA()
		nextB, stopB := iter.Pull2(b.EntriesIn(ctx, inB, under))
		defer stopB()
		ea, erra, okA := nextA()
		eb, errb, okB := nextB()
		for okA || okB {
			for _, err := range []error{erra, errb} {
				if err != nil {
					yield(Difference{}, err)
					return
				}
			}
			order := 0
			switch {
			case !okA:
				order = 1
			case !okB:
				order = -1
			default:
				order = manifest.Compare(ea.Path, eb.Path)
			}
			var d Difference
			switch {
			case order < 0:
				d = Difference{Removed, ea.Path, ea, nil}
			case order > 0:
				d = Difference{Added, eb.Path, nil, eb}
			default:
				change, err := compareIn(ctx, a, b, ea, eb)
				if err != nil {
					yield(Difference{}, err)
					return
				}
				d = Difference{change, eb.Path, ea, eb}
			}
			if d.Change != "" && !yield(d, nil) {
				return
			}
			if order <= 0 {
				ea, erra, okA = nextA()
			}
			if order >= 0 {
				eb, errb, okB = nextB()
			}
		}
	}
}

// sameKeys reports whether segments and chunks of two trees have IDs that can be
// compared.
func sameKeys(a, b *snapshot.Tree) bool { return a.Reader.Domain().ID == b.Reader.Domain().ID }

// compareIn is compare of entries of two trees.
func compareIn(ctx context.Context, a, b *snapshot.Tree, ea, eb *manifest.Entry) (Change, error) {
	unread := (ea.Flags|eb.Flags)&manifest.Incomplete != 0
	if sameKeys(a, b) || unread || ea.Type != manifest.File || eb.Type != manifest.File || ea.Size != eb.Size {
		return compare(ea, eb), nil
	}
	same, err := readSame(ctx, a, b, ea, eb)
	if err != nil {
		return "", err
	}
	if !same {
		return Modified, nil
	}
	as := *eb
	as.Chunks = ea.Chunks
	return compare(ea, &as), nil
}

// readSame reads two files of equal size and reports whether they are equal.
func readSame(ctx context.Context, a, b *snapshot.Tree, ea, eb *manifest.Entry) (bool, error) {
	x, y := *ea, *eb
	if slices.Equal(x.Holes, y.Holes) {
		x.Holes, y.Holes = nil, nil // the zeros of both need no comparison
	}
	var sums [2][sha256.Size]byte
	g, ctx := errgroup.WithContext(ctx)
	for i, f := range [...]struct {
		tree  *snapshot.Tree
		entry *manifest.Entry
	}{{a, &x}, {b, &y}} {
		g.Go(func() error {
			h := sha256.New()
			err := f.tree.Content(ctx, f.entry, h)
			h.Sum(sums[i][:0])
			return err
		})
	}
	err := g.Wait()
	return err == nil && sums[0] == sums[1], err
}

// compare returns how two entries of one path differ; "" is not at all.
func compare(a, b *manifest.Entry) Change {
	switch {
	case (a.Flags|b.Flags)&manifest.Incomplete != 0:
		return Unread
	case a.Type != b.Type, a.Size != b.Size, a.Target != b.Target, a.Rdev != b.Rdev,
		!slices.EqualFunc(a.Chunks, b.Chunks, func(x, y manifest.Chunk) bool { return x.ID == y.ID }):
		return Modified
	case a.Mode != b.Mode, a.UID != b.UID, a.GID != b.GID, a.User != b.User, a.Group != b.Group, a.Mtime != b.Mtime, a.Flags != b.Flags, !inode.SameXattrs(a.Xattrs, b.Xattrs):
		return Metadata
	}
	return ""
}
