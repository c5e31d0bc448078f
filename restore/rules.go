package restore

import (
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/live"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// rules decide what a restore in place may delete: nothing that a capture would
// leave out, by the rules of the snapshot or by today's, and nothing on a file
// system that the capture did not enter. With exact, all but what is spared.
type rules struct {
	target   *target.Target
	parts    *parts
	selected *snapshot.Scope // by the command; nil selects all
	only     func(path string, below bool) bool
	scopes   []*snapshot.Scope // what a capture means: as the snapshot has it, and today
	exact    bool
}

// newScopes returns what a capture means, by the rules of the snapshot, first, and
// by today's.
func newScopes(o *Options) ([]*snapshot.Scope, error) {
	own, err := o.Tree.Scope()
	if err != nil {
		return nil, err
	}
	if o.Today == nil {
		return []*snapshot.Scope{own}, nil
	}
	return []*snapshot.Scope{own, o.Today}, nil
}

// stays reports whether a node stays, and all below it.
func (r *rules) stays(path string, st *posix.Stat) bool {
	if r.only != nil && !r.only(path, st.Type == manifest.Dir) {
		return true
	}
	if r.exact {
		return r.target.IsSpare(path) || r.parts.has(path)
	}
	if source, _ := r.scopes[0].Source(path); source == nil || r.target.Rel(path) == walk.RestoreMarker || r.target.IsSpare(path) || r.parts.has(path) {
		return true
	}
	isDir := st.Type == manifest.Dir
	return r.selected != nil && r.selected.Decide(path, isDir) == filter.Exclude ||
		slices.ContainsFunc(r.scopes, func(s *snapshot.Scope) bool { return s.LeavesOut(path, st) })
}

// generations reports whether a directory holds generations, which no snapshot has.
func (r *rules) generations(dirfd int, name string) bool { return !r.exact && live.IsDir(dirfd, name) }

// mayGo reports whether a directory itself may be deleted once it is empty, not
// only what is in it.
func (r *rules) mayGo(path string) bool {
	if r.only != nil && !r.only(path, false) {
		return false
	}
	if r.exact {
		return true
	}
	scopes := r.scopes
	if r.selected != nil {
		scopes = append(slices.Clip(scopes), r.selected)
	}
	return !slices.ContainsFunc(scopes, func(s *snapshot.Scope) bool {
		source, rel := s.Source(path)
		return source != nil && source.Rules.Match(rel, true) != filter.Include
	})
}

// staysOnOne reports whether a rule leaves out other file systems at a path.
func (r *rules) staysOnOne(path string) bool {
	return slices.ContainsFunc(r.scopes, func(s *snapshot.Scope) bool {
		source, _ := s.Source(path)
		return source != nil && source.OneFileSystem
	})
}

// leftOutContent reports whether a capture leaves out all that a directory holds.
func (r *rules) leftOutContent(path string, fd int, names []string) bool {
	has := func(name string) bool { _, ok := slices.BinarySearch(names, name); return ok }
	return !r.exact && slices.ContainsFunc(r.scopes, func(s *snapshot.Scope) bool { return s.LeavesOutContent(path, fd, has) })
}

// kept returns the first path at or below a directory that is not to be removed
// with it; "" when all of it is. The buffer is for listings.
func (r *rules) kept(dirfd int, name, path string, buf []byte) (string, error) {
	st, err := posix.StatAt(dirfd, name)
	switch {
	case err != nil:
		return "", err
	case r.stays(path, &st):
		return path, nil
	case st.Type != manifest.Dir:
		return "", nil
	case r.generations(dirfd, name):
		return path, nil
	}
	if other, err := otherFileSystem(dirfd, name); err != nil || other || !r.mayGo(path) {
		return path, err
	}

	fd, err := posix.OpenDir(dirfd, name)
	if err != nil {
		return path, err
	}
	defer unix.Close(fd)
	names, err := listNames(fd, buf)
	if err != nil || r.leftOutContent(path, fd, names) {
		return path, err
	}
	for _, n := range names {
		if k, err := r.kept(fd, n, join(path, n), buf); k != "" || err != nil {
			return k, err
		}
	}
	return "", nil
}

// otherFileSystem reports whether a directory is another file system than the
// one that it lies in: something is mounted on it, or it is a subvolume.
func otherFileSystem(dirfd int, name string) (bool, error) {
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

// listNames returns the names in a directory, sorted. The buffer is for the system
// call.
func listNames(fd int, buf []byte) (names []string, err error) {
	err = posix.ReadDir(fd, buf, func(name []byte, _ manifest.Type) error {
		names = append(names, string(name))
		return nil
	})
	slices.Sort(names)
	return names, err
}
