package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// extras removes what the snapshot does not have from the directories that it
// has. It removes nothing that a capture would leave out, by the rules of the
// snapshot or by today's; nothing below a directory of which the snapshot does
// not have all names; and enters no file system that the capture did not enter.
type extras struct {
	*restorer
	own     *snapshot.Scope // the sources of the snapshot; what lies in none stays
	entered map[string]bool // mount points that the capture entered
	skipped map[string]bool // those that it captured as empty directories
	buf     []byte
	stack   []*level
}

// level is a directory whose names are compared with the snapshot's.
type level struct {
	path  string
	names []string // what is there, sorted
	next  int
	spare bool // nothing in it is removed
}

// findScopes finds out what a capture means, by the rules of the snapshot and
// by today's.
func (r *restorer) findScopes() error {
	own, err := r.Tree.Scope()
	if err != nil {
		return err
	}
	r.scopes = []*snapshot.Scope{own}
	if r.Today != nil {
		r.scopes = append(r.scopes, r.Today)
	}
	return nil
}

func (r *restorer) newExtras() *extras {
	x := &extras{restorer: r, own: r.scopes[0], entered: map[string]bool{}, skipped: map[string]bool{}, buf: make([]byte, posix.DirBuffer)}
	for i := range r.Tree.Table.Sources {
		s := &r.Tree.Table.Sources[i]
		for _, m := range s.Entered {
			x.entered[m] = true
		}
		for _, m := range s.Mounts {
			x.skipped[m] = true
		}
	}
	return x
}

// deleteExtra runs last, when all else is in place.
func (r *restorer) deleteExtra(ctx context.Context) error { return r.newExtras().run(ctx) }

func (x *extras) run(ctx context.Context) error {
	for e, err := range x.Tree.Entries(ctx, x.Under) {
		if err != nil {
			var se *snapshot.SegmentError
			if errors.As(err, &se) {
				// Without the whole list nothing can be called extra.
				x.problem(se.First, errors.New("from here on nothing was deleted: the list of files is damaged"))
				return nil
			}
			return err
		}
		if err := x.entry(e); err != nil {
			return err
		}
	}
	for len(x.stack) > 0 {
		if err := x.pop(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// entry passes an entry of the snapshot: what stands before it among the names
// of its directory is extra.
func (x *extras) entry(e *manifest.Entry) error {
	for len(x.stack) > 0 && !manifest.Within(e.Path, x.stack[len(x.stack)-1].path) {
		if err := x.pop(); err != nil {
			return err
		}
	}

	spare := e.Flags&manifest.ListingUnread != 0
	if n := len(x.stack); n > 0 {
		l := x.stack[n-1]
		spare = spare || l.spare
		if dir, name := split(e.Path); dir == l.path {
			i, _ := slices.BinarySearch(l.names[l.next:], name)
			if err := x.remove(l, l.names[l.next:l.next+i]); err != nil {
				return err
			}
			if l.next += i; l.next < len(l.names) && l.names[l.next] == name {
				l.next++
			}
		}
	}
	if e.Type != manifest.Dir {
		return nil
	}
	return x.push(strings.Clone(e.Path), spare)
}

// push enters a directory of the snapshot.
func (x *extras) push(path string, spare bool) error {
	l := &level{path: path, spare: spare || x.skipped[path]}
	if source, _ := x.own.Source(path); source == nil {
		return nil // it only leads to a source
	}
	h, err := x.dirs.Get(x.rel(path))
	if err != nil {
		return nil // a dry run would make it, or it could not be made and is named
	}
	defer h.Release()

	if !l.spare && !x.entered[path] {
		l.spare, err = x.mountedSince(path)
	}
	if err == nil {
		l.names, err = x.listOpen(h)
	}
	if err != nil {
		x.problem(path, err)
		return nil
	}
	if l.spare && !spare && !x.skipped[path] && x.hasExtra(l) {
		x.problem(path, fmt.Errorf("nothing in it was deleted: %w", posix.ErrMounted))
	}
	l.spare = l.spare || x.leftOutContent(path, h.FD(), l.names)
	x.stack = append(x.stack, l)
	return nil
}

// hasExtra reports whether a directory holds anything.
func (x *extras) hasExtra(l *level) bool { return len(l.names) > 0 }

// mountedSince reports whether a file system is mounted on a directory that the
// capture did not find mounted there.
func (x *extras) mountedSince(path string) (bool, error) {
	if rel := x.rel(path); rel != "" {
		dir, name := split(rel)
		h, err := x.dirs.Get(dir)
		if err != nil {
			return false, err
		}
		defer h.Release()
		return posix.Mounted(h.FD(), name)
	}
	if !x.original() || x.real == "/" {
		return false, nil // a target of the caller's choice
	}
	fd, err := unix.Open(filepath.Dir(x.real), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return posix.Mounted(fd, filepath.Base(x.real))
}

// listOpen lists a directory that is open, maybe without the right to read it.
func (x *extras) listOpen(h *posix.Dir) ([]string, error) {
	if h.Readable {
		return x.list(h.FD())
	}
	fd, err := posix.OpenDir(h.FD(), ".")
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return x.list(fd)
}

func (x *extras) list(fd int) (names []string, err error) {
	err = posix.ReadDir(fd, x.buf, func(name []byte, _ manifest.Type) error {
		names = append(names, string(name))
		return nil
	})
	slices.Sort(names)
	return names, err
}

func (x *extras) leftOutContent(path string, fd int, names []string) bool {
	has := func(name string) bool { _, ok := slices.BinarySearch(names, name); return ok }
	return slices.ContainsFunc(x.scopes, func(s *snapshot.Scope) bool { return s.LeavesOutContent(path, fd, has) })
}

// pop leaves a directory: its names that are left are extra.
func (x *extras) pop() error {
	l := x.stack[len(x.stack)-1]
	x.stack = x.stack[:len(x.stack)-1]
	return x.remove(l, l.names[l.next:])
}

// remove removes names of a directory of the snapshot.
func (x *extras) remove(l *level, names []string) error {
	if l.spare || len(names) == 0 {
		return nil
	}
	h, err := x.dirs.Get(x.rel(l.path))
	if err != nil {
		return err
	}
	defer h.Release()
	for _, name := range names {
		removed, err := x.node(h.FD(), name, join(l.path, name))
		if err != nil {
			return err
		}
		for _, path := range removed {
			x.did("delete", path)
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// node removes a node that the snapshot does not have, entry by entry, but for
// what is spared. It returns the topmost paths that were removed, or would be
// in a dry run: just path when all of it was. Errors that concern one node are
// noted.
func (x *extras) node(dirfd int, name, path string) (removed []string, err error) {
	st, err := posix.StatAt(dirfd, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, x.fatal(path, err)
	}
	if x.stays(path, &st) {
		return nil, nil
	}
	if st.Type != manifest.Dir {
		if !x.DryRun {
			err = x.with(path, func() error { return unix.Unlinkat(dirfd, name, 0) })
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, x.fatal(path, fmt.Errorf("not deleted: %w", explainNode(err)))
		}
		return []string{path}, nil
	}
	return x.directory(dirfd, name, path)
}

// stays reports whether a node, and all below it, is left alone.
func (x *extras) stays(path string, st *posix.Stat) bool {
	if source, _ := x.own.Source(path); source == nil || x.rel(path) == walk.RestoreMarker || x.isOwn(path) || x.parts[path] {
		return true
	}
	isDir := st.Type == manifest.Dir
	return x.Select != nil && x.Select.Decide(path, isDir) == filter.Exclude ||
		slices.ContainsFunc(x.scopes, func(s *snapshot.Scope) bool { return s.LeavesOut(path, st) })
}

// meant reports whether a directory itself may go once it is empty, not only
// what is in it.
func (x *extras) meant(path string) bool {
	scopes := x.scopes
	if x.Select != nil {
		scopes = append(slices.Clip(scopes), x.Select)
	}
	return !slices.ContainsFunc(scopes, func(s *snapshot.Scope) bool {
		source, rel := s.Source(path)
		return source != nil && source.Rules.Match(rel, true) != filter.Include
	})
}

// otherFileSystem reports whether a directory is another file system than the
// one that it lies in: something is mounted on it, or it is a subvolume.
func (x *extras) otherFileSystem(dirfd int, name string) (bool, error) {
	mounted, err := posix.Mounted(dirfd, name)
	if err != nil || mounted {
		return mounted, err
	}
	above, err := posix.StatFd(dirfd)
	if err != nil {
		return false, err
	}
	st, err := posix.StatAt(dirfd, name)
	return err == nil && st.Dev != above.Dev, err
}

// staysOnOne reports whether a rule leaves out other file systems at a path.
func (x *extras) staysOnOne(path string) bool {
	return slices.ContainsFunc(x.scopes, func(s *snapshot.Scope) bool {
		source, _ := s.Source(path)
		return source != nil && source.OneFileSystem
	})
}

// kept is the first path at or below a directory that is not to be removed with
// it; "" when all of it is.
func (x *extras) kept(dirfd int, name, path string) (string, error) {
	st, err := posix.StatAt(dirfd, name)
	switch {
	case err != nil:
		return "", err
	case x.stays(path, &st):
		return path, nil
	case st.Type != manifest.Dir:
		return "", nil
	}
	if other, err := x.otherFileSystem(dirfd, name); err != nil || other || !x.meant(path) {
		return path, err
	}

	fd, err := posix.OpenDir(dirfd, name)
	if err != nil {
		return path, err
	}
	defer unix.Close(fd)
	names, err := x.list(fd)
	if err != nil || x.leftOutContent(path, fd, names) {
		return path, err
	}
	for _, n := range names {
		if k, err := x.kept(fd, n, join(path, n)); k != "" || err != nil {
			return k, err
		}
	}
	return "", nil
}

func (x *extras) directory(dirfd int, name, path string) (removed []string, err error) {
	if other, err := x.otherFileSystem(dirfd, name); err != nil || other {
		if err == nil && !x.staysOnOne(path) {
			err = posix.ErrMounted
		}
		return nil, x.fatal(path, err)
	}
	fd := -1
	err = x.with(path+"/", func() (err error) {
		fd, err = posix.OpenDir(dirfd, name)
		return err
	})
	if err != nil {
		return nil, x.fatal(path, err)
	}
	names, err := x.list(fd)
	if err != nil || x.leftOutContent(path, fd, names) {
		unix.Close(fd)
		return nil, x.fatal(path, err)
	}

	whole := x.meant(path)
	for _, n := range names {
		below := join(path, n)
		some, err := x.node(fd, n, below)
		if err != nil {
			unix.Close(fd)
			return nil, err
		}
		if len(some) != 1 || some[0] != below {
			whole = false
		}
		removed = append(removed, some...)
	}
	unix.Close(fd)
	if !whole {
		return removed, nil
	}
	if !x.DryRun {
		err := x.with(path, func() error { return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR) })
		if err != nil {
			return removed, x.fatal(path, fmt.Errorf("not deleted: %w", explainNode(err)))
		}
	}
	return []string{path}, nil
}
