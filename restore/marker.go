package restore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// The marker lies in a new target from before the first file until everything
// is restored. It shows that what is there came from the same restore, which
// then goes on. The target may belong to another user than the one who
// restores: so the marker is only reached from the target's descriptor, made
// where nothing has its name, and believed when no stranger wrote it.

// markerText is what the marker of this restore holds.
func (r *restorer) markerText() string {
	return fmt.Sprintf("%x\n%s\n", r.Tree.Snapshot.ID, r.Under)
}

var errStop = errors.New("stop")

// lostFound is a directory that a file system keeps at its top for itself.
const lostFound = "lost+found"

// goesOn reports whether the target has the marker of this restore. Another
// target that is not empty is refused, but for a new file system.
func (r *restorer) goesOn() (bool, error) {
	empty, bare := true, true
	err := posix.ReadDir(r.root, make([]byte, posix.DirBuffer), func(name []byte, _ manifest.Type) error {
		if string(name) == lostFound {
			if st, err := posix.StatAt(r.root, lostFound); err == nil && st.Type == manifest.Dir {
				r.lostFound = true
				return nil
			}
		}
		empty = false
		if string(name) == walk.RestoreMarker {
			return nil
		}
		bare = false
		return errStop
	})
	switch {
	case err != nil && err != errStop:
		return false, fmt.Errorf("target %s: %w", r.Target, err)
	case empty:
		return false, nil
	}

	text, err := readMarker(r.root, r.uid)
	if err == nil && bare && len(text) < len(r.markerText()) && strings.HasPrefix(r.markerText(), text) {
		// That restore died before its marker was written, and made nothing else.
		if !r.DryRun {
			err = unix.Unlinkat(r.root, walk.RestoreMarker, 0)
		}
		return false, err
	}
	if err != nil || text != r.markerText() {
		return false, fmt.Errorf("%w: %s (choose a new directory, or --in-place to change what is there)", ErrNotEmpty, r.Target)
	}
	r.compare, r.marked = true, true
	return true, nil
}

// readMarker reads the marker of a directory when it is a regular file of this
// user, or of root.
func readMarker(dirfd, uid int) (string, error) {
	fd, st, err := posix.OpenFile(dirfd, walk.RestoreMarker)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), walk.RestoreMarker)
	defer f.Close()

	if st.UID != 0 && int(st.UID) != uid {
		return "", fmt.Errorf("the marker belongs to user %d", st.UID)
	}
	text, err := io.ReadAll(io.LimitReader(f, manifest.MaxPath+100))
	return string(text), err
}

func (r *restorer) makeMarker() error {
	fd, err := unix.Openat(r.root, walk.RestoreMarker, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("target %s: make %s: %w", r.Target, walk.RestoreMarker, err)
	}
	err = pwrite(fd, []byte(r.markerText()), 0)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("target %s: write %s: %w", r.Target, walk.RestoreMarker, err)
	}
	r.marked = true
	return nil
}

// removeMarker ends the restore, now that all of it is durable. The target
// keeps the time that it was given.
func (r *restorer) removeMarker() error {
	st, err := posix.StatFd(r.root)
	if err == nil {
		err = unix.Unlinkat(r.root, walk.RestoreMarker, 0)
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = posix.SetMtime(r.root, st.Mtime)
	}
	if err == nil {
		r.protect(true)
	}
	if err == nil {
		err = syncfs(r.root)
	}
	if err != nil {
		return fmt.Errorf("target %s: end the restore: %w", r.Target, err)
	}
	return nil
}
