package posix

import (
	"errors"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/manifest"
)

// RemoveAll removes the node name in a directory and, when it is a directory,
// all below it. It follows no link. What does not exist is no error.
func RemoveAll(dirfd int, name string) error {
	err := retry("unlinkat", func() error { return unix.Unlinkat(dirfd, name, 0) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, derr := OpenDir(dirfd, name)
	if errors.Is(derr, unix.ENOTDIR) {
		return err
	}
	if derr != nil {
		return derr
	}
	err = removeBelow(fd)
	unix.Close(fd)
	if err != nil {
		return err
	}
	return retry("rmdir", func() error { return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR) })
}

func removeBelow(fd int) error {
	var names []string
	err := ReadDir(fd, make([]byte, DirBuffer), func(name []byte, _ manifest.Type) error {
		names = append(names, string(name))
		return nil
	})
	for _, n := range names {
		if err != nil {
			break
		}
		err = RemoveAll(fd, n)
	}
	return err
}
