// Package posix reads and applies what POSIX and Linux know about a node of a
// file system: type, owner, mode, times, extended attributes, holes.
//
// Every call takes the descriptor of a directory and a single name in it, or
// the descriptor of the node itself. Paths are never resolved, so trees deeper
// than PATH_MAX are no special case and an exchanged symbolic link leads
// nowhere. Errors name the operation (os.SyscallError); the caller, who knows
// the path, adds it. Extended attributes of nodes that cannot be opened are
// reached through /proc/self/fd, which must be mounted. Linux 4.11 or later.
package posix

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// Stat is what the kernel knows of one node.
type Stat struct {
	Type         inode.Type // 0 for a type that inode does not know
	Mode         uint32     // 0o7777
	UID, GID     uint32
	Nlink        uint32
	Size         uint64 // bytes
	Blocks       uint64 // allocated, of 512 bytes
	Mtime, Ctime inode.Time
	Ino          uint64
	Dev          uint64 // major<<32 | minor
	Rdev         uint64 // major<<32 | minor, of devices
}

// DevIno identifies a node among all that exist at the same time.
type DevIno struct{ Dev, Ino uint64 }

// ID of the node.
func (st *Stat) ID() DevIno { return DevIno{st.Dev, st.Ino} }

const statFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT

// StatAt describes the node name in a directory; a symbolic link itself, not
// what it points to.
func StatAt(dirfd int, name string) (Stat, error) {
	b := make([]byte, len(name)+1)
	copy(b, name)
	var st Stat
	err := st.ReadAt(dirfd, b, false)
	return st, err
}

// StatFd describes the node of an open descriptor, O_PATH included.
func StatFd(fd int) (Stat, error) {
	var st Stat
	err := st.read(fd, []byte{0}, unix.AT_EMPTY_PATH)
	return st, err
}

// CurrentStatFd is StatFd with the attributes that the file system has now,
// whatever the kernel remembers of them. On a local file system it costs
// nothing more; on others it is a request.
func CurrentStatFd(fd int) (Stat, error) {
	var st Stat
	err := st.read(fd, []byte{0}, unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC)
	return st, err
}

// ReadAt is StatAt without allocation. The name must end with a NUL. With
// current set the file system is asked, as in CurrentStatFd.
func (st *Stat) ReadAt(dirfd int, name []byte, current bool) error {
	if current {
		return st.read(dirfd, name, statFlags|unix.AT_STATX_FORCE_SYNC)
	}
	return st.read(dirfd, name, statFlags|unix.AT_STATX_DONT_SYNC)
}

func (st *Stat) read(dirfd int, name []byte, flags int) error {
	if len(name) == 0 || name[len(name)-1] != 0 {
		return os.NewSyscallError("statx", unix.EINVAL)
	}
	var x unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
			uintptr(flags), unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&x)), 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return os.NewSyscallError("statx", errno)
		}
	}
	*st = Stat{
		Type: typeOf(uint32(x.Mode)), Mode: uint32(x.Mode) & 0o7777,
		UID: x.Uid, GID: x.Gid, Nlink: x.Nlink, Size: x.Size, Blocks: x.Blocks,
		Mtime: inode.Time{Sec: x.Mtime.Sec, Nsec: x.Mtime.Nsec},
		Ctime: inode.Time{Sec: x.Ctime.Sec, Nsec: x.Ctime.Nsec},
		Ino:   x.Ino,
		Dev:   uint64(x.Dev_major)<<32 | uint64(x.Dev_minor),
	}
	if st.Type == inode.CharDevice || st.Type == inode.BlockDevice {
		st.Rdev = uint64(x.Rdev_major)<<32 | uint64(x.Rdev_minor)
	}
	return nil
}

func typeOf(mode uint32) inode.Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return inode.File
	case unix.S_IFDIR:
		return inode.Dir
	case unix.S_IFLNK:
		return inode.Symlink
	case unix.S_IFIFO:
		return inode.Fifo
	case unix.S_IFSOCK:
		return inode.Socket
	case unix.S_IFCHR:
		return inode.CharDevice
	case unix.S_IFBLK:
		return inode.BlockDevice
	}
	return 0
}

// retry calls fn until it is not interrupted by a signal, which network and
// FUSE file systems let happen.
func retry(op string, fn func() error) error {
	_, err := retried(op, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

// retried is retry of a call that returns a value.
func retried[T any](op string, fn func() (T, error)) (T, error) {
	for {
		if v, err := fn(); err != unix.EINTR {
			return v, os.NewSyscallError(op, err)
		}
	}
}
