package localstate

import (
	"errors"
	"fmt"
	"io/fs"
	"knowngood/internal/userdir"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// folder is a directory below the state directory. Its errors name that, and what can
// be done.
type folder struct {
	state *State
	dir   userdir.Dir
}

// folder of the repository.
func (s *State) folder() folder { return folder{s, s.Dir()} }

// read reads a file; nil when it does not exist.
func (f folder) read(name string) ([]byte, error) {
	b, err := f.dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, f.state.Wrap(err)
	}
	return b, nil
}

// write replaces a file.
func (f folder) write(name string, data []byte) error {
	if f.state.None() {
		return errors.New("no state directory: choose one with --state-dir")
	}
	dir := f.dir.In(filepath.Dir(name))
	err := dir.Make()
	if err == nil {
		err = dir.Replace(filepath.Base(name), data)
	}
	if err != nil {
		return f.state.Wrap(err)
	}
	return nil
}

// append appends b to a file, from where place returns for its size, and waits until
// it is on disk.
func (f folder) append(name string, b []byte, place func(f *os.File, size int64) (int64, error)) error {
	dir := f.dir.In(filepath.Dir(name))
	if err := dir.Make(); err != nil {
		return f.state.Wrap(err)
	}
	file, err := dir.OpenFile(filepath.Base(name), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return f.state.Wrap(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return f.state.Wrap(err)
	}
	at, err := place(file, info.Size())
	if err == nil {
		_, err = file.WriteAt(b, at)
	}
	if err == nil {
		err = unix.Fdatasync(int(file.Fd()))
	}
	if err != nil {
		return f.state.Wrap(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}
