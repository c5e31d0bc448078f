package restore

import (
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// metadata gives nodes their owners, modes, times and attributes, and compares
// those of existing ones.
type metadata struct {
	applier *posix.Applier
	report  *report
}

// apply gives an open file or directory the metadata of its entry.
func (m *metadata) apply(fd int, e *manifest.Entry) []*posix.Problem {
	return m.reported(e, m.applier.Apply(fd, e.Metadata()))
}

// applyAt gives a node the metadata of its entry.
func (m *metadata) applyAt(dirfd int, name string, e *manifest.Entry) []*posix.Problem {
	return m.reported(e, m.applier.ApplyAt(dirfd, name, e.Metadata()))
}

// reported reports metadata that could not be applied.
func (m *metadata) reported(e *manifest.Entry, problems []*posix.Problem) []*posix.Problem {
	for _, err := range problems {
		m.report.problem(e.Path, err)
	}
	return problems
}

// same reports whether nothing has to be applied to an open file.
func (m *metadata) same(fd int, st *posix.Stat, e *manifest.Entry) (bool, error) {
	if !m.sameStat(st, e) {
		return false, nil
	}
	flags, _, err := posix.InodeFlags(fd)
	if e.Flags&manifest.MetadataIncomplete != 0 { // what it lacks may be there
		flags &= e.InodeFlags
	}
	if err != nil || flags != e.InodeFlags {
		return false, err
	}
	have, err := posix.Xattrs(fd)
	return err == nil && sameXattrs(have, e), err
}

// sameStat compares what a stat shows.
func (m *metadata) sameStat(st *posix.Stat, e *manifest.Entry) bool {
	return (st.Mode == e.Mode || e.Type == manifest.Symlink) && st.Mtime == e.Mtime && m.applier.Owns(st, e.UID, e.GID)
}

// sameXattrs compares extended attributes with those of an entry.
func sameXattrs(have []manifest.Xattr, e *manifest.Entry) bool {
	if e.Flags&manifest.MetadataIncomplete != 0 { // what it lacks may be there
		have = slices.DeleteFunc(have, func(x manifest.Xattr) bool {
			return !slices.ContainsFunc(e.Xattrs, func(y manifest.Xattr) bool { return x.Name == y.Name })
		})
	}
	return inode.SameXattrs(have, e.Xattrs)
}

// sameNode reports whether nothing has to be applied to a node that is not a file.
func (m *metadata) sameNode(dirfd int, name string, st *posix.Stat, e *manifest.Entry) bool {
	if !m.sameStat(st, e) {
		return false
	}
	fd, now, err := posix.OpenNode(dirfd, name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)

	have, err := posix.NodeXattrs(fd)
	return err == nil && now.ID() == st.ID() && sameXattrs(have, e)
}
