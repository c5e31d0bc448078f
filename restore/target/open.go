package target

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// placeSingle decides where a node goes that is not a directory: into which
// directory, which it returns, and under which name.
func (t *Target) placeSingle() (dir string, err error) {
	if t.original { // whatever is there now
		dir, t.single = path.Split("/" + t.at(t.under))
		return dir, nil
	}
	dir, name := path.Split(t.target)
	dir = cmp.Or(dir, ".")

	st, err := os.Stat(t.target)
	switch isDir := err == nil && st.IsDir(); {
	case isDir && name == t.single:
		return "", fmt.Errorf("%w: %s is a directory now, and in the snapshot it is none (move it away, or give --target %s to restore into it)",
			ErrAmbiguous, t.target, path.Join(t.target, name))
	case isDir, name == "":
		dir = t.target
	default:
		t.single = name
	}

	// It is restored as in place, by way of a temporary file: a killed restore
	// leaves that, and not half a file of the final name.
	t.compare = true
	at := path.Join(dir, t.single)
	if _, err := os.Lstat(at); err == nil && !t.inPlace {
		return "", fmt.Errorf("%w: %s (choose another --target, or give --in-place to replace it)", ErrExists, at)
	}
	return dir, nil
}

// openRoot opens a directory, and makes it and those above it that are missing,
// each from the descriptor of the one above. A dry run makes none.
func (t *Target) openRoot(dir string) (err error) {
	near := dir
	var missing []string // names, the deepest first
	for {
		if _, err = os.Stat(near); err == nil {
			break
		}
		above, name := splitAbove(near)
		if !errors.Is(err, fs.ErrNotExist) || above == near {
			return err
		}
		near, missing = above, append(missing, name)
	}
	t.near = near
	if len(missing) > 0 && t.dryRun {
		return nil
	}

	if t.dir.fd, err = t.openExisting(near); err != nil {
		return err
	}
	at := near
	for i, name := range slices.Backward(missing) {
		at = path.Join(at, name)
		if err := t.dir.descend(name); err != nil {
			return fmt.Errorf("make %s: %w", at, err)
		}
		if t.original && (i > 0 || t.single != "") {
			if err := t.addMade(at); err != nil {
				return err
			}
		}
	}
	if t.dir.open, err = posix.NewDirs(t.dir.fd, 4*posix.DirsLimit); err != nil {
		t.dir.fd = -1 // it is closed
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// openExisting opens a directory that is there. One that belongs to this user and
// refuses access is unlocked, in place.
func (t *Target) openExisting(dir string) (int, error) {
	open := func(dir string) (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if t.original { // the snapshot names it, and findDetours checked its links
		open = openWithoutLinks
	}
	fd, err := open(dir)
	if err == unix.EACCES && t.inPlace && !t.dryRun {
		fd, err = t.rights.openLocked(dir)
	}
	if err == unix.ENOTDIR {
		return -1, fmt.Errorf("%s is not a directory: move it away, or choose another --target", dir)
	}
	if err != nil {
		return -1, fmt.Errorf("%s: %w", dir, err)
	}
	return fd, nil
}

// addMade remembers that the target as it is now was made, and keeps it open.
func (t *Target) addMade(at string) error {
	fd, err := unix.FcntlInt(uintptr(t.dir.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	t.made = append(t.made, madeDir{at, fd})
	return nil
}
