package treetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// blockSize is how many bytes of content one hash covers.
const blockSize = 64 << 10

// Type of a node, as the S_IFMT bits of its mode.
type Type uint32

func (t Type) String() string {
	switch t {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return fmt.Sprintf("type %#o", uint32(t))
}

// Tree is what a directory held when Snapshot looked. Keys are paths relative
// to it; it is itself at "".
type Tree map[string]*Node

// Node is one node of a tree.
type Node struct {
	Type     Type
	Mode     uint32 // permission bits with setuid, setgid, sticky
	UID, GID uint32
	Mtime    time.Time
	Ctime    time.Time         // which no restore gives back: it is not compared
	Xattrs   map[string]string // by full name; ACLs and capabilities included
	Target   string            // symlinks
	Rdev     uint64            // devices, as the kernel reports it

	Size      int64      // files: bytes
	Content   [][32]byte // files: SHA-256 of each 64 KiB
	Holes     []Extent   // files: as SEEK_HOLE reports them
	Allocated int64      // files: bytes on disk

	inode inode
}

// Linked reports whether two nodes are names of one inode, or were when they
// were looked at.
func (n *Node) Linked(o *Node) bool { return n.inode == o.inode }

// Extent is a range of a file in bytes.
type Extent struct{ Offset, Length int64 }

type inode struct{ dev, ino uint64 }

// Snapshot reads everything below dir. It changes nothing but access times.
func Snapshot(t T, dir string) Tree {
	t.Helper()
	r, err := openRoot(dir)
	if err != nil {
		t.Fatalf("taking a snapshot: %v", err)
	}
	defer r.close()
	tree := make(Tree)
	err = r.walk(func(path string, dirfd int, name string, st *unix.Stat_t) error {
		node, err := readNode(dirfd, name, st)
		if err != nil {
			return fmt.Errorf("reading %q: %w", path, err)
		}
		tree[path] = node
		return nil
	})
	if err != nil {
		t.Fatalf("taking a snapshot of %s: %v", dir, err)
	}
	return tree
}

func readNode(dirfd int, name string, st *unix.Stat_t) (*Node, error) {
	n := &Node{
		Type:  Type(st.Mode & unix.S_IFMT),
		Mode:  st.Mode & 0o7777,
		UID:   st.Uid,
		GID:   st.Gid,
		Mtime: time.Unix(st.Mtim.Unix()).UTC(),
		Ctime: time.Unix(st.Ctim.Unix()).UTC(),
		inode: inode{uint64(st.Dev), st.Ino},
	}
	var err error
	if n.Xattrs, err = readXattrs(procPath(dirfd, name)); err != nil {
		return nil, err
	}
	switch n.Type {
	case unix.S_IFREG:
		n.Size = st.Size
		n.Allocated = st.Blocks * 512
		err = n.readContent(dirfd, name)
	case unix.S_IFLNK:
		n.Target, err = readLink(dirfd, name)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = uint64(st.Rdev)
	}
	return n, err
}

func readLink(dirfd int, name string) (string, error) {
	buf := make([]byte, 64<<10) // no file system has longer targets
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", fmt.Errorf("reading the target: %w", err)
	}
	return string(buf[:n]), nil
}

func readXattrs(path string) (map[string]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	buf := make([]byte, 64<<10) // the kernel's limit for a list and for a value
	if err == nil {
		n, err = unix.Llistxattr(path, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("listing xattrs: %w", err)
	}
	xattrs := make(map[string]string)
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return nil, fmt.Errorf("reading the xattr %q: %w", name, err)
		}
		xattrs[name] = string(buf[:n])
	}
	return xattrs, nil
}

func (n *Node) readContent(dirfd int, name string) error {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if n.Holes, err = readHoles(fd, n.Size); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, min(blockSize, n.Size+1))
	var length int64
	for {
		k, err := io.ReadFull(f, buf)
		if k > 0 {
			n.Content = append(n.Content, sha256.Sum256(buf[:k]))
			length += int64(k)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if length != n.Size {
		return fmt.Errorf("has %d bytes, its status has %d: it changed meanwhile", length, n.Size)
	}
	return nil
}

func readHoles(fd int, size int64) (holes []Extent, err error) {
	for pos := int64(0); pos < size; {
		data, err := unix.Seek(fd, pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = size, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for holes: %w", err)
		}
		if data > pos {
			holes = append(holes, Extent{pos, data - pos})
		}
		if data >= size {
			break
		}
		if pos, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("looking for holes: %w", err)
		}
	}
	return holes, nil
}
