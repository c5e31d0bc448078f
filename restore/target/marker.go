package target

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
// then continues. The target may belong to another user than the one who
// restores: so the marker is only reached from the target's descriptor, made
// where nothing has its name, and believed when no stranger wrote it.

type marker struct {
	dir  *directory
	uid  int    // of this process
	text string // by which this restore knows its own
	here bool   // the target has it
	// lostFound means that the target, empty otherwise, has such a directory.
	lostFound bool
}

var errStop = errors.New("stop")

// lostFound is a directory that a file system keeps at its top for itself.
const lostFound = "lost+found"

// find finds out whether the target has the marker of this restore. Another target
// that is not empty is refused, unless it is a new file system. What a killed
// restore left of a marker is removed, except in a dry run.
func (m *marker) find(dryRun bool) error {
	empty, bare := true, true
	err := posix.ReadDir(m.dir.fd, make([]byte, posix.DirBuffer), func(name []byte, _ manifest.Type) error {
		if string(name) == lostFound {
			if st, err := posix.StatAt(m.dir.fd, lostFound); err == nil && st.Type == manifest.Dir {
				m.lostFound = true
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
		return err
	case empty:
		return nil
	}

	text, err := readMarker(m.dir.fd, m.uid)
	if err == nil && bare && len(text) < len(m.text) && strings.HasPrefix(m.text, text) {
		// That restore died before its marker was written, and made nothing else.
		if !dryRun {
			err = unix.Unlinkat(m.dir.fd, walk.RestoreMarker, 0)
		}
		return err
	}
	if err != nil || text != m.text {
		return ErrNotEmpty
	}
	m.here = true
	return nil
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

// make marks a new target as one of this restore.
func (m *marker) make() error {
	fd, err := unix.Openat(m.dir.fd, walk.RestoreMarker, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", walk.RestoreMarker, err)
	}
	f := os.NewFile(uintptr(fd), walk.RestoreMarker)
	_, err = f.WriteString(m.text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", walk.RestoreMarker, err)
	}
	m.here = true
	return nil
}

// remove removes the marker. The target keeps the time that it was given.
func (m *marker) remove() error {
	st, err := posix.StatFd(m.dir.fd)
	if err == nil {
		err = unix.Unlinkat(m.dir.fd, walk.RestoreMarker, 0)
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = posix.SetMtime(m.dir.fd, st.Mtime)
	}
	return err
}
