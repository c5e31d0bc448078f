package drill

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// scratchName begins the names of scratch spaces and their locks.
const scratchName = "drill-"

// scratch is the room of one drill: a directory, and beside it a lock that is
// held as long as the drill runs. A space whose lock nobody holds belongs to a
// drill that was killed.
type scratch struct {
	dir  string
	lock *os.File
}

// newScratch makes room below a directory, and removes what killed drills left
// there.
func newScratch(below string) (*scratch, error) {
	if err := ownAlone(below); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(below, 0o700); err != nil {
		return nil, fmt.Errorf("scratch space: %w (name another directory with --scratch)", err)
	}
	if err := ownAlone(below); err != nil { // somebody may have made it meanwhile
		return nil, err
	}
	if err := sweep(below); err != nil {
		return nil, fmt.Errorf("what an earlier drill left in %s cannot be removed: %w", below, err)
	}
	s := &scratch{dir: filepath.Join(below, scratchName+strings.ToLower(rand.Text()))}
	lock, err := os.OpenFile(s.dir+".lock", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scratch space: %w", err)
	}
	s.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock of the scratch space: %w", err), lock.Close())
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("scratch space: %w", err), s.remove())
	}
	return s, nil
}

// ownAlone refuses a directory in which others could put links in the way of what
// is restored, or removed: each part of the path that exists must be this user's or
// root's. Above the directory itself it can be one like /tmp.
func ownAlone(dir string) error {
	for sticky := uint32(0); ; dir, sticky = filepath.Dir(dir), unix.S_ISVTX {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("scratch space: %s: %w", dir, err)
		}
		others := st.Mode&sticky == 0 && (st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && st.Gid != 0 && int(st.Gid) != os.Getegid())
		if err == nil && (others || st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
			return fmt.Errorf("scratch space: another user can change %s: name a directory of your own with --scratch DIR", dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

// in is a new directory in the space.
func (s *scratch) in(name string) (string, error) {
	dir := filepath.Join(s.dir, name)
	return dir, os.Mkdir(dir, 0o700)
}

// remove removes the space, and its lock last.
func (s *scratch) remove() error {
	err := removeTree(s.dir)
	if err == nil {
		err = os.Remove(s.dir + ".lock")
	}
	return errors.Join(err, s.lock.Close())
}

// sweep removes the spaces of drills that were killed.
func sweep(below string) error {
	locks, err := filepath.Glob(filepath.Join(globEscape(below), scratchName+"*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		lock, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its drill has just ended
		}
		if err != nil {
			return err
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = (&scratch{dir: strings.TrimSuffix(path, ".lock"), lock: lock}).remove()
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // another sweep was faster
			}
		} else {
			err = lock.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// globEscape writes a path as a pattern that matches only it.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// removeTree removes a restored tree, whatever modes and inode flags it has.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return nil // the removal names what is in the way
		}
		if d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_, _ = posix.Unlock(fd)
			_ = unix.Close(fd)
		}
		return nil
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// room refuses a drill for which there is too little space.
func room(dir string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return &SpaceError{Dir: dir, Free: free, Need: need}
	}
	return nil
}

// ScratchDir is where drills work by default: in the state directory, and for root
// where that is another user's, who could put links in the way, beside it.
func ScratchDir(stateDir string) string {
	var st unix.Stat_t
	if unix.Stat(stateDir, &st) == nil && os.Geteuid() == 0 && st.Uid != 0 {
		return filepath.Clean(stateDir) + "-drills"
	}
	return filepath.Join(stateDir, "drills")
}

// Sweep removes what killed drills left in a directory.
func Sweep(below string) error {
	if err := sweep(below); err != nil {
		return fmt.Errorf("what an earlier drill left in %s cannot be removed: %w", below, err)
	}
	return nil
}
