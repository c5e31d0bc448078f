package generation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Cloning is how a tree is cloned.
type Cloning struct {
	Without []string // paths that are left out
	// Subvolumes allows btrfs subvolumes. These all have the same inode number, so where that
	// shows which generation is live they are not used.
	Subvolumes bool
	OnlyShared bool // nothing is made where the file system cannot share content
	// Unread, when set, gets what cannot be read, and is left out; else it is an error.
	Unread func(path string, err error)
}

// CloneTree makes a copy of a tree at a path that does not exist, with all metadata, and
// returns how: a snapshot of its subvolume, reflinks, or else copies of its content; empty
// where nothing was made. No link of the tree is followed.
func CloneTree(ctx context.Context, from, to string, o Cloning) (way string, err error) {
	if o.Subvolumes && subvolume(from, to) == nil {
		return "btrfs snapshot", nil
	}
	if err := MakeTop(to, o.Subvolumes); err != nil {
		return "", err
	}
	shared, err := copyTree(ctx, from, to, o)
	switch {
	case errors.Is(err, errNoReflink):
		return "", posix.RemovePath(to)
	case shared:
		return "reflinks", err
	}
	return "copies", err
}

// MakeTop makes an empty directory for a tree, only for its owner: on btrfs a subvolume, if it
// may be one, of which others can be snapshots.
func MakeTop(path string, subvolumes bool) error {
	if subvolumes && btrfs(filepath.Dir(path), btrfsCreate, filepath.Base(path), -1) == nil {
		return os.Chmod(path, 0o700)
	}
	return os.Mkdir(path, 0o700)
}

// Numbers of btrfs: BTRFS_IOC_SUBVOL_CREATE_V2, BTRFS_IOC_SNAP_CREATE_V2,
// BTRFS_IOC_GET_SUBVOL_ROOTREF, and the inode of the top of each subvolume.
const (
	btrfsCreate   = 0x50009418
	btrfsSnapshot = 0x50009417
	btrfsWithin   = 0xd000943d
	btrfsTop      = 256
)

// btrfs makes a subvolume in a directory.
func btrfs(dir string, request uintptr, name string, of int) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.BTRFS_SUPER_MAGIC {
		return unix.EOPNOTSUPP
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	args := struct { // btrfs_ioctl_vol_args_v2
		fd, transid, flags uint64
		unused             [4]uint64
		name               [4040]byte
	}{fd: uint64(int64(of))}
	copy(args.name[:len(args.name)-1], name)
	return ioctl(int(d.Fd()), request, unsafe.Pointer(&args))
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// subvolume makes a snapshot of a tree that is one. Of a subvolume within it, a snapshot would
// have an empty directory that nobody can write in, so where there is one nothing is made.
func subvolume(from, to string) error {
	st, err := posix.StatAt(unix.AT_FDCWD, from)
	if err != nil || st.Ino != btrfsTop {
		return unix.EOPNOTSUPP
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	within := struct { // btrfs_ioctl_get_subvol_rootref_args
		from  uint64
		refs  [255][2]uint64
		count uint8
		_     [7]byte
	}{}
	if err := ioctl(int(f.Fd()), btrfsWithin, unsafe.Pointer(&within)); err != nil || within.count > 0 {
		return unix.EOPNOTSUPP
	}
	return btrfs(filepath.Dir(to), btrfsSnapshot, filepath.Base(to), int(f.Fd()))
}

// errNoReflink: the file system cannot share content.
var errNoReflink = errors.New("the file system has no reflinks")

// copier copies a tree into an empty directory, by descriptors: no link of either is
// followed, and no hard link is made to what it reads.
type copier struct {
	to       *posix.Dirs
	applier  *posix.Applier
	onlyRefs bool // errNoReflink where content would have to be copied
	replace  bool // what is there is replaced, by one rename, and keeps its inode flags
	itself   bool // what is read is what is replaced, so that a file has fewer names each time
	// there are directories that may be given the metadata of what is copied, where others could
	// exchange them: those of these paths, and new ones. Nil allows all.
	there    map[string]posix.DevIno
	failed   error // of directories
	links    map[posix.DevIno]copied
	made     posix.Stat // of what was made last
	dirs     []dirCopy
	flags    map[string]uint32 // inode flags that finish gives back, by path
	reflinks bool
}

// copied is what was made of a node with several names.
type copied struct {
	rel string
	st  posix.Stat
}

// dirCopy is a directory whose metadata is applied after all that is in it.
type dirCopy struct {
	rel  string
	meta inode.Metadata
	id   posix.DevIno // of what gets it; zero for any
}

// newCopier copies into a directory, of which one that replaces what is there makes the
// metadata exact.
func newCopier(to string, replace bool) (*copier, error) {
	root, err := posix.OpenDir(unix.AT_FDCWD, to)
	if err != nil {
		return nil, err
	}
	dirs, err := posix.NewDirs(root, posix.DirsLimit)
	if err != nil {
		return nil, err
	}
	return &copier{to: dirs, applier: posix.NewApplier(posix.ApplyOptions{KeepOwner: os.Geteuid() != 0, Exact: replace}), replace: replace, links: map[posix.DevIno]copied{}, flags: map[string]uint32{}, reflinks: true}, nil
}

// copyTree copies a tree, with all metadata. It reports whether all content is shared.
func copyTree(ctx context.Context, from, to string, o Cloning) (shared bool, err error) {
	c, err := newCopier(to, false)
	if err != nil {
		return false, err
	}
	defer c.to.Close()
	c.onlyRefs = o.OnlyShared
	err = eachBelow(ctx, from, o.Unread, func(n *walk.Node, rel string) error {
		if slices.ContainsFunc(o.Without, func(p string) bool { return manifest.Within(rel, p) }) {
			return nil
		}
		return c.node(n, rel)
	})
	if err != nil {
		return false, err
	}
	return c.reflinks, c.finish()
}

// unreadError is about a node that cannot be read.
type unreadError struct{ error }

func (e *unreadError) Unwrap() error { return e.error }

// eachBelow calls do with each node of a tree, by its path below the top. What cannot be read is
// an error, or left out where unread, which gets it, is not nil; then the tree is in use, and what
// goes meanwhile is left out, too.
func eachBelow(ctx context.Context, top string, unread func(rel string, err error), do func(n *walk.Node, rel string) error) error {
	prefix := manifest.EntryPath(top)
	return walk.Walk(ctx, walk.Options{Sources: []walk.Source{{Path: top}}}, func(n *walk.Node) error {
		defer n.Dir.Release()
		if n.Implied || n.Gone || !manifest.Within(n.Path, prefix) {
			return nil
		}
		rel, err := strings.TrimPrefix(n.Path[len(prefix):], "/"), error(nil)
		if n.Err != nil {
			err = &unreadError{n.Err}
		} else {
			err = do(n, rel)
		}
		if lost := (*unreadError)(nil); unread != nil && rel != "" && errors.As(err, &lost) {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, walk.ErrReplaced) {
				unread(rel, lost.error)
			}
			return nil
		}
		if err != nil && !errors.Is(err, errNoReflink) {
			err = fmt.Errorf("%s: %w", filepath.Join(top, rel), err)
		}
		return err
	})
}

// unlock takes the inode flags away that forbid to replace a file, or to change what is in
// a directory, until finish. What they forbid fails where they cannot be taken away.
func (c *copier) unlock(fd int, rel string) bool {
	flags, _, _ := posix.InodeFlags(fd)
	did, _ := posix.Unlock(fd)
	if did {
		c.flags[rel] = flags
	}
	return did
}

// open makes what is in a directory changeable, until its metadata is applied.
func (c *copier) open(rel string) {
	d, err := c.to.Get(rel)
	if err != nil {
		return // it is gone
	}
	defer d.Release()
	if d.Readable {
		c.unlock(d.FD(), rel)
	}
	if mode := d.Stat.Mode | 0o700; os.Geteuid() != 0 && mode != d.Stat.Mode {
		_ = posix.Chmod(d.FD(), mode) // as with flags
	}
}

// rename gives what was made its name, also where inode flags forbid to replace a file.
func (c *copier) rename(dirfd int, as, name, rel string) error {
	err := unix.Renameat(dirfd, as, dirfd, name)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, _, oerr := posix.OpenFile(dirfd, name)
	if oerr != nil {
		return err
	}
	defer unix.Close(fd)
	if c.unlock(fd, strings.Clone(rel)) {
		err = unix.Renameat(dirfd, as, dirfd, name)
	}
	return err
}

// protect gives the flags again that unlock took away.
func (c *copier) protect() error {
	for rel, flags := range c.flags {
		in, err := c.to.Get(parentOf(rel))
		if err != nil {
			continue // it was added, and is gone
		}
		fd, _, err := posix.OpenFile(in.FD(), filepath.Base(rel))
		if errors.Is(err, posix.ErrNotRegular) {
			fd, err = posix.OpenDir(in.FD(), filepath.Base(rel))
		}
		in.Release()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			if p := posix.Protect(fd, flags); p != nil {
				err = p
			}
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
	}
	return nil
}

// finish applies the metadata of directories.
func (c *copier) finish() error {
	for _, d := range slices.Backward(c.dirs) {
		h, err := c.to.Get(d.rel)
		if err == nil {
			if err = errExchanged; d.id == (posix.DevIno{}) || d.id == h.Stat.ID() {
				err = c.apply(h.FD(), d.meta)
			}
			h.Release()
		}
		if err != nil {
			c.failed = cmp.Or(c.failed, fmt.Errorf("%s: %w", d.rel, err))
		}
	}
	return errors.Join(c.failed, c.protect())
}

// apply applies metadata to an open file or directory.
func (c *copier) apply(fd int, m inode.Metadata) error {
	if c.replace && !c.itself {
		m.Flags, _, _ = posix.InodeFlags(fd) // where there are none it stays 0
	}
	return applied(c.applier.Apply(fd, m))
}

func applied(problems []*posix.Problem) error {
	for _, p := range problems {
		return p
	}
	return nil
}

// metadataOf is what is copied of an open node besides its content.
func metadataOf(fd int, st *posix.Stat) (m inode.Metadata, err error) {
	m = inode.Metadata{Type: st.Type, Mode: st.Mode, UID: st.UID, GID: st.GID, Mtime: st.Mtime}
	m.Xattrs, err = posix.NodeXattrs(fd)
	return m, err
}

func (c *copier) node(n *walk.Node, rel string) error {
	in, err := n.Dir.Open()
	if err != nil {
		return &unreadError{err}
	}
	fd, st, err := posix.OpenNode(in, n.Name)
	if err != nil {
		return &unreadError{err}
	}
	defer unix.Close(fd)
	m, err := metadataOf(fd, &st)
	if err != nil {
		return &unreadError{err}
	}
	if st.Type == inode.Dir && rel == "" {
		c.dirs = append(c.dirs, dirCopy{rel, m, c.there[rel]})
		return nil
	}
	name := filepath.Base(rel)
	out, err := c.above(rel)
	if errors.Is(err, errExchanged) { // all else goes on
		c.failed = cmp.Or(c.failed, err)
		return nil
	}
	if err != nil {
		return err
	}
	defer out.Release()
	if st.Type == inode.Dir {
		made, err := c.dir(out, name, rel)
		id := st.ID()
		if err == nil && !c.itself {
			id, err = c.gets(rel, made)
		}
		if errors.Is(err, errExchanged) { // all else goes on
			c.failed = cmp.Or(c.failed, fmt.Errorf("%s: %w", rel, err))
			return nil
		}
		c.dirs = append(c.dirs, dirCopy{strings.Clone(rel), m, id})
		return err
	}
	as := name
	if c.replace {
		if as = tempName; posix.RemoveAll(out.FD(), as) != nil {
			return fmt.Errorf("%s is in the way", as)
		}
	}
	if first, ok := c.links[st.ID()]; ok && (st.Nlink > 1 || c.itself) {
		err = c.link(first, out, as)
	} else {
		err = c.make(fd, &st, out.FD(), as, m)
	}
	if err != nil {
		return err
	}
	if _, known := c.links[st.ID()]; st.Nlink > 1 && !known {
		c.links[st.ID()] = copied{strings.Clone(rel), c.made}
	}
	if !c.replace {
		return nil
	}
	if err = c.rename(out.FD(), as, name, rel); errors.Is(err, unix.EISDIR) {
		c.to.Forget(rel)
		if err = unix.Unlinkat(out.FD(), name, unix.AT_REMOVEDIR); err == nil {
			err = unix.Renameat(out.FD(), as, out.FD(), name)
		}
	}
	return err
}

// tempName is what is put back before it replaces what is there. Where it is left, it is
// something that was added.
const tempName = ".knowngood-put-back"

// dir makes a directory, unless it is there and may be.
func (c *copier) dir(out *posix.Dir, name, rel string) (made bool, err error) {
	err = unix.Mkdirat(out.FD(), name, 0o700)
	if !c.replace || !errors.Is(err, unix.EEXIST) {
		return true, err
	}
	st, err := posix.StatAt(out.FD(), name)
	if err != nil || st.Type == inode.Dir {
		return false, err
	}
	c.to.Forget(rel)
	return true, errors.Join(posix.RemoveAll(out.FD(), name), unix.Mkdirat(out.FD(), name, 0o700))
}

// above opens the directory that a path lies in: the one that was there, or was made.
func (c *copier) above(rel string) (*posix.Dir, error) {
	dir := parentOf(rel)
	out, err := c.to.Get(dir)
	if want, known := c.there[dir]; err == nil && known && want != out.Stat.ID() {
		out.Release()
		return nil, fmt.Errorf("%s: %w", dir, errExchanged)
	}
	return out, err
}

var errExchanged = errors.New("another directory was put in its place meanwhile")

// gets is which directory gets metadata: the one that was there, or was made just now, and so is
// empty. Who may rename where it lies could put one of somebody else in its place, and own that.
func (c *copier) gets(rel string, made bool) (id posix.DevIno, err error) {
	if c.there == nil {
		return id, nil
	}
	h, err := c.to.Get(rel)
	if err != nil {
		return id, err
	}
	defer h.Release()
	id = h.Stat.ID()
	if !made && c.there[rel] != id {
		return id, errExchanged
	}
	if made {
		c.there[rel] = id
		err = posix.ReadDir(h.FD(), make([]byte, posix.DirBuffer), func([]byte, inode.Type) error { return errExchanged })
	}
	return id, err
}

// make makes what is no directory, of an open node.
func (c *copier) make(fd int, st *posix.Stat, out int, as string, m inode.Metadata) (err error) {
	switch st.Type {
	case inode.File:
		return c.file(fd, out, as, m)
	case inode.Symlink:
		var target string
		if target, err = posix.Readlink(fd, ""); err == nil {
			err = unix.Symlinkat(target, out, as)
		}
	default:
		err = posix.Mknod(out, as, st.Type, st.Rdev)
	}
	if err != nil {
		return err
	}
	if err := applied(c.applier.ApplyAt(out, as, m)); err != nil {
		return err
	}
	c.made, err = posix.StatAt(out, as)
	return err
}

// link gives what was copied already another name, unless somebody who may write in its
// directory put something else in its place.
func (c *copier) link(first copied, out *posix.Dir, name string) error {
	dir, base := filepath.Split(first.rel)
	h, err := c.to.Get(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer h.Release()
	if err := unix.Linkat(h.FD(), base, out.FD(), name, 0); err != nil {
		return err
	}
	st, err := posix.StatAt(out.FD(), name)
	if was := first.st; err == nil && (st.ID() != was.ID() || st.Type != was.Type || st.UID != was.UID || st.GID != was.GID || st.Mode != was.Mode || st.Size != was.Size || st.Mtime != was.Mtime) {
		err = errors.Join(fmt.Errorf("/%s, which is the same file, was replaced meanwhile", first.rel), posix.RemoveAll(out.FD(), name))
	}
	return err
}

// file copies an open node, so that content and metadata are those of one file: whoever may
// rename in its directory could have his own metadata given to a file that he cannot read.
func (c *copier) file(fd, out int, as string, m inode.Metadata) error {
	from, err := posix.OpenAgain(fd)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(from), as)
	defer src.Close()
	to, err := unix.Openat(out, as, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(to), as)
	defer dst.Close()
	if err = unix.EOPNOTSUPP; c.reflinks {
		if err = unix.IoctlFileClone(to, from); errors.Is(err, unix.EINVAL) { // btrfs shares with one of the same kind
			flags, _, _ := posix.InodeFlags(from)
			posix.SetEmptyFlags(to, flags)
			err = unix.IoctlFileClone(to, from)
		}
	}
	if err != nil {
		if c.reflinks = false; c.onlyRefs {
			return errNoReflink
		}
		if err := copyData(dst, src); err != nil {
			return err
		}
	}
	if c.itself {
		m.Flags, _, _ = posix.InodeFlags(from)
	}
	if err := c.apply(to, m); err != nil {
		return err
	}
	if c.itself { // there is no other copy, once it has its name
		if err := dst.Sync(); err != nil {
			return err
		}
	}
	c.made, err = posix.StatFd(to)
	return err
}

// copyData copies what of a file is no hole.
func copyData(dst, src *os.File) error {
	st, err := posix.StatFd(int(src.Fd()))
	if err == nil && !st.Sparse() {
		_, err = io.Copy(dst, io.LimitReader(src, int64(st.Size))) // in the kernel, where it can; not what is added meanwhile
		return err
	}
	var holes []inode.Extent
	if err == nil {
		holes, err = posix.Holes(int(src.Fd()), st.Size)
	}
	if err == nil {
		err = dst.Truncate(int64(st.Size))
	}
	at := uint64(0)
	for _, h := range append(holes, inode.Extent{Offset: st.Size}) {
		if err == nil && h.Offset > at {
			_, err = io.Copy(io.NewOffsetWriter(dst, int64(at)), io.NewSectionReader(src, int64(at), int64(h.Offset-at)))
		}
		at = h.Offset + h.Length
	}
	return err
}

// Copy returns a Fill that copies a directory, by reflinks where the file system can.
func Copy(from string, without []string) func(ctx context.Context, dir string, cloned bool) error {
	return func(ctx context.Context, dir string, _ bool) error {
		_, err := copyTree(ctx, from, dir, Cloning{Without: without})
		return err
	}
}
