package configs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// LoadRoots is Load, without judging more than the text, for a configuration that
// decides what runs as root: the file,
// each directory above it and each link on the way must belong to root, and only
// root may change them. The file is opened once and judged by its descriptor.
func LoadRoots(path string) (*Config, error) {
	f, err := openRoots(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	return read(f, path, LoadOptions{})
}

// openRoots opens a file that only root may change, by the way that was judged.
func openRoots(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s must be an absolute path", path)
	}
	var refused error // of the first node on the way that others may change
	fd, st, real, err := posix.Follow(path, func(at string, st *posix.Stat) {
		if refused == nil {
			refused = judge(st, at)
		}
	})
	if err == nil {
		defer unix.Close(fd)
	}
	switch {
	case refused != nil:
		return nil, refused
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	case st.Type == manifest.Dir:
		return nil, fmt.Errorf("%s is a directory", real)
	case st.Type != manifest.File:
		return nil, fmt.Errorf("%s is not a file", real)
	}
	// The same node, now for reading.
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// judge refuses a node that another user than root, or a group other than
// root's, may change. In a sticky directory only the owners of entries can
// replace them.
func judge(st *posix.Stat, path string) error {
	what := "only root may decide which commands run as root"
	switch {
	case st.UID != 0:
		return fmt.Errorf("%s belongs to user %d, and %s: chown -h root: %s", path, st.UID, what, path)
	case st.Type == manifest.Symlink || st.Type == manifest.Dir && st.Mode&unix.S_ISVTX != 0:
		return nil
	case st.Mode&0o002 != 0:
		return fmt.Errorf("%s can be changed by anyone on this machine, and %s: chmod o-w %s", path, what, path)
	case st.Mode&0o020 != 0 && st.GID != 0:
		return fmt.Errorf("%s can be changed by group %d, and %s: chmod g-w %s", path, st.GID, what, path)
	}
	return nil
}
