package posix

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// ApplyOptions are how metadata is applied.
type ApplyOptions struct {
	// KeepOwner leaves the owners of nodes as they are. Else a node gets the
	// numbers in its metadata; names are mapped to numbers before.
	KeepOwner bool
	// Exact removes extended attributes that the metadata does not have, of the
	// kinds that a captured tree carries itself: user and trusted
	// attributes, ACLs (inherited ones too) and capabilities. Labels that the
	// system gives by its own rules stay.
	Exact bool
}

// Applier applies metadata to nodes. It is safe for concurrent use.
type Applier struct {
	opts       ApplyOptions
	mayChown   bool
	complained atomic.Bool
}

// Problem is one attribute that could not be applied.
type Problem struct {
	Attr string // such as "owner", `xattr "user.note"`
	Err  error
}

func (p *Problem) Error() string { return p.Attr + ": " + p.Err.Error() }
func (p *Problem) Unwrap() error { return p.Err }

// NewApplier finds out what this process may do.
func NewApplier(opts ApplyOptions) *Applier { return &Applier{opts: opts, mayChown: hasChown()} }

// hasChown reports whether the process has CAP_CHOWN.
func hasChown() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.Geteuid() == 0
	}
	return data[0].Effective&(1<<unix.CAP_CHOWN) != 0
}

// Apply applies the metadata to an open file or directory (not O_PATH):
// owner, extended attributes, mode, times and inode flags, in this order, for a
// change of owner clears setuid bits and capabilities, an ACL sets mode bits,
// and everything changes times. Flags that forbid changes are taken away;
// Protect sets them. It goes on past what fails and returns that. A
// process without CAP_CHOWN gets one problem about owners, not one for each
// node. A node that could not be given to its owner does not get
// setuid and setgid bits, nor capabilities.
func (a *Applier) Apply(fd int, m inode.Metadata) []*Problem {
	return a.apply(&node{fd: fd, open: true}, &m)
}

// ApplyAt is Apply for the node name in a directory, of any type, without
// opening it: links, devices, fifos and sockets. It refuses a node of another
// type than the metadata's.
func (a *Applier) ApplyAt(dirfd int, name string, m inode.Metadata) []*Problem {
	fd, err := openPath(dirfd, name)
	if err != nil {
		return []*Problem{{"metadata", err}}
	}
	defer unix.Close(fd)
	n := &node{fd: fd, path: procPath(fd)}
	if m.Type == inode.Symlink {
		n.link, n.path = true, procPath(dirfd)+"/"+name
	}
	return a.apply(n, &m)
}

func (a *Applier) apply(n *node, m *inode.Metadata) []*Problem {
	st, err := StatFd(n.fd)
	if err == nil && st.Type != m.Type {
		err = fmt.Errorf("is a %v, not a %v", st.Type, m.Type)
	}
	if err != nil {
		return []*Problem{{"metadata", err}}
	}
	var problems []*Problem
	report := func(attr string, err error) {
		if err != nil {
			problems = append(problems, &Problem{attr, err})
		}
	}

	flags, err := a.unlock(n, m)
	report("inode flags", err)
	owned, err := a.chown(n, &st, m)
	report("owner", err)
	stripped := m.Type == inode.File && !owned
	mode := m.Mode
	if stripped {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	problems = a.xattrs(n, m, st.Mode, stripped, problems)
	// A change of owner clears setuid bits, and an ACL may have set others.
	same := st.Mode == mode && mode&(unix.S_ISUID|unix.S_ISGID) == 0 && len(m.Xattrs) == 0
	if m.Type != inode.Symlink && !same {
		report("mode", n.chmod(mode))
	}
	report("mtime", n.setMtime(m.Mtime))
	report("inode flags", a.setFlags(n, m, flags))
	return problems
}

// unlock returns the inode flags that a node has, of which those that forbid
// changes are taken away, unless the metadata is incomplete. It asks only
// where flags may have to be set.
func (a *Applier) unlock(n *node, m *inode.Metadata) (flags uint32, err error) {
	if !n.open || m.Flags == 0 && !a.opts.Exact {
		return 0, nil
	}
	flags, _, err = InodeFlags(n.fd)
	if err == nil && flags&LockingFlags != 0 && !m.Incomplete {
		_, err = Unlock(n.fd)
	}
	return flags, err
}

// setFlags gives a node the inode flags of its metadata, except those that forbid
// changes; see Protect. Others that it has stay unless it is to be exact.
func (a *Applier) setFlags(n *node, m *inode.Metadata, have uint32) error {
	want := m.Flags &^ LockingFlags
	switch {
	case m.Incomplete:
		want |= have
	case !a.opts.Exact:
		want |= have &^ LockingFlags
	}
	if !n.open || want == have {
		return nil
	}
	return SetInodeFlags(n.fd, want)
}

// Protect gives an open file or directory those of the inode flags that forbid
// changes: immutable, append-only. Nothing can be changed afterwards, so it
// comes when all else is done, and the names in a directory are.
func Protect(fd int, flags uint32) *Problem {
	have, _, err := InodeFlags(fd)
	if err == nil {
		err = SetInodeFlags(fd, have|flags&LockingFlags)
	}
	if err != nil {
		return &Problem{"inode flags", err}
	}
	return nil
}

// chown reports whether the node has, in the end, the owner that its setuid bits
// and capabilities are meant for.
func (a *Applier) chown(n *node, st *Stat, m *inode.Metadata) (bool, error) {
	if a.opts.KeepOwner || m.UID == st.UID && m.GID == st.GID {
		return m.UID == st.UID && m.GID == st.GID, nil
	}
	err := n.chown(int(m.UID), int(m.GID))
	if err == nil {
		return true, nil
	}
	if a.mayChown {
		return false, err
	}
	if m.GID != st.GID {
		// A group of one's own can be given without any right.
		if n.chown(-1, int(m.GID)) == nil && m.UID == st.UID {
			return true, nil
		}
	}
	if a.complained.Swap(true) {
		return false, nil
	}
	return false, fmt.Errorf("%w: without the right to give files away (CAP_CHOWN) they stay with the current user; this is reported once", err)
}

// Owns reports whether a node that has st's owner has the one that Apply would
// give it.
func (a *Applier) Owns(st *Stat, uid, gid uint32) bool {
	return a.opts.KeepOwner || uid == st.UID && gid == st.GID
}

const capabilityXattr = "security.capability"

func (a *Applier) xattrs(n *node, m *inode.Metadata, mode uint32, stripped bool, problems []*Problem) []*Problem {
	report := func(name string, err error) {
		if err != nil {
			problems = append(problems, &Problem{fmt.Sprintf("xattr %q", name), err})
		}
	}
	writable := false
	setOne := func(x inode.Xattr) error {
		err := n.setXattr(x)
		if isErrno(err, unix.EACCES) && !writable && m.Type != inode.Symlink {
			// The mode denies its owner writing; the right one comes after.
			writable = true
			if n.chmod(mode|0o600) == nil {
				err = n.setXattr(x)
			}
		}
		return err
	}
	if a.opts.Exact && !m.Incomplete {
		a.removeOthers(n, m, stripped, report)
	}
	for _, x := range m.Xattrs {
		if stripped && x.Name == capabilityXattr || invented(x.Name, x.Value) {
			continue
		}
		err := setOne(x)
		if isErrno(err, unix.ENOSPC) && a.opts.Exact && n.removeXattr(x.Name) == nil {
			// There is no room for the old value and the new one at once.
			err = setOne(x)
		}
		report(x.Name, err)
	}
	return problems
}

// removeOthers removes the attributes that the metadata does not have. That comes
// before the others are set: the room for attributes is small.
func (a *Applier) removeOthers(n *node, m *inode.Metadata, stripped bool, report func(string, error)) {
	names, err := n.listXattrs()
	report("*", err)
	for _, name := range names {
		_, has := slices.BinarySearchFunc(m.Xattrs, name, func(x inode.Xattr, name string) int { return strings.Compare(x.Name, name) })
		if has && !(stripped && name == capabilityXattr) || !carried(name) {
			continue
		}
		if err := n.removeXattr(name); !isErrno(err, unix.ENODATA) {
			report(name, err)
		}
	}
}

// carried reports whether an attribute belongs to the tree, not to the system.
func carried(name string) bool {
	if invented(name, nil) {
		return false
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		strings.HasPrefix(name, "system.posix_acl_") || name == capabilityXattr
}
