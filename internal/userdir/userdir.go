// Package userdir works in a directory that may belong to another user than the
// process: the state directory of a daemon with a user of its own, in which root
// works by hand.
//
// Root there has the file rights of the directory's owner and no others, so the
// kernel refuses everything that the owner could not do: no link, no name that is
// swapped at the right moment, leads to a file that the owner may not touch. What
// is made is the owner's from the first moment; no owner is ever changed.
// Whoever owns the directory and runs the process works in it likewise.
//
// Every name is looked up below one descriptor of the directory, and nothing
// leads out of it. Only regular files are opened; a named pipe does not make a
// process wait.
package userdir

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
)

// The longest files that ReadFile and ReadList read, in bytes.
const (
	maxFile = 16 << 20
	maxList = 1 << 30
)

// Dir is a directory, or one below it. It keeps nothing open, and is safe for
// concurrent use. The zero Dir is none.
type Dir struct {
	top  string // as the administrator named it; its owner decides
	path string // below top, clean; "" for top itself
}

// At is the directory at path, which need not exist; none when path is empty.
// path itself may lead through links.
func At(path string) Dir { return Dir{top: path} }

// None reports whether d is no directory.
func (d Dir) None() bool { return d.top == "" }

// In is a directory below d.
func (d Dir) In(names ...string) Dir {
	if d.None() {
		return d
	}
	return Dir{d.top, filepath.Join(append([]string{d.path}, names...)...)}
}

// String is the path of the directory; "" of none.
func (d Dir) String() string { return d.Path() }

// Path is the path of what has a name in the directory, only for messages.
func (d Dir) Path(names ...string) string {
	if d.None() {
		return ""
	}
	return filepath.Join(append([]string{d.top, d.path}, names...)...)
}

// within calls do with the rights of the owner and the directory's top. Where
// the same can be done by inOneCall, which opens far less, that is tried first.
func (d Dir) within(name string, do func(root *os.Root, path string) error) error {
	if d.None() {
		return fmt.Errorf("no state directory: %w", fs.ErrNotExist)
	}
	root, err := os.OpenRoot(d.top)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := root.Stat(".")
	if err != nil {
		return err
	}

	owner := OwnerOf(top)
	path := filepath.Join(".", d.path, name)
	return d.explain(owner, owner.Do(func() error { return do(root, path) }))
}

// explain names whole paths in an error, and what to do where something is in
// the way that the owner did not leave there by working in the directory.
func (d Dir) explain(owner Owner, err error) error {
	l := (*os.LinkError)(nil)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) && !errors.As(err, &l) {
		return err
	}

	if p := (*fs.PathError)(nil); errors.As(err, &p) && !filepath.IsAbs(p.Path) {
		p.Path = filepath.Join(d.top, p.Path)
	}
	if errors.As(err, &l) {
		l.Old, l.New = filepath.Join(d.top, l.Old), filepath.Join(d.top, l.New)
	}
	switch {
	case owner.other && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: user %d, whose directory %s is, may not do that, and so root does not either; see what it is (ls -la), then remove it or give it to that user (chown -h)", err, owner.uid, d.top)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: all that is in %s must be of the user who runs knowngood; see whose it is (ls -la), then give it to that user (chown -h)", err, d.top)
	case strings.HasSuffix(err.Error(), "path escapes from parent"), errors.Is(err, syscall.ELOOP):
		return fmt.Errorf("%w: a symbolic link leads out of %s; see where (ls -la), then remove the link", err, d.top)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENXIO), errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: something else has this name; see what it is (ls -la), then move it away", err)
	}
	return err
}

// Failed adds to an error of working in the directory that it is the state
// directory, and what to do about it.
func (d Dir) Failed(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok && !filepath.IsAbs(p.Path) {
		p.Path = filepath.Join(d.top, p.Path)
	}
	hint := "check it"
	switch {
	case errors.Is(err, syscall.ENOSPC):
		hint = "free some space there"
	case errors.Is(err, syscall.EDQUOT):
		hint = "the disk quota is used up: free some space there"
	case errors.Is(err, syscall.EROFS):
		hint = "remount it writable"
	}
	return fmt.Errorf("state directory %s: %w (%s, or choose another with --state-dir)", d.top, err, hint)
}

// Make makes the directory and those above it, with mode 0700, where they are
// missing.
func (d Dir) Make() error {
	if err := os.MkdirAll(d.top, 0o700); err != nil {
		return err
	}
	if d.path == "" {
		return nil
	}

	err := d.inOneCall("", func(b beneath, path string) error {
		fd, err := b.openDir(path)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	if err == nil { // it is there
		return nil
	}
	return d.within("", func(root *os.Root, path string) error { return root.MkdirAll(path, 0o700) })
}

// Open opens a regular file for reading.
func (d Dir) Open(name string) (*os.File, error) { return d.OpenFile(name, os.O_RDONLY) }

// OpenFile opens a regular file, which gets mode 0600 if it is made.
func (d Dir) OpenFile(name string, flag int) (f *os.File, err error) {
	err = d.inOneCall(name, func(b beneath, path string) error {
		f, err = b.openRegular(path, flag)
		return err
	})
	if err != errWalk {
		return f, err
	}
	err = d.within(name, func(root *os.Root, path string) error {
		f, err = openRegular(root, path, flag)
		return err
	})
	return f, err
}

func openRegular(root *os.Root, path string, flag int) (*os.File, error) {
	f, err := root.OpenFile(path, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		kind := "a device or a named pipe"
		if info.IsDir() {
			kind = "a directory"
		}
		err = fmt.Errorf("%s is %s, not a file; see what it is (ls -la), then move it away", f.Name(), kind)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// CreateTemp makes a new file whose name begins with prefix. The last part of
// its Name is its name in the directory.
func (d Dir) CreateTemp(prefix string) (*os.File, error) {
	return d.OpenFile(prefix+rand.Text(), os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// ReadFile reads a whole file of a few kilobytes, and at most 16 MiB.
func (d Dir) ReadFile(name string) ([]byte, error) { return d.read(name, maxFile) }

// ReadList reads a file that grows with what the store has, of at most 1 GiB.
func (d Dir) ReadList(name string) ([]byte, error) { return d.read(name, maxList) }

func (d Dir) read(name string, most int64) (data []byte, err error) {
	err = d.inOneCall(name, func(b beneath, path string) error {
		data, err = b.read(path, most)
		return err
	})
	if err != errWalk {
		return data, err
	}
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s is longer than anything that is kept there: remove it", f.Name())
	}
	b := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = b.ReadFrom(io.LimitReader(f, most))
	return b.Bytes(), err
}

// Replace replaces a file, with mode 0600: a reader sees the old
// content or the new one, and the new one is on disk when it returns nil.
func (d Dir) Replace(name string, data []byte) error {
	f, err := d.CreateTemp("." + filepath.Base(name) + ".")
	if err != nil {
		return err
	}
	temp := filepath.Base(f.Name())
	if err := durable.Finish(f, data, 0o600); err != nil {
		return errors.Join(err, d.Remove(temp))
	}
	if err := d.Rename(temp, name); err != nil {
		return errors.Join(err, d.Remove(temp))
	}
	return d.Sync()
}

// ReplaceUnsynced is Replace without waiting for the disk. After a loss of power
// the file may be the old one, the new one, missing, or damaged. Use it only for
// what is checked when it is read, and can be computed again.
func (d Dir) ReplaceUnsynced(name string, data []byte) error {
	f, err := d.CreateTemp("." + filepath.Base(name) + ".")
	if err != nil {
		return err
	}
	temp := filepath.Base(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, d.Remove(temp))
	}
	return nil
}

// Rename gives a file of the directory another name in it.
func (d Dir) Rename(from, to string) error {
	err := d.inOneCall(to, func(b beneath, path string) error { return b.rename(from, path) })
	if err != errWalk {
		return err
	}
	return d.within(to, func(root *os.Root, path string) error {
		return root.Rename(filepath.Join(filepath.Dir(path), from), path)
	})
}

// Remove removes a file, or an empty directory.
func (d Dir) Remove(name string) error {
	err := d.inOneCall(name, func(b beneath, path string) error { return b.remove(path) })
	if err != errWalk {
		return err
	}
	return d.within(name, func(root *os.Root, path string) error { return root.Remove(path) })
}

// RemoveAll removes the directory with all that is in it. One that does not
// exist is no error.
func (d Dir) RemoveAll() error {
	err := d.within("", func(root *os.Root, path string) error { return root.RemoveAll(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Names are the names in the directory, in no order.
func (d Dir) Names() ([]string, error) {
	f, err := d.openDir()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// Stat describes what has a name in the directory, without following a link.
func (d Dir) Stat(name string) (info fs.FileInfo, err error) {
	err = d.inOneCall(name, func(b beneath, path string) error {
		info, err = b.lstat(path)
		return err
	})
	if err != errWalk {
		return info, err
	}
	err = d.within(name, func(root *os.Root, path string) error {
		info, err = root.Lstat(path)
		return err
	})
	return info, err
}

// Chtimes sets the times of a file.
func (d Dir) Chtimes(name string, atime, mtime time.Time) error {
	return d.within(name, func(root *os.Root, path string) error { return root.Chtimes(path, atime, mtime) })
}

// Sync makes the names in the directory durable.
func (d Dir) Sync() error {
	f, err := d.openDir()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// openDir opens the directory itself.
func (d Dir) openDir() (f *os.File, err error) {
	const flag = os.O_RDONLY | syscall.O_DIRECTORY | syscall.O_NONBLOCK
	err = d.inOneCall("", func(b beneath, path string) error {
		fd, err := b.open(path, flag, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), filepath.Join(b.name, path))
		}
		return err
	})
	if err != errWalk {
		return f, err
	}
	err = d.within("", func(root *os.Root, path string) error {
		f, err = root.OpenFile(path, flag, 0)
		return err
	})
	return f, err
}
