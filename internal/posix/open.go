package posix

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// ErrNotRegular: a node to be read is not a regular file (any more).
var ErrNotRegular = errors.New("not a regular file")

// OpenFile opens a regular file for reading and describes what was opened, as
// CurrentStatFd does. It follows no link and waits for no fifo or device. It leaves the
// access time unchanged where the kernel allows that. The caller closes the descriptor.
func OpenFile(dirfd int, name string) (int, Stat, error) {
	fd, err := openNoatime(dirfd, name, unix.O_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
			err = ErrNotRegular
		}
		return -1, Stat{}, err
	}
	st, err := CurrentStatFd(fd)
	if err == nil && st.Type != inode.File {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return -1, Stat{}, err
	}
	return fd, st, nil
}

// OpenDir opens a directory for listing, following no link. The caller closes
// the descriptor.
func OpenDir(dirfd int, name string) (int, error) {
	return openNoatime(dirfd, name, unix.O_DIRECTORY)
}

// openNoatime opens for reading, following no link.
func openNoatime(dirfd int, name string, flags int) (int, error) {
	return noatime(dirfd, name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
}

// noatime opens with O_NOATIME, which is refused to those who neither own the node nor are
// privileged.
func noatime(dirfd int, name string, flags int) (int, error) {
	fd, err := openat(dirfd, name, flags|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		fd, err = openat(dirfd, name, flags)
	}
	return fd, err
}

// openPath opens a node of any type as a mere reference to it.
func openPath(dirfd int, name string) (int, error) {
	return openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
}

func openat(dirfd int, name string, flags int) (int, error) {
	return retried("openat", func() (int, error) { return unix.Openat(dirfd, name, flags, 0) })
}

// OpenNode opens the node name in a directory, of any type, as a reference to
// it (O_PATH), and describes what was opened. The caller closes the descriptor.
func OpenNode(dirfd int, name string) (int, Stat, error) {
	fd, err := openPath(dirfd, name)
	if err != nil {
		return -1, Stat{}, err
	}
	st, err := StatFd(fd)
	if err != nil {
		unix.Close(fd)
		return -1, Stat{}, err
	}
	return fd, st, nil
}

// OpenAgain opens for reading the regular file that OpenNode opened, whatever has its name by
// now. The caller closes the descriptor.
func OpenAgain(fd int) (int, error) {
	return noatime(unix.AT_FDCWD, procPath(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
}

// Readlink is the target of a symbolic link, however long. The empty name is
// the link that dirfd was opened from, by OpenNode.
func Readlink(dirfd int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := retried("readlinkat", func() (int, error) { return unix.Readlinkat(dirfd, name, buf) })
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Mknod makes a fifo, socket or device with mode 0600; rdev is major<<32 | minor.
// ApplyAt applies its metadata.
func Mknod(dirfd int, name string, t inode.Type, rdev uint64) error {
	var kind uint32
	switch t {
	case inode.Fifo:
		kind = unix.S_IFIFO
	case inode.Socket:
		kind = unix.S_IFSOCK
	case inode.CharDevice:
		kind = unix.S_IFCHR
	case inode.BlockDevice:
		kind = unix.S_IFBLK
	default:
		return os.NewSyscallError("mknodat", unix.EINVAL)
	}
	dev := unix.Mkdev(uint32(rdev>>32), uint32(rdev))
	return retry("mknodat", func() error { return unix.Mknodat(dirfd, name, kind|0o600, int(dev)) })
}
