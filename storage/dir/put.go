package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/storage"
)

const (
	writeSize = 1 << 20        // bytes between two checks of the context
	staleAge  = 24 * time.Hour // of a file that no Put is still writing
)

// Put implements storage.Store: write aside, sync, link to the final name,
// sync the directory.
func (s *Store) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if err := s.begin(ctx, key); err != nil {
		return s.fail("put", key, err)
	}
	if o.Retention.Mode != "" {
		return &storage.Error{Op: "put", Store: s.String(), Key: key, Err: storage.ErrUnsupported, Hint: "a directory cannot lock objects: leave out --lock (repository.lock in the configuration), or use a bucket with Object Lock"}
	}
	// Most repeated puts end here, without writing their bytes again.
	if info, err := s.root.Lstat(key); err == nil && !(info.IsDir() && s.removeDir(key) == nil) {
		return s.settle(key, body)
	}
	if err := s.put(ctx, key, body, o); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return s.settle(key, body)
		}
		return s.fail("put", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	temp, err := s.write(ctx, body, o)
	if err != nil {
		return err
	}
	placed, err := s.place(temp, key)
	if !placed {
		err = errors.Join(err, s.root.Remove(temp))
	}
	if err != nil {
		return err
	}
	return s.syncDir(path.Dir(key))
}

// settle ends a put of a key that is taken. The object may be the work of a
// process that died before it had synced the directory.
func (s *Store) settle(key string, body []byte) error {
	equal, err := s.same(key, body)
	if err == nil && !equal {
		err = storage.ErrExists
	}
	if err == nil {
		err = s.makeParents(path.Dir(key))
	}
	if err == nil {
		err = s.syncDir(path.Dir(key))
	}
	if err == nil {
		return nil
	}
	e := &storage.Error{Op: "put", Store: s.String(), Key: key, Err: err}
	if absent(err) { // a directory or the like has the name
		e.Err, e.Hint = storage.ErrExists, "a directory that is not empty has the name of this object: move it away"
	}
	return e
}

// removeDir removes a directory without files, and nothing else.
func (s *Store) removeDir(name string) error {
	d, err := s.root.Open(name)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			return syscall.ENOTEMPTY
		}
	}
	for _, e := range entries {
		if err := s.removeDir(path.Join(name, e.Name())); err != nil {
			return err
		}
	}

	parent, err := s.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	return unix.Unlinkat(int(parent.Fd()), path.Base(name), unix.AT_REMOVEDIR)
}

// write makes a synced file with body in scratch and returns its path.
func (s *Store) write(ctx context.Context, body []byte, o storage.PutOptions) (string, error) {
	if err := s.openScratch(); err != nil {
		return "", err
	}
	temp := path.Join(scratch, rand.Text())
	var f *os.File
	err := s.owner.Do(func() (err error) {
		f, err = s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		return err
	})
	if err != nil {
		return "", err
	}
	err = writeAll(ctx, f, body, o.Pace)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, s.root.Remove(temp))
	}
	return temp, nil
}

// writeAll writes body piece by piece, so that ctx and pace can end it.
func writeAll(ctx context.Context, w io.Writer, body []byte, pace func(context.Context, int) error) error {
	size := writeSize
	if pace != nil {
		size = storage.PieceSize
	}
	for piece := range slices.Chunk(body, size) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if pace != nil {
			if err := pace(ctx, len(piece)); err != nil {
				return err
			}
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// place gives the file temp the name of key, fs.ErrExist when it is taken.
// It reports whether temp is gone from scratch.
func (s *Store) place(temp, key string) (bool, error) {
	dir := path.Dir(key)
	if err := s.makeParents(dir); err != nil {
		return false, err
	}
	err := s.root.Link(temp, key)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed the directory since it was seen.
		s.forgetParents()
		if err := s.makeParents(dir); err != nil {
			return false, err
		}
		err = s.root.Link(temp, key)
	}
	switch {
	case err == nil:
		return true, s.root.Remove(temp)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EMLINK):
		err = s.rename(temp, key) // a file system without hard links
		return err == nil, err
	}
	return false, err
}

// rename is place by renameat2(2), which refuses to replace.
func (s *Store) rename(temp, key string) error {
	from, err := s.root.Open(path.Dir(temp))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := s.root.Open(path.Dir(key))
	if err != nil {
		return err
	}
	defer to.Close()
	err = unix.Renameat2(int(from.Fd()), path.Base(temp), int(to.Fd()), path.Base(key), unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: temp, New: key, Err: err}
	}
	return nil
}

// makeParents makes dir and what is above it, and syncs the directories that
// hold their names. It syncs those once in the life of the store too that
// exist already: whoever made them may have died before doing so.
func (s *Store) makeParents(dir string) error {
	if s.isDurable(dir) {
		return nil
	}
	parent := path.Dir(dir)
	if err := s.makeParents(parent); err != nil {
		return err
	}
	if err := s.makeDir(dir); err != nil {
		return err
	}
	if err := s.syncDir(parent); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable[dir] = true
	return nil
}

func (s *Store) isDurable(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[dir]
}

func (s *Store) forgetParents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = map[string]bool{".": true}
}

// openScratch makes the directory for unfinished objects and, once, removes
// what processes that died long ago left in it.
func (s *Store) openScratch() error {
	if err := s.makeDir(scratch); err != nil {
		return err
	}
	s.mu.Lock()
	first := !s.swept
	s.swept = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	d, err := s.root.Open(scratch)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		temp := path.Join(scratch, name)
		info, err := s.root.Lstat(temp)
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < staleAge {
			continue
		}
		// What cannot be removed harms nobody; another process may have
		// been faster.
		_ = s.root.Remove(temp)
	}
	return nil
}
