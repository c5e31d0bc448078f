// Package dir keeps objects as files below a directory.
//
// It promises what storage.Store does on any local file system, and on
// network file systems as far as they keep link(2) or renameat2(2) atomic:
// an object appears completely or not at all, is never replaced, and is on the
// disk, with the directories above it, when Put returns. Keys and symbolic
// links cannot lead out of the directory.
//
// A link or a special file at a key is an object without content, so that whoever
// lists or reads finds it damaged.
//
// A directory that is removed, moved away or replaced while the store is open is
// no store any more: every operation fails with storage.ErrNoStore until somebody
// opens it again, and so learns what is there now.
//
// It refuses locks: whoever owns a directory can change it.
package dir

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"knowngood/internal/userdir"
	"knowngood/storage"
)

// scratch is where objects are written before they get their name. "+" is in
// no key, so it is no object's directory.
const scratch = "+tmp"

// Store is a storage.Store in a directory. It holds one file descriptor and
// is closed by the garbage collector when it is no longer used.
type Store struct {
	path  string
	root  *os.Root
	at    os.FileInfo   // of root
	owner userdir.Owner // of path: what root makes here is made with that user's rights

	mu      sync.Mutex
	durable map[string]bool // directories that survive a crash, relative
	swept   bool            // stale files in scratch were removed
}

var _ storage.Store = (*Store)(nil)

// Open opens an existing directory, storage.ErrNoStore when there is none.
func Open(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, &storage.Error{Op: "open", Store: path, Err: err}
	}
	s := &Store{path: path, durable: map[string]bool{".": true}}
	info, err := os.Stat(path)
	switch {
	case absent(err):
		return nil, s.fail("open", "", errGone)
	case err != nil:
		return nil, s.fail("open", "", err)
	case !info.IsDir():
		return nil, &storage.Error{Op: "open", Store: s.String(), Err: storage.ErrNoStore, Hint: "its path is not a directory"}
	}
	if s.root, err = os.OpenRoot(path); err != nil {
		return nil, s.fail("open", "", err)
	}
	if s.at, err = s.root.Stat("."); err != nil {
		return nil, s.fail("open", "", err)
	}
	s.owner = userdir.OwnerOf(s.at)
	return s, nil
}

var (
	errGone     = errors.New("there is no directory")
	errReplaced = errors.New("another directory has taken its place")
)

// present makes sure that the path still leads to the directory that is open.
// A path that cannot be followed for another reason proves nothing.
func (s *Store) present() error {
	info, err := os.Stat(s.path)
	switch {
	case absent(err):
		return errGone
	case err == nil && !os.SameFile(info, s.at):
		return errReplaced
	}
	return nil
}

// makeDir makes a directory where there is none.
func (s *Store) makeDir(dir string) error {
	err := s.owner.Do(func() error { return s.root.Mkdir(dir, 0o700) })
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Create makes the directory with mode 0700 where it is missing, its parents
// too, and opens it.
func Create(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, &storage.Error{Op: "open", Store: path, Err: err}
	}
	if err := makeDurable(path); err != nil {
		s := Store{path: path}
		return nil, s.fail("open", "", err)
	}
	return Open(path)
}

// makeDurable is MkdirAll that syncs the parent of each directory it makes.
func makeDurable(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDurable(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // Open reports what is wrong with anything except a directory
	}
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

// String is the URL of the store.
func (s *Store) String() string { return "file://" + s.path }

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := s.begin(ctx, key); err != nil {
		return nil, s.fail("get", key, err)
	}
	if offset < 0 {
		return nil, s.fail("get", key, fmt.Errorf("negative offset %d", offset))
	}
	f, err := s.open(key)
	if errors.Is(err, errOdd) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	if length < 0 {
		length = 1<<63 - 1 - offset
	}
	return &body{ctx: ctx, s: s, key: key, f: f, r: io.NewSectionReader(f, offset, length)}, nil
}

// errOdd is what has the name of an object and is neither a regular file nor a
// directory.
var errOdd = errors.New("this is a link or a special file, not an object")

// open opens the regular file of an object for reading.
func (s *Store) open(key string) (*os.File, error) {
	info, err := s.root.Lstat(key)
	switch {
	case err != nil && s.beyondLink(key):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fs.ErrNotExist
	case !info.Mode().IsRegular():
		return nil, errOdd
	}
	// A fifo that takes its place meanwhile must not block.
	return s.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// beyondLink reports whether a directory of key is a link, which no key has.
func (s *Store) beyondLink(key string) bool {
	for dir := filepath.Dir(key); dir != "."; dir = filepath.Dir(dir) {
		if info, err := s.root.Lstat(dir); err == nil {
			return info.Mode()&fs.ModeSymlink != 0
		}
	}
	return false
}

type body struct {
	ctx context.Context
	s   *Store
	key string
	f   *os.File
	r   *io.SectionReader
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, b.s.fail("get", b.key, err)
	}
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = b.s.fail("get", b.key, err)
	}
	return n, err
}

func (b *body) Close() error { return b.f.Close() }

// Delete implements storage.Store. Directories stay, so that it cannot remove one
// that a Put needs.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.begin(ctx, key); err != nil {
		return s.fail("delete", key, err)
	}
	info, err := s.root.Lstat(key)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = s.root.Remove(key)
	}
	if absent(err) {
		return nil
	}
	if err == nil {
		err = s.syncDir(filepath.Dir(key))
	}
	if err != nil {
		return s.fail("delete", key, err)
	}
	return nil
}

// same reports whether the object at key has exactly the bytes of want.
func (s *Store) same(key string, want []byte) (bool, error) {
	f, err := s.open(key)
	if errors.Is(err, errOdd) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != int64(len(want)) {
		return false, err
	}
	have := sha256.New()
	if _, err := io.Copy(have, f); err != nil {
		return false, err
	}
	sum := sha256.Sum256(want)
	return bytes.Equal(have.Sum(nil), sum[:]), nil
}

func (s *Store) syncDir(path string) error {
	d, err := s.root.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: a network file system that needs none
		return err
	}
	return nil
}

func (s *Store) begin(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.present()
}

// absent reports whether a path leads nowhere, also because a file stands where
// it would need a directory.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// fail gives an error of the file system its meaning.
func (s *Store) fail(op, key string, err error) error {
	e := &storage.Error{Op: op, Store: s.String(), Key: key, Err: err}
	switch {
	case errors.Is(err, errGone):
		e.Err, e.Hint = storage.ErrNoStore, "check the path, and that its disk is mounted. (A new repository: knowngood init)"
	case errors.Is(err, errReplaced):
		e.Err, e.Hint = storage.ErrNoStore, "its directory was replaced by another one during the work: start again"
	case errors.Is(err, syscall.ENOSPC):
		e.Err, e.Hint = storage.ErrFull, "free some space on the file system"
	case errors.Is(err, syscall.EDQUOT):
		e.Err, e.Hint = storage.ErrFull, "the disk quota is used up"
	case errors.Is(err, fs.ErrPermission):
		e.Err, e.Hint = fmt.Errorf("%w: %w", storage.ErrDenied, err), "check owner and mode of the directory"
	case errors.Is(err, syscall.EROFS):
		e.Err, e.Hint = fmt.Errorf("%w: %w", storage.ErrDenied, err), "the file system is mounted read-only"
	case op == "get" && absent(err):
		e.Err = storage.ErrNotFound
	case op == "put" && errors.Is(err, syscall.ENOTDIR):
		e.Err, e.Hint = storage.ErrInvalidKey, "an object has the name of a directory that this key needs"
	}
	return e
}
