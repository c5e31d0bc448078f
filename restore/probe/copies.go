package probe

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// copies shows SQLite the files of a tree as if it could write them: what it
// writes, to roll a journal back for example, stays in memory and is forgotten.
// Nobody else has the files open, so locks are not needed.
type copies struct {
	root    *root
	deleted map[string]bool
	written int64 // bytes in memory, of all files
}

const (
	copyPage   = 4 << 10
	maxWritten = 256 << 20
)

func (c *copies) FullPathname(name string) (string, error) { return name, nil }

func (c *copies) Access(name string, _ vfs.AccessFlag) (bool, error) {
	if c.deleted[name] {
		return false, nil
	}
	_, err := c.root.stat(name)
	return err == nil, nil
}

func (c *copies) Delete(name string, _ bool) error {
	if c.deleted == nil {
		c.deleted = map[string]bool{}
	}
	c.deleted[name] = true
	return nil
}

func (c *copies) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f := &copied{of: c, pages: map[int64][]byte{}}
	if name == "" || c.deleted[name] {
		return f, flags, nil
	}
	file, err := c.root.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && flags&vfs.OPEN_CREATE != 0:
		return f, flags, nil
	case err != nil:
		return nil, flags, sqlite3.CANTOPEN
	}
	st, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, flags, sqlite3.CANTOPEN
	}
	f.file, f.size, f.have = file, st.Size(), st.Size()
	return f, flags, nil
}

// copied is one file: pages that were written, above those of the tree.
type copied struct {
	of    *copies
	file  *os.File // nil: there is none in the tree
	size  int64
	have  int64 // bytes of the file of the tree that still count
	pages map[int64][]byte
}

func (f *copied) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

func (f *copied) ReadAt(b []byte, at int64) (int, error) {
	n := 0
	for n < len(b) && at+int64(n) < f.size {
		number, within := (at+int64(n))/copyPage, int((at+int64(n))%copyPage)
		part := b[n:min(len(b), n+copyPage-within)]
		part = part[:min(int64(len(part)), f.size-at-int64(n))]
		if page, ok := f.pages[number]; ok {
			copy(part, page[within:])
		} else if err := f.original(part, at+int64(n)); err != nil {
			return n, err
		}
		n += len(part)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// original reads what the file of the tree has; zeros beyond.
func (f *copied) original(b []byte, at int64) error {
	clear(b)
	if f.file == nil || at >= f.have {
		return nil
	}
	_, err := f.file.ReadAt(b[:min(int64(len(b)), f.have-at)], at)
	return err
}

func (f *copied) WriteAt(b []byte, at int64) (int, error) {
	n := 0
	for n < len(b) {
		number, within := (at+int64(n))/copyPage, int((at+int64(n))%copyPage)
		page, ok := f.pages[number]
		if !ok {
			if f.of.written += copyPage; f.of.written > maxWritten {
				return n, sqlite3.FULL
			}
			page = make([]byte, copyPage)
			if err := f.original(page, number*copyPage); err != nil {
				return n, err
			}
			f.pages[number] = page
		}
		n += copy(page[within:], b[n:])
	}
	f.size = max(f.size, at+int64(n))
	return n, nil
}

func (f *copied) Truncate(size int64) error {
	for number, page := range f.pages {
		if from := size - number*copyPage; from < copyPage {
			clear(page[max(from, 0):])
		}
	}
	f.size, f.have = size, min(f.have, size)
	return nil
}

func (f *copied) Sync(vfs.SyncFlag) error                         { return nil }
func (f *copied) Size() (int64, error)                            { return f.size, nil }
func (f *copied) Lock(vfs.LockLevel) error                        { return nil }
func (f *copied) Unlock(vfs.LockLevel) error                      { return nil }
func (f *copied) CheckReservedLock() (bool, error)                { return false, nil }
func (f *copied) SectorSize() int                                 { return copyPage }
func (f *copied) DeviceCharacteristics() vfs.DeviceCharacteristic { return 0 }
