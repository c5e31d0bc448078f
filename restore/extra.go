package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// extras removes what the snapshot does not have from the directories that it has.
// It removes nothing that the rules keep, and nothing below a directory of which
// the snapshot does not have all names.
type extras struct {
	target *target.Target
	report *report
	rules  *rules
	dryRun bool
	top    string // path of the directory that is restored

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

// deleteExtra deletes what the snapshot does not have. It runs last, when all else
// is in place.
func (r *restorer) deleteExtra(ctx context.Context) error {
	x := &extras{target: r.target, report: r.report, rules: r.rules, dryRun: r.DryRun, top: r.Under, entered: map[string]bool{}, skipped: map[string]bool{}, buf: make([]byte, posix.DirBuffer)}
	for i := range r.Tree.Table.Sources {
		s := &r.Tree.Table.Sources[i]
		for _, m := range s.Entered {
			x.entered[m] = true
		}
		for _, m := range s.Mounts {
			x.skipped[m] = true
		}
	}

	if r.Exact { // the top is no entry, unless it is a source
		if err := x.push(r.Under, false); err != nil {
			return err
		}
	}
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		if err != nil {
			if se, ok := errors.AsType[*snapshot.SegmentError](err); ok {
				// Without the complete list nothing can be called extra.
				x.report.problem(se.First, errors.New("from here on nothing was deleted: the list of files is damaged"))
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

	if x.rules.exact && e.Path == x.top {
		return nil // entered already
	}

	spare := e.Flags&manifest.ListingUnread != 0
	if n := len(x.stack); n > 0 {
		l := x.stack[n-1]
		spare = spare || l.spare
		if dir, name := target.Split(e.Path); dir == l.path {
			i, _ := slices.BinarySearch(l.names[l.next:], name)
			if err := x.remove(l, l.names[l.next:l.next+i]); err != nil {
				return err
			}
			l.next += i
			unread := x.rules.exact && e.Type != manifest.Dir && e.Flags&manifest.Incomplete != 0
			if l.next < len(l.names) && l.names[l.next] == name && !unread {
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
	exact := x.rules.exact
	l := &level{path: path, spare: !exact && (spare || x.skipped[path])}
	if source, _ := x.rules.scopes[0].Source(path); source == nil && !exact {
		return nil // it only leads to a source
	}
	h, err := x.target.Dir(x.target.Rel(path))
	if err != nil {
		return nil // a dry run would make it, or it could not be made and is named
	}
	defer h.Release()

	if !l.spare && !x.entered[path] {
		l.spare, err = x.target.Mounted(path)
	}
	if err == nil {
		l.names, err = x.listOpen(h)
	}
	if err != nil {
		x.report.problem(path, err)
		return nil
	}
	if l.spare && !spare && !x.skipped[path] && len(l.names) > 0 {
		x.report.problem(path, fmt.Errorf("nothing in it was deleted: %w", posix.ErrMounted))
	}
	l.spare = l.spare || x.rules.leftOutContent(path, h.FD(), l.names)
	x.stack = append(x.stack, l)
	return nil
}

// listOpen lists a directory that is open, maybe without the right to read it.
func (x *extras) listOpen(h *posix.Dir) ([]string, error) {
	if h.Readable {
		return listNames(h.FD(), x.buf)
	}
	fd, err := posix.OpenDir(h.FD(), ".")
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return listNames(fd, x.buf)
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
	h, err := x.target.Dir(x.target.Rel(l.path))
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
			x.report.did("delete", path)
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

// node removes a node that the snapshot does not have, entry by entry, except
// what the rules keep. It returns the topmost paths that were removed, or would be
// in a dry run: just path when all of it was. Errors that concern one node are
// noted.
func (x *extras) node(dirfd int, name, path string) (removed []string, err error) {
	st, err := posix.StatAt(dirfd, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, x.report.fatal(path, err)
	}
	if x.rules.stays(path, &st) {
		return nil, nil
	}
	if st.Type != manifest.Dir {
		if !x.dryRun {
			err = x.target.With(path, func() error { return unix.Unlinkat(dirfd, name, 0) })
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, x.report.fatal(path, fmt.Errorf("not deleted: %w", explainNode(err)))
		}
		return []string{path}, nil
	}
	if x.rules.generations(dirfd, name) {
		return nil, nil
	}
	return x.directory(dirfd, name, path)
}

func (x *extras) directory(dirfd int, name, path string) (removed []string, err error) {
	if other, err := otherFileSystem(dirfd, name); err != nil || other {
		if err == nil && !x.rules.staysOnOne(path) {
			err = posix.ErrMounted
		}
		return nil, x.report.fatal(path, err)
	}
	fd := -1
	err = x.target.With(path+"/", func() (err error) {
		fd, err = posix.OpenDir(dirfd, name)
		return err
	})
	if err != nil {
		return nil, x.report.fatal(path, err)
	}
	names, err := listNames(fd, x.buf)
	if err != nil || x.rules.leftOutContent(path, fd, names) {
		unix.Close(fd)
		return nil, x.report.fatal(path, err)
	}

	whole := x.rules.mayGo(path)
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
	if !x.dryRun {
		err := x.target.With(path, func() error { return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR) })
		if err != nil {
			return removed, x.report.fatal(path, fmt.Errorf("not deleted: %w", explainNode(err)))
		}
	}
	return []string{path}, nil
}
