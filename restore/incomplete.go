package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
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
	r.problem(e.Path, fmt.Errorf("not restored: %w", err))
	return r.part(e)
}

// Part is what was read of a file that could not be read whole.
type Part struct {
	Path string // of the file
	File string // that holds what was read of it, in the target
}

// part is the entry under which what was read of a file is written; nil where a
// file that holds just that is there already.
func (r *restorer) part(e *manifest.Entry) *manifest.Entry {
	part := *e
	part.Link, part.Flags = 0, e.Flags&^manifest.ContentUnread
	for n := 1; ; n++ {
		part.Path = r.partPath(e.Path, n)
		free, there, err := r.freeFor(&part)
		switch {
		case err != nil:
			r.problem(e.Path, fmt.Errorf("not restored, not even in part: %w", err))
			return nil
		case !free:
			continue
		}

		r.parts[part.Path] = true
		if there {
			r.did("unchanged", part.Path)
			r.wrotePart(strings.Clone(e.Path), part.Path)
			return nil
		}
		return &part
	}
}

// partPath is the path of the nth name for a part of the file at path:
// NAME.incomplete, NAME.incomplete-2 and so on. A name that is too long for
// that is cut.
func (r *restorer) partPath(path string, n int) string {
	dir, name := split(path)
	if r.single != "" {
		name = r.single
	}
	suffix := ".incomplete"
	if n > 1 {
		suffix += fmt.Sprintf("-%d", n)
	}
	if limit := unix.NAME_MAX - len(suffix); len(name) > limit {
		name = strings.ToValidUTF8(name[:limit], "")
	}
	return join(dir, name+suffix)
}

// freeFor reports whether a part may have its name: nothing has it, neither in
// the snapshot nor in the target, or, there says so, a file with the content of
// the part, as an earlier restore leaves it.
func (r *restorer) freeFor(part *manifest.Entry) (free, there bool, err error) {
	if r.parts[part.Path] {
		return false, false, nil
	}
	if e, err := r.Tree.Find(context.Background(), part.Path); err != nil || e != nil {
		return false, false, err
	}
	st, err := r.stat(part.Path)
	switch {
	case errors.Is(err, unix.ENOENT):
		return true, false, nil
	case err != nil || st.Type != manifest.File:
		return false, false, err
	}

	h, name, err := r.within(part.Path)
	if err != nil {
		return false, false, err
	}
	defer h.Release()
	fd, st, err := posix.OpenFile(h.FD(), name)
	if err != nil {
		return false, false, nil // somebody else's
	}
	defer unix.Close(fd)
	c := comparer{hasher: chunk.NewHasher(r.Tree.Reader.Domain().ChunkKey())}
	same, err := c.compare(fd, &st, part)
	return same && err == nil, true, nil
}

// wrotePart notes that a part of the file at path is in its place, or would be
// in a dry run.
func (r *restorer) wrotePart(path, part string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.PartCount++; len(r.result.Parts) < maxProblems {
		r.result.Parts = append(r.result.Parts, Part{path, r.located(part)})
	}
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
