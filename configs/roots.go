package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links may lie on the way to a configuration.
const maxLinks = 40

// LoadRoots is Load, of the text alone, for a configuration that says what runs as root: the file,
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

// openRoots opens a file from the root of the file system down, each name in
// the directory that was judged before.
func openRoots(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s must be an absolute path", path)
	}
	at, err := openJudged(unix.AT_FDCWD, "/", "/")
	if err != nil {
		return nil, err
	}
	defer func() { at.Close() }()

	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		next, err := openJudged(int(at.Fd()), name, filepath.Join(at.Name(), name))
		if err != nil {
			return nil, err
		}
		info, err := next.Stat()
		if err != nil {
			next.Close()
			return nil, err
		}

		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := readLink(next)
			next.Close()
			if links++; err == nil && links > maxLinks {
				err = fmt.Errorf("%s: %w", path, unix.ELOOP)
			}
			if err == nil && filepath.IsAbs(target) {
				at.Close()
				at, err = openJudged(unix.AT_FDCWD, "/", "/")
			}
			if err != nil {
				return nil, err
			}
			todo = append(strings.Split(target, "/"), todo...)
		case info.IsDir():
			at.Close()
			at = next
		case info.Mode().IsRegular() && len(todo) == 0:
			defer next.Close()
			// The same node, now for reading.
			return os.Open(fmt.Sprintf("/proc/self/fd/%d", next.Fd()))
		default:
			next.Close()
			return nil, fmt.Errorf("%s is neither a directory nor a file", next.Name())
		}
	}
	return nil, fmt.Errorf("%s is a directory", path)
}

// openJudged opens a node, not for reading, without following a link, and
// refuses one that is not root's alone.
func openJudged(dir int, name, path string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := judge(&st, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// judge refuses a node that another user than root, or a group other than
// root's, may change. In a sticky directory only the owners of entries can
// replace them.
func judge(st *unix.Stat_t, path string) error {
	what := "which commands run as root is for root alone to say"
	kind := st.Mode & unix.S_IFMT
	switch {
	case st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, and %s: chown -h root: %s", path, st.Uid, what, path)
	case kind == unix.S_IFLNK || kind == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0:
		return nil
	case st.Mode&0o002 != 0:
		return fmt.Errorf("%s can be changed by anyone on this machine, and %s: chmod o-w %s", path, what, path)
	case st.Mode&0o020 != 0 && st.Gid != 0:
		return fmt.Errorf("%s can be changed by group %d, and %s: chmod g-w %s", path, st.Gid, what, path)
	}
	return nil
}

func readLink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err == nil && n == len(buf) {
		err = errors.New("the link is too long")
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}
