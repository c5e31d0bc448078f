package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// root is a directory in which paths are looked up as if it were the root of the
// file system: links never lead out of it.
type root struct{ dir *os.File }

func openRoot(path string) (*root, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &root{os.NewFile(uintptr(fd), path)}, nil
}

func (r *root) Close() error { return r.dir.Close() }

func (r *root) openat(path string, flags uint64) (*os.File, error) {
	rel := strings.TrimLeft(path, "/")
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(int(r.dir.Fd()), rel, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// open opens a regular file for reading.
func (r *root) open(path string) (*os.File, error) {
	f, err := r.openat(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// resolve returns the path below the root to which a path leads, with "/" in front;
// "/" for the root itself.
func (r *root) resolve(path string) (string, error) {
	f, err := r.openat(path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer f.Close()
	at, err1 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	top, err2 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.dir.Fd()))
	rel, err3 := filepath.Rel(top, at)
	return filepath.Join("/", rel), errors.Join(err1, err2, err3)
}

// stat describes what is at a path, links followed.
func (r *root) stat(path string) (os.FileInfo, error) {
	f, err := r.openat(path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// hasEntry returns an error where a directory is empty: its size does not show that.
func (r *root) hasEntry(path string) error {
	f, err := r.openat(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); err == io.EOF {
		err = errors.New("it is an empty directory")
	}
	return err
}

// Exists reports whether a tree has something at a path.
func Exists(tree, path string) bool {
	r, err := openRoot(tree)
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = r.stat(path)
	return err == nil
}
