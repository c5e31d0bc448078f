package posix

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// DirsLimit is a good number of descriptors for one Dirs to hold.
const DirsLimit = 128

// Dirs opens directories below a root by their paths and keeps the most
// recently used ones open. Every component is opened from the descriptor of
// its parent and follows no link, so nothing outside the root is ever reached,
// even with hostile paths and while others rename things. Paths may be longer than
// PATH_MAX. Safe for concurrent use.
type Dirs struct {
	mu     sync.Mutex
	limit  int
	root   *Dir
	open   map[string]*Dir
	recent list.List // of *Dir that nobody holds; the front was used last
	closed bool
}

// Dir is an open directory. The holder releases it when done and does not use
// its descriptor afterwards.
type Dir struct {
	// Path below the root of the Dirs; "" is the root.
	Path string
	// Stat of the directory when it was opened.
	Stat Stat
	// Readable means that the descriptor is good for listing, fsync and
	// fchmod. Otherwise this process may not read the directory and the
	// descriptor, opened with O_PATH, is good for the *at calls only.
	Readable bool

	dirs    *Dirs
	fd      int
	holders int
	unused  *list.Element // in recent, while nobody holds it
	dropped bool          // no longer in open: closed with the last release
}

// FD is the descriptor, owned by the Dirs.
func (d *Dir) FD() int { return d.fd }

// NotDirError: a component of a path, though it exists, is not a
// directory.
type NotDirError struct {
	Path    string
	Symlink bool
}

func (e *NotDirError) Error() string {
	if e.Symlink {
		return fmt.Sprintf("%q is a symbolic link, which is not followed", e.Path)
	}
	return fmt.Sprintf("%q is not a directory", e.Path)
}

func (e *NotDirError) Unwrap() error { return unix.ENOTDIR }

// NewDirs takes the ownership of the descriptor of a root directory. At most
// limit descriptors are kept while unused; those in use come on top.
func NewDirs(root int, limit int) (*Dirs, error) {
	st, err := StatFd(root)
	if err == nil && st.Type != inode.Dir {
		err = unix.ENOTDIR
	}
	if err != nil {
		unix.Close(root)
		return nil, fmt.Errorf("root directory: %w", err)
	}
	ds := &Dirs{limit: limit, open: make(map[string]*Dir)}
	flags, err := unix.FcntlInt(uintptr(root), unix.F_GETFL, 0)
	readable := err == nil && flags&unix.O_PATH == 0
	ds.root = &Dir{Stat: st, Readable: readable, dirs: ds, fd: root, holders: 1}
	ds.open[""] = ds.root
	return ds, nil
}

// Get opens a directory by its path below the root, in the form of an entry's
// path. The caller releases it. The error is *NotDirError where a component is
// a symbolic link or a file.
func (ds *Dirs) Get(path string) (*Dir, error) {
	d, err := ds.nearest(path)
	if err != nil {
		return nil, err
	}
	for len(d.Path) < len(path) {
		start := 0
		if d.Path != "" {
			start = len(d.Path) + 1
		}
		end := len(path)
		if i := strings.IndexByte(path[start:], '/'); i >= 0 {
			end = start + i
		}
		child, err := ds.child(d, path[:end], path[start:end])
		d.Release()
		if err != nil {
			return nil, err
		}
		d = child
	}
	return d, nil
}

// nearest takes a hold on the nearest ancestor of path, or path itself, that is open.
func (ds *Dirs) nearest(path string) (*Dir, error) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return nil, os.ErrClosed
	}
	for p := path; ; p = p[:max(0, strings.LastIndexByte(p, '/'))] {
		if d := ds.open[p]; d != nil {
			ds.hold(d)
			return d, nil
		}
	}
}

func (ds *Dirs) child(parent *Dir, path, name string) (*Dir, error) {
	if name == "" || name == "." || name == ".." {
		return nil, fmt.Errorf("%q is not a path below the root", path)
	}
	d := &Dir{Path: path, Readable: true, dirs: ds, holders: 1}
	var err error
	d.fd, err = OpenDir(parent.fd, name)
	if isErrno(err, unix.EACCES, unix.EPERM) {
		d.Readable = false
		d.fd, err = openat(parent.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	}
	if isErrno(err, unix.ENOTDIR, unix.ELOOP) {
		st, serr := StatAt(parent.fd, name)
		if serr != nil {
			return nil, serr
		}
		return nil, &NotDirError{Path: path, Symlink: st.Type == inode.Symlink}
	}
	if err != nil {
		return nil, err
	}
	if d.Stat, err = StatFd(d.fd); err != nil {
		unix.Close(d.fd)
		return nil, err
	}

	ds.mu.Lock()
	defer ds.mu.Unlock()
	if other := ds.open[path]; other != nil { // somebody was faster
		unix.Close(d.fd)
		ds.hold(other)
		return other, nil
	}
	if ds.closed || parent.dropped {
		d.dropped = true // good for its holder, not to be found by others
		return d, nil
	}
	ds.open[path] = d
	return d, nil
}

// hold is called with the lock taken.
func (ds *Dirs) hold(d *Dir) {
	d.holders++
	if d.unused != nil {
		ds.recent.Remove(d.unused)
		d.unused = nil
	}
}

// Release gives the directory back.
func (d *Dir) Release() {
	ds := d.dirs
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d.holders--
	if d.holders > 0 {
		return
	}
	if d.dropped {
		unix.Close(d.fd)
		return
	}
	d.unused = ds.recent.PushFront(d)
	if ds.recent.Len() > ds.limit {
		ds.drop(ds.recent.Back().Value.(*Dir))
	}
}

// drop makes a directory unfindable and closes it once nobody holds it. It is
// called with the lock taken.
func (ds *Dirs) drop(d *Dir) {
	delete(ds.open, d.Path)
	d.dropped = true
	if d.unused != nil {
		ds.recent.Remove(d.unused)
		d.unused = nil
		unix.Close(d.fd)
	}
}

// Forget drops a directory that was removed or replaced, and all below it, so
// that the next Get opens what is there now. The root stays.
func (ds *Dirs) Forget(path string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for p, d := range ds.open {
		if d != ds.root && (path == "" || p == path || strings.HasPrefix(p, path+"/")) {
			ds.drop(d)
		}
	}
}

// Close closes the root and all unused descriptors; those in use follow when
// they are released. Get fails from now on with os.ErrClosed.
func (ds *Dirs) Close() error {
	ds.mu.Lock()
	if ds.closed {
		ds.mu.Unlock()
		return errors.New("directories closed twice")
	}
	ds.closed = true
	for _, d := range ds.open {
		ds.drop(d)
	}
	ds.mu.Unlock()
	ds.root.Release()
	return nil
}
