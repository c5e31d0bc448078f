package generation

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// clone makes a tree that shares the content of another, and returns how; empty, with
// nothing made, where the file system cannot. Subvolumes all have the same inode number, so
// where that shows which generation is live they are not used.
func clone(ctx context.Context, from, to string, without []string, subvolumes bool) (string, error) {
	if subvolumes && subvolume(from, to) == nil {
		return "btrfs snapshot of the live one", nil
	}
	if err := makeTop(to, subvolumes); err != nil {
		return "", err
	}
	_, err := copyTree(ctx, from, to, without, true)
	if errors.Is(err, errNoReflink) {
		return "", removePath(to)
	}
	return "clone of the live one by reflinks", err
}

// makeTop makes an empty directory: on btrfs a subvolume, if it may be one, of which the next
// generation can be a snapshot.
func makeTop(path string, subvolumes bool) error {
	if subvolumes && btrfs(filepath.Dir(path), btrfsCreate, filepath.Base(path), -1) == nil {
		return os.Chmod(path, 0o700)
	}
	return os.Mkdir(path, 0o700)
}

func removePath(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return posix.RemoveAll(int(d.Fd()), filepath.Base(path))
}

// Numbers of btrfs: BTRFS_IOC_SUBVOL_CREATE_V2, BTRFS_IOC_SNAP_CREATE_V2, and the inode of the
// top of each subvolume.
const (
	btrfsCreate   = 0x50009418
	btrfsSnapshot = 0x50009417
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
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return errno
	}
	return nil
}

// subvolume makes a snapshot of a tree that is one.
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
	links    map[posix.DevIno]string
	dirs     []dirCopy
	reflinks bool
}

// dirCopy is a directory whose metadata is applied after all that is in it.
type dirCopy struct {
	rel  string
	meta inode.Metadata
}

// copyTree copies a tree, with all metadata, except the paths of without.
// It reports whether all content is shared.
func copyTree(ctx context.Context, from, to string, without []string, onlyRefs bool) (shared bool, err error) {
	root, err := posix.OpenDir(unix.AT_FDCWD, to)
	if err != nil {
		return false, err
	}
	dirs, err := posix.NewDirs(root, posix.DirsLimit)
	if err != nil {
		return false, err
	}
	defer dirs.Close()
	c := &copier{to: dirs, applier: posix.NewApplier(posix.ApplyOptions{KeepOwner: os.Geteuid() != 0}), onlyRefs: onlyRefs, links: map[posix.DevIno]string{}, reflinks: true}
	prefix := manifest.EntryPath(from)
	err = walk.Walk(ctx, walk.Options{Sources: []walk.Source{{Path: from}}}, func(n *walk.Node) error {
		if n.Dir != nil {
			defer n.Dir.Release()
		}
		if n.Implied || !manifest.Within(n.Path, prefix) {
			return nil
		}
		rel := strings.TrimPrefix(n.Path[len(prefix):], "/")
		if slices.ContainsFunc(without, func(p string) bool { return manifest.Within(rel, p) }) {
			return nil
		}
		err := n.Err
		if err == nil {
			err = c.node(n, rel)
		}
		if err != nil && !errors.Is(err, errNoReflink) {
			err = fmt.Errorf("%s: %w", filepath.Join(from, rel), err)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for _, d := range slices.Backward(c.dirs) {
		h, err := dirs.Get(d.rel)
		if err == nil {
			err = applied(c.applier.Apply(h.FD(), d.meta))
			h.Release()
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", filepath.Join(to, d.rel), err)
		}
	}
	return c.reflinks, nil
}

func applied(problems []*posix.Problem) error {
	for _, p := range problems {
		return p
	}
	return nil
}

func (c *copier) node(n *walk.Node, rel string) error {
	in, err := n.Dir.Open()
	if err != nil {
		return err
	}
	fd, st, err := posix.OpenNode(in, n.Name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m := inode.Metadata{Type: st.Type, Mode: st.Mode, UID: st.UID, GID: st.GID, Mtime: st.Mtime}
	if m.Xattrs, err = posix.NodeXattrs(fd); err != nil {
		return err
	}
	if st.Type == inode.Dir {
		c.dirs = append(c.dirs, dirCopy{strings.Clone(rel), m})
		if rel == "" {
			return nil
		}
	}
	dir, name := filepath.Split(rel)
	out, err := c.to.Get(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer out.Release()
	if st.Type != inode.Dir && st.Nlink > 1 {
		if first, ok := c.links[st.ID()]; ok {
			return c.link(first, out, name)
		}
		c.links[st.ID()] = strings.Clone(rel)
	}
	switch st.Type {
	case inode.Dir:
		return unix.Mkdirat(out.FD(), name, 0o700)
	case inode.File:
		return c.file(in, n.Name, out.FD(), name, m)
	case inode.Symlink:
		var target string
		if target, err = posix.Readlink(fd, ""); err == nil {
			err = unix.Symlinkat(target, out.FD(), name)
		}
	default:
		err = posix.Mknod(out.FD(), name, st.Type, st.Rdev)
	}
	if err != nil {
		return err
	}
	return applied(c.applier.ApplyAt(out.FD(), name, m))
}

// link gives what was copied already another name.
func (c *copier) link(first string, out *posix.Dir, name string) error {
	dir, base := filepath.Split(first)
	h, err := c.to.Get(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer h.Release()
	return unix.Linkat(h.FD(), base, out.FD(), name, 0)
}

func (c *copier) file(in int, name string, out int, as string, m inode.Metadata) error {
	from, _, err := posix.OpenFile(in, name)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(from), name)
	defer src.Close()
	to, err := unix.Openat(out, as, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(to), as)
	defer dst.Close()
	if err = unix.EOPNOTSUPP; c.reflinks {
		err = unix.IoctlFileClone(to, from)
	}
	if err != nil {
		if c.reflinks = false; c.onlyRefs {
			return errNoReflink
		}
		if _, err := io.Copy(dst, src); err != nil { // in the kernel, where it can
			return err
		}
	}
	return applied(c.applier.Apply(to, m))
}

// Copy returns a Fill that copies a directory, by reflinks where the file system can.
func Copy(from string, without []string) func(ctx context.Context, dir string, cloned bool) error {
	return func(ctx context.Context, dir string, _ bool) error {
		_, err := copyTree(ctx, from, dir, without, false)
		return err
	}
}
