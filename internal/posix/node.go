package posix

import (
	"bytes"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// node is what metadata is applied to: an open descriptor, or a mere reference
// (O_PATH) for which some calls must take the way through /proc.
type node struct {
	fd   int
	open bool   // fd is open for reading or writing
	link bool   // a symbolic link: path is its own name in its directory
	path string // in /proc, of one that is not open
}

func (n *node) chown(uid, gid int) error {
	return retry("chown", func() error { return unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

func (n *node) chmod(mode uint32) error {
	return retry("chmod", func() error {
		if n.open {
			return unix.Fchmod(n.fd, mode)
		}
		return unix.Chmod(n.path, mode)
	})
}

func (n *node) setXattr(x inode.Xattr) error {
	return retry("setxattr", func() error {
		switch {
		case n.open:
			return unix.Fsetxattr(n.fd, x.Name, x.Value, 0)
		case n.link:
			return unix.Lsetxattr(n.path, x.Name, x.Value, 0)
		}
		return unix.Setxattr(n.path, x.Name, x.Value, 0)
	})
}

func (n *node) removeXattr(name string) error {
	return retry("removexattr", func() error {
		switch {
		case n.open:
			return unix.Fremovexattr(n.fd, name)
		case n.link:
			return unix.Lremovexattr(n.path, name)
		}
		return unix.Removexattr(n.path, name)
	})
}

func (n *node) listXattrs() ([]string, error) {
	var stack [1024]byte
	raw, err := grow("listxattr", stack[:], func(buf []byte) (int, error) {
		switch {
		case n.open:
			return unix.Flistxattr(n.fd, buf)
		case n.link:
			return unix.Llistxattr(n.path, buf)
		}
		return unix.Listxattr(n.path, buf)
	})
	if isErrno(err, unix.EOPNOTSUPP, unix.ENOSYS) {
		return nil, nil
	}
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var names []string
	for name := range bytes.SplitSeq(bytes.TrimSuffix(raw, []byte{0}), []byte{0}) {
		names = append(names, string(name))
	}
	return names, nil
}

// futimens is utimensat of a descriptor, without the way through /proc.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// errClamped: a file system cannot store a time.
var errClamped = errors.New("the file system cannot store this time and has stored another")

// SetMtime sets the mtime of an open node (not O_PATH) and leaves its access
// time unchanged.
func SetMtime(fd int, t inode.Time) error {
	n := node{fd: fd, open: true}
	return n.setMtime(t)
}

// Chmod sets the mode, at most 0o7777, of the node of a descriptor, O_PATH
// included; not of a symbolic link.
func Chmod(fd int, mode uint32) error {
	n := node{fd: fd, path: procPath(fd)}
	return n.chmod(mode)
}

// ChmodDir is Chmod of the directory name in a directory, whether this process
// may open it or not. It follows no symbolic link.
func ChmodDir(dirfd int, name string, mode uint32) error {
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)

	return Chmod(fd, mode)
}

// setMtime leaves the access time unchanged.
func (n *node) setMtime(t inode.Time) error {
	mtime, err := unix.TimeToTimespec(t.Time())
	if err != nil {
		return os.NewSyscallError("utimensat", err)
	}
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	err = retry("utimensat", func() error {
		switch {
		case n.open:
			return futimens(n.fd, &times)
		case n.link:
			return unix.UtimesNanoAt(unix.AT_FDCWD, n.path, times[:], unix.AT_SYMLINK_NOFOLLOW)
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, n.path, times[:], 0)
	})
	if err != nil || int64(int32(t.Sec)) == t.Sec {
		return err
	}
	// File systems store the nearest time that they can, without an error.
	st, err := StatFd(n.fd)
	if err == nil && st.Mtime != t {
		err = errClamped
	}
	return err
}
