package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
)

// ErrIncomplete means that the capture could not read all of something, so that
// the snapshot does not have it.
var ErrIncomplete = errors.New("it could not be read whole when the snapshot was taken")

// Flagged is an entry whose capture may not show it as it was: a file that
// changed while it was read, or a node of which some metadata could not be
// read.
type Flagged struct {
	Path  string
	Flags manifest.Flags
}

// flagged reports what the capture could not read, and returns the entry to be
// restored; nil for none. Nothing is created, replaced or deleted under the name of
// what was not read completely.
func (r *restorer) flagged(e *manifest.Entry) *manifest.Entry {
	if e.Flags&(manifest.Changed|manifest.MetadataIncomplete) != 0 && e.Flags&manifest.Incomplete == 0 {
		r.report.flag(e)
	}
	if e.Flags&manifest.Incomplete == 0 {
		return e
	}

	r.report.result.Incomplete++
	err := incompleteError(r.Tree, e)
	if e.Type == manifest.Dir {
		r.report.problem(e.Path, fmt.Errorf("what it held is not in the snapshot: %w", err))
		return e
	}
	r.report.unavailable.add(e.Type, e.Size)
	r.report.problem(e.Path, notRestored(err))
	if !r.WithIncomplete || e.Type != manifest.File {
		return nil
	}
	return r.parts.entry(e)
}

// Part is what was read of a file that could not be read completely.
type Part struct {
	Path string // of the file
	File string // that holds what was read of it, in the target
}

// parts are the files that get what was read of others.
type parts struct {
	tree   *snapshot.Tree
	target *target.Target
	report *report

	mu    sync.Mutex
	paths map[string]bool // that are taken
}

// has reports whether a path is that of a part.
func (p *parts) has(path string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paths[path]
}

func (p *parts) add(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths[path] = true
}

// entry returns the entry under which what was read of a file is written; nil where
// a file that holds just that is there already.
func (p *parts) entry(e *manifest.Entry) *manifest.Entry {
	part := *e
	part.Link, part.Flags = 0, e.Flags&^manifest.ContentUnread
	for n := 1; ; n++ {
		part.Path = p.path(e.Path, n)
		free, there, err := p.free(&part)
		switch {
		case err != nil:
			p.report.problem(e.Path, fmt.Errorf("NOT restored, not even in part: %w", err))
			return nil
		case !free:
			continue
		}

		p.add(part.Path)
		if there {
			p.report.did("unchanged", part.Path)
			p.report.part(strings.Clone(e.Path), p.target.Located(part.Path))
			return nil
		}
		return &part
	}
}

// path returns the path of the nth name for a part of the file at path:
// NAME.incomplete, NAME.incomplete-2 and so on. A name that is too long for
// that is cut.
func (p *parts) path(path string, n int) string {
	dir, name := target.Split(path)
	if single := p.target.Single(); single != "" {
		name = single
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

// free reports whether a part may have its name: nothing has it in the snapshot,
// and in the target either nothing or, when there is set, a file with the content
// of the part, as an earlier restore leaves it.
func (p *parts) free(part *manifest.Entry) (free, there bool, err error) {
	if p.has(part.Path) {
		return false, false, nil
	}
	if e, err := p.tree.Find(context.Background(), part.Path); err != nil || e != nil {
		return false, false, err
	}
	st, err := p.target.Stat(part.Path)
	switch {
	case errors.Is(err, unix.ENOENT):
		return true, false, nil
	case err != nil || st.Type != manifest.File:
		return false, false, err
	}

	h, name, err := p.target.Above(part.Path)
	if err != nil {
		return false, false, err
	}
	defer h.Release()

	fd, st, err := posix.OpenFile(h.FD(), name)
	if err != nil {
		return false, false, nil // somebody else's
	}
	defer unix.Close(fd)
	c := comparer{hasher: chunk.NewHasher(p.tree.Reader.Domain().ChunkKey())}
	same, err := c.compare(fd, &st, part)
	return same && err == nil, true, nil
}

// incompleteError returns why the snapshot does not have all of an entry.
func incompleteError(t *snapshot.Tree, e *manifest.Entry) error {
	all := t.Table.Problems
	i, found := slices.BinarySearchFunc(all, e.Path, func(p manifest.Problem, path string) int { return manifest.Compare(p.Path, path) })
	if !found {
		return ErrIncomplete
	}
	return fmt.Errorf("%w (%s)", ErrIncomplete, all[i].Reason)
}

// unknown reports whether nothing but the name of a directory was captured.
func unknown(e *manifest.Entry) bool {
	return e.Flags&manifest.ListingUnread != 0 && e.Flags&manifest.MetadataIncomplete != 0
}
