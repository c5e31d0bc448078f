package findgood

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// scratchName begins the names of the directories of searches.
const scratchName = "knowngood-find-good-"

// scratch makes the directory for trees, in one that is for this user alone, below a
// directory with room. It removes what searches of this user that were killed left
// there. remove deletes it, with what is in it.
func scratch(below string) (tree string, remove func() error, err error) {
	left, err := filepath.Glob(filepath.Join(below, scratchName+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range left {
		if err := removeStale(dir); err != nil {
			return "", nil, fmt.Errorf("%s was left by a search that was killed, and cannot be removed: %w", dir, err)
		}
	}
	dir, err := os.MkdirTemp(below, scratchName)
	if err != nil {
		return "", nil, fmt.Errorf("no directory for the trees: %w (--scratch DIR names another place)", err)
	}
	held, err := hold(dir)
	tree = filepath.Join(dir, "tree")
	return tree, func() error {
		held.Close()
		return removeTree(dir)
	}, errors.Join(err, os.Mkdir(tree, 0o700))
}

// hold locks a directory for as long as this process has it open. EWOULDBLOCK:
// another one has.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return f, err
}

// removeStale removes the directory of a search that has ended. Those of other users
// are not ours to remove.
func removeStale(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		return nil
	}
	f, err := hold(dir)
	defer f.Close()
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return removeTree(dir)
}

// removeTree removes a directory, also what was restored without the rights for that or
// with flags that forbid it.
func removeTree(dir string) error {
	above, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	return posix.RemoveAll(int(above.Fd()), filepath.Base(dir))
}
