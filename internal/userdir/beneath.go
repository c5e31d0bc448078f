package userdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errWalk means that the kernel did not resolve a path in one call: it has no
// such call, or something is in the way. A walk through an os.Root then finds the
// path, or returns what is wrong with it.
var errWalk = errors.New("not resolved in one call")

// beneath resolves paths below a directory with one call of the kernel each. As
// in an os.Root, links are followed, but none leads out of the directory.
type beneath struct {
	top  int    // descriptor
	name string // of the directory, for messages
}

// inOneCall calls do with the rights of the owner. It returns nil, an error that
// is fs.ErrNotExist or fs.ErrExist, or errWalk, after which nothing was done.
func (d Dir) inOneCall(name string, do func(b beneath, path string) error) error {
	if d.None() {
		return errWalk
	}
	top, err := unix.Open(d.top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errWalk
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return errWalk
	}

	path := filepath.Join(".", d.path, name)
	err = ownerOf(st.Uid, st.Gid).Do(func() error { return do(beneath{top, d.top}, path) })
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return err
	}
	return errWalk
}

func (b beneath) fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Join(b.name, path), Err: err}
}

// open opens what has the path.
func (b beneath) open(path string, flag int, mode uint64) (fd int, err error) {
	fd, err = unix.Openat2(b.top, path, &unix.OpenHow{Flags: uint64(flag | unix.O_CLOEXEC), Mode: mode, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	return fd, b.fail("open", path, err)
}

// openDir opens a directory in which names are to be looked up.
func (b beneath) openDir(path string) (fd int, err error) {
	return b.open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// regular opens a regular file, and returns its size.
func (b beneath) regular(path string, flag int) (fd int, size int64, err error) {
	mode := uint64(0)
	if flag&os.O_CREATE != 0 {
		mode = 0o600
	}
	fd, err = b.open(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	if err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, 0, errWalk
	}
	return fd, st.Size, nil
}

// openRegular opens a regular file.
func (b beneath) openRegular(path string, flag int) (*os.File, error) {
	fd, _, err := b.regular(path, flag)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(b.name, path)), nil
}

// read reads a regular file of at most so many bytes. It makes no os.File, which
// takes as many calls of the kernel again.
func (b beneath) read(path string, most int64) ([]byte, error) {
	fd, size, err := b.regular(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if size > most {
		return nil, errWalk
	}

	data := make([]byte, 0, size+1) // one more shows the end
	for len(data) < cap(data) {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, errWalk
		}
		if n == 0 {
			return data, nil
		}
		data = data[:len(data)+n]
	}
	return nil, errWalk // it grew meanwhile
}

// lstat describes what has the path, without following a link at its end.
func (b beneath) lstat(path string) (os.FileInfo, error) {
	fd, err := b.open(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), filepath.Join(b.name, path))
	defer f.Close()
	return f.Stat()
}

// inParent calls do with the directory that holds the last name of a path.
func (b beneath) inParent(path, op string, do func(parent int, name string) error) error {
	parent, err := b.openDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return b.fail(op, path, do(parent, filepath.Base(path)))
}

// rename gives what has the path another name in its directory.
func (b beneath) rename(from, path string) error {
	return b.inParent(path, "rename", func(parent int, name string) error { return unix.Renameat(parent, from, parent, name) })
}

// remove removes a file.
func (b beneath) remove(path string) error {
	return b.inParent(path, "remove", func(parent int, name string) error { return unix.Unlinkat(parent, name, 0) })
}
