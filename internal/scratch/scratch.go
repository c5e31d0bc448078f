// Package scratch makes directories for what is restored for a while. A directory is locked
// as long as its process has it; one without a lock was left by a process that was
// killed, and the next one removes it.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// Space is a directory that is only for this process. Remove removes it.
type Space struct {
	Dir  string
	lock *os.File
}

// New removes what killed processes of this user left below a directory under names
// that begin with a prefix, and makes a new space there.
func New(below, prefix string) (*Space, error) {
	if err := Sweep(below, prefix); err != nil {
		return nil, err
	}
	for {
		dir, err := os.MkdirTemp(below, prefix)
		if err != nil {
			return nil, err
		}
		lock, err := hold(dir)
		if err == nil {
			return &Space{dir, lock}, nil
		}
		// Before it was locked, another process could take it for one that was left.
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, os.Remove(dir))
		}
	}
}

// Beside is where a directory only for the running user lies by default: in the state
// directory, and for root where that is another user's, who could put links in the way, beside
// it.
func Beside(stateDir, name string) string {
	var st unix.Stat_t
	places := Places(stateDir, name)
	if unix.Stat(stateDir, &st) == nil && os.Geteuid() == 0 && st.Uid != 0 {
		return places[1]
	}
	return places[0]
}

// Places are the directories that Beside may return.
func Places(stateDir, name string) []string {
	return []string{filepath.Join(stateDir, name), filepath.Clean(stateDir) + "-" + name}
}

// Remove removes the directory with all that is in it, also what was restored without the
// rights for that or with flags that forbid it.
func (s *Space) Remove() error {
	return errors.Join(remove(s.Dir), s.lock.Close())
}

// Sweep removes the spaces below a directory that processes of this user left when they
// were killed. Where the directory does not exist there are none.
func Sweep(below, prefix string) error {
	entries, err := os.ReadDir(below)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		dir, st := filepath.Join(below, e.Name()), unix.Stat_t{}
		if !strings.HasPrefix(e.Name(), prefix) || unix.Lstat(dir, &st) != nil || int(st.Uid) != os.Geteuid() {
			continue
		}
		lock, err := hold(dir)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = (&Space{dir, lock}).Remove()
		}
		if err != nil {
			return fmt.Errorf("%s was left by a process that was killed, and cannot be removed: %w", dir, err)
		}
	}
	return nil
}

// hold locks a directory for as long as this process has it open: EWOULDBLOCK when
// another one has it, fs.ErrNotExist when it is gone.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		_, err = os.Lstat(dir) // a name is not used again
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func remove(dir string) error {
	above, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	return posix.RemoveAll(int(above.Fd()), filepath.Base(dir))
}
