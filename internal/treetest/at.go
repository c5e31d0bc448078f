package treetest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// root is an open directory, from which nodes are reached by relative paths of
// any length. The path of the directory itself is "".
type root struct{ fd int }

func openRoot(dir string) (root, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return root{}, fmt.Errorf("opening the directory %s: %w", dir, err)
	}
	return root{fd}, nil
}

func (r root) close() { unix.Close(r.fd) }

// at calls f with an open descriptor of the directory that holds path, and the
// name of path in it. The descriptor is closed afterwards.
func (r root) at(path string, f func(dirfd int, name string) error) error {
	if path == "" {
		return f(r.fd, ".")
	}
	dirfd := r.fd
	for {
		name, rest, deeper := strings.Cut(path, "/")
		if !deeper {
			break
		}
		next, err := unix.Openat(dirfd, name, openDir, 0)
		if dirfd != r.fd {
			unix.Close(dirfd)
		}
		if err != nil {
			return fmt.Errorf("opening the directory %q: %w", name, err)
		}
		dirfd, path = next, rest
	}
	if dirfd != r.fd {
		defer unix.Close(dirfd)
	}
	return f(dirfd, path)
}

// withFile calls f with an open regular file.
func (r root) withFile(path string, flags int, f func(*os.File) error) error {
	return r.at(path, func(dirfd int, name string) error {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("opening the file %q: %w", name, err)
		}
		file := os.NewFile(uintptr(fd), name)
		if err := f(file); err != nil {
			file.Close()
			return err
		}
		return file.Close()
	})
}

func (r root) lstat(path string) (st unix.Stat_t, err error) {
	err = r.at(path, func(dirfd int, name string) error {
		return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// visit is called for a node with the descriptor of the directory that holds
// it and its name there.
type visit func(path string, dirfd int, name string, st *unix.Stat_t) error

// walk visits the root and everything below it, directories before what they
// hold.
func (r root) walk(f visit) error { return walkAt(r.fd, ".", "", f) }

func walkAt(dirfd int, name, path string, f visit) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("reading the status of %q: %w", path, err)
	}
	if err := f(path, dirfd, name, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return eachEntry(dirfd, name, func(fd int, entry string) error {
		below := entry
		if path != "" {
			below = path + "/" + entry
		}
		return walkAt(fd, entry, below, f)
	})
}

// eachEntry calls f for every name in a directory, with its descriptor.
func eachEntry(dirfd int, name string, f func(fd int, entry string) error) error {
	fd, err := unix.Openat(dirfd, name, openDir, 0)
	if err != nil {
		return fmt.Errorf("opening the directory %q: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("reading the directory %q: %w", name, err)
	}
	for _, entry := range entries {
		if err := f(fd, entry); err != nil {
			return err
		}
	}
	return nil
}

// removeAt removes a node with all below it.
func removeAt(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	// The owner may always give himself the rights to empty a directory.
	if err := unix.Fchmodat(dirfd, name, 0o700, 0); err != nil {
		return err
	}
	if err := eachEntry(dirfd, name, removeAt); err != nil {
		return err
	}
	return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
}

// procPath is a path for the calls on xattrs, which take no descriptor of a
// directory. It does not lead through name when that is a symbolic link.
func procPath(dirfd int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dirfd, name)
}
