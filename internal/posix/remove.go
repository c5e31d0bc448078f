package posix

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// ErrMounted: something is mounted on a directory.
var ErrMounted = errors.New("something is mounted here: it was not removed")

// RemovePath removes what is at a path, as RemoveAll does. Links on the way to the directory
// that it is in are followed. A directory that does not exist is no error.
func RemovePath(path string) error {
	d, err := OpenDir(unix.AT_FDCWD, filepath.Dir(path))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = RemoveAll(d, filepath.Base(path))
		_ = unix.Close(d)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// RemoveAll removes the node name in a directory and, when it is a directory,
// all below it. It follows no link, and enters nothing that is mounted below:
// the error is ErrMounted then. What does not exist is no error. Directories
// below that belong to this user and refuse him are given the rights that
// removing them takes, and flags that forbid it are taken away.
func RemoveAll(dirfd int, name string) error {
	unlink := func() error { return unix.Unlinkat(dirfd, name, 0) }
	err := retry("unlinkat", unlink)
	if errors.Is(err, unix.EPERM) {
		if fd, _, oerr := OpenFile(dirfd, name); oerr == nil {
			if did, _ := Unlock(fd); did {
				err = retry("unlinkat", unlink)
			}
			unix.Close(fd)
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	mounted, merr := Mounted(dirfd, name)
	if merr != nil {
		return merr
	}
	if mounted {
		return fmt.Errorf("%s: %w", name, ErrMounted)
	}
	fd, derr := OpenDir(dirfd, name)
	if errors.Is(derr, unix.EACCES) && ChmodDir(dirfd, name, 0o700) == nil {
		fd, derr = OpenDir(dirfd, name)
	}
	if errors.Is(derr, unix.ENOTDIR) {
		return err
	}
	if derr != nil {
		return derr
	}
	defer unix.Close(fd)
	if _, err := Unlock(fd); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	err = removeBelow(fd)
	if errors.Is(err, unix.EACCES) && unix.Fchmod(fd, 0o700) == nil {
		err = removeBelow(fd)
	}
	if err != nil {
		return err
	}
	return retry("rmdir", func() error { return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR) })
}

func removeBelow(fd int) error {
	var names []string
	err := ReadDir(fd, make([]byte, DirBuffer), func(name []byte, _ inode.Type) error {
		names = append(names, string(name))
		return nil
	})
	for _, n := range names { // it goes on after errors, and returns the first
		if nerr := RemoveAll(fd, n); err == nil {
			err = nerr
		}
	}
	return err
}

// Mounted reports whether name in a directory is a directory on which something
// is mounted. It takes Linux 5.6; on an older one a mount of the same file
// system does not show.
func Mounted(dirfd int, name string) (bool, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
	fd, err := retried("openat2", func() (int, error) { return unix.Openat2(dirfd, name, &how) })
	switch {
	case err == nil:
		unix.Close(fd)
		return false, nil
	case errors.Is(err, unix.EXDEV):
		return true, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOENT):
		return false, nil
	case !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM): // sandboxes refuse what they do not know
		return false, err
	}
	var at, above unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &at, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if err := unix.Fstat(dirfd, &above); err != nil {
		return false, err
	}
	return at.Dev != above.Dev && at.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
