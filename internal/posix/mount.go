package posix

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsMountPoint reports whether something is mounted at a path, whose symbolic
// links are followed.
func IsMountPoint(path string) (bool, error) {
	at, err := statxFollow(path)
	if err != nil {
		return false, err
	}
	if at.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return at.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}

	// Linux before 5.8, which does not show a directory that is mounted at
	// another place of the same file system.
	above, err := statxFollow(path + "/..")
	if err != nil {
		return false, err
	}
	otherDevice := at.Dev_major != above.Dev_major || at.Dev_minor != above.Dev_minor
	return otherDevice || at.Ino == above.Ino, nil
}

func statxFollow(path string) (st unix.Statx_t, err error) {
	err = retry("statx", func() error { return unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st) })
	if err != nil {
		err = &os.PathError{Op: "look for a mount point at", Path: path, Err: err}
	}
	return st, err
}
