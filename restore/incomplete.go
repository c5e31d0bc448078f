package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

// ErrIncomplete says that the capture could not read something whole, so that
// the snapshot does not have it.
var ErrIncomplete = errors.New("it could not be read whole when the snapshot was taken")

// maxFlagged is how many flagged entries are listed; the rest is counted.
const maxFlagged = 1000

// Flagged is an entry whose capture may not show it as it was: a file that
// changed while it was read, or a node of which some metadata could not be
// read.
type Flagged struct {
	Path  string
	Flags manifest.Flags
}

// wanted reports whether an entry is to be restored.
func (r *restorer) wanted(path string, isDir bool) bool {
	return r.Select == nil || r.Select.Decide(path, isDir) == filter.Include
}

// unknown reports whether nothing but the name of a directory was captured.
func unknown(e *manifest.Entry) bool {
	return e.Flags&manifest.ListingUnread != 0 && e.Flags&manifest.MetadataIncomplete != 0
}

// flagged notes what the capture could not read, and returns the entry to be
// restored; nil for none. In the name of what was not read whole nothing is
// created, replaced or deleted.
func (r *restorer) flagged(e *manifest.Entry) *manifest.Entry {
	if e.Flags&(manifest.Changed|manifest.MetadataIncomplete) != 0 && e.Flags&manifest.Incomplete == 0 {
		if r.result.FlaggedCount++; len(r.result.Flagged) < maxFlagged {
			r.result.Flagged = append(r.result.Flagged, Flagged{strings.Clone(e.Path), e.Flags})
		}
	}
	if e.Flags&manifest.Incomplete == 0 {
		return e
	}

	r.result.Incomplete++
	err := incompleteError(r.Tree, e)
	if e.Type == manifest.Dir {
		r.problem(e.Path, fmt.Errorf("what it held is not in the snapshot: %w", err))
		return e
	}
	r.unavailable.plan(e.Type, e.Size)
	if !r.WithIncomplete || e.Type != manifest.File {
		r.problem(e.Path, fmt.Errorf("not restored: %w", err))
		return nil
	}
	part := *e
	part.Path, part.Link = strings.Clone(e.Path)+".incomplete", 0
	if r.taken(part.Path) {
		r.problem(e.Path, fmt.Errorf("not restored, not even in part: %s exists already: %w", "/"+part.Path, err))
		return nil
	}
	part.Flags &^= manifest.ContentUnread
	r.incompletes[part.Path] = true
	r.problem(e.Path, fmt.Errorf("restored as far as it was read, as %s: %w", "/"+part.Path, err))
	return &part
}

// taken reports whether something has the name that a part of a file is to get,
// in the snapshot or in the target.
func (r *restorer) taken(path string) bool {
	if e, err := r.Tree.Find(context.Background(), path); err != nil || e != nil {
		return true
	}
	_, err := r.stat(path)
	return !errors.Is(err, unix.ENOENT)
}

// incompleteError is why the snapshot does not have an entry whole.
func incompleteError(t *snapshot.Tree, e *manifest.Entry) error {
	all := t.Table.Problems
	i, found := slices.BinarySearchFunc(all, e.Path, func(p manifest.Problem, path string) int { return manifest.Compare(p.Path, path) })
	if !found {
		return ErrIncomplete
	}
	return fmt.Errorf("%w (%s)", ErrIncomplete, all[i].Reason)
}
