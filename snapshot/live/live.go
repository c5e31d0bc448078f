// Package live knows where the tree of an environment lies whose root belongs to
// generations (docs/GENERATIONS.md): the names beside the root, which of them is live, and
// which paths are part of a generation. It only looks.
//
// It trusts a link or a directory of that layout only where nobody but root and the running
// user could have made it.
package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

// Names in the directory beside a root.
const (
	StateFile = "generations.json"
	DataDir   = "data" // with carried data, at its path below the root
)

const prefix, suffix = ".", ".generations"

// DirName is the name of the directory beside a root that has this name.
func DirName(root string) string { return prefix + filepath.Base(root) + suffix }

// IsDir reports whether a directory, by its name in another one or its path, holds
// generations of root or the running user. What others make look like one is a directory like
// any other: else they could hide in it, and refuse restores.
func IsDir(dirfd int, name string) bool { return looksLike(dirfd, name, onlyOurs) }

// looksLike reports whether a directory has the name and the state file of generations, and
// both pass a check.
func looksLike(dirfd int, name string, check func(at string, st *posix.Stat) error) bool {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if !strings.HasPrefix(base, prefix) || !strings.HasSuffix(base, suffix) || len(base) <= len(prefix+suffix) {
		return false
	}
	fd, err := posix.OpenDir(dirfd, name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	dir, err := posix.StatFd(fd)
	if err != nil || check(name, &dir) != nil {
		return false
	}
	st, err := posix.StatAt(fd, StateFile)
	return err == nil && st.Type == inode.File && check(StateFile, &st) == nil
}

// anybodys passes whatever there is: who reads it refuses what others could change.
func anybodys(string, *posix.Stat) error { return nil }

// Parent is the directory that a root lies in, free of links. Its error names who else could
// change something on the way.
func Parent(root string) (string, error) {
	var unsafe error
	fd, st, real, err := posix.Follow(filepath.Dir(root), func(at string, st *posix.Stat) {
		if unsafe == nil {
			unsafe = onlyOurs(at, st)
		}
	})
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: filepath.Dir(root), Err: err}
	}
	unix.Close(fd)
	if st.Type != inode.Dir {
		return "", &fs.PathError{Op: "open", Path: real, Err: unix.ENOTDIR}
	}
	return real, unsafe
}

// onlyOurs refuses what another user could change, or put links into.
func onlyOurs(at string, st *posix.Stat) error {
	switch {
	case st.UID != 0 && int(st.UID) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, who could make it lead elsewhere: run this as that user, or chown it", at, st.UID)
	case st.Type == inode.Dir && st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("%s can be written by others, who could make it lead elsewhere: chmod go-w %s", at, at)
	}
	return nil
}

// Ours reports whether nobody but root and the running user can change what a directory
// holds.
func Ours(dir string) error {
	st, err := posix.StatAt(unix.AT_FDCWD, dir)
	if err == nil && st.Type != inode.Dir {
		err = unix.ENOTDIR
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return onlyOurs(dir, &st)
}

// Tree is where an environment's tree lies.
type Tree struct {
	Top    string            // free of links; empty where the root is no link into generations
	Sealed bool              // all of it was made immutable
	Data   map[string]string // where carried data lies, by its path below the root
}

// Find finds the tree of a root, and which of the paths below it are carried. A root without
// generations has neither.
func Find(root string, data []string) (*Tree, error) {
	t := &Tree{Data: map[string]string{}}
	parent, err := filepath.EvalSymlinks(filepath.Dir(root))
	if err != nil || !looksLike(unix.AT_FDCWD, filepath.Join(parent, DirName(root)), anybodys) {
		return t, nil // reading the root finds what is wrong
	}
	if parent, err = Parent(root); err != nil {
		return nil, err
	}
	dir := filepath.Join(parent, DirName(root))
	if err := Ours(dir); err != nil {
		return nil, err
	}
	if name, err := Link(filepath.Join(parent, filepath.Base(root))); err == nil {
		t.Top = filepath.Join(dir, name)
		for _, g := range generations(dir) {
			t.Sealed = t.Sealed || g.Name == name && g.Sealed != ""
		}
	}
	for _, p := range data {
		fd, err := unix.Open(filepath.Join(dir, DataDir), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("carried data in %s: %w", dir, err)
		}
		at, err := unix.Openat2(fd, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
		unix.Close(fd)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("carried data %s in %s: %w", p, dir, err)
		}
		st, err := posix.StatFd(at)
		unix.Close(at)
		if err == nil && st.Type != inode.Symlink { // a link stands there while it is adopted
			t.Data[p] = filepath.Join(dir, DataDir, p)
		}
	}
	return t, nil
}

// Link is the name of the generation that a root leads to as a link.
func Link(root string) (name string, err error) {
	to, err := os.Readlink(root)
	if err != nil {
		return "", err
	}
	dir, name := filepath.Split(to)
	if dir != DirName(root)+"/" || name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("%s is a link to %s, which is no generation of it", root, to)
	}
	return name, nil
}

// Real is where a path leads that is the root of generations, or carried data of one; empty
// where it is neither, or somebody else could have made it so.
func Real(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil || real == path {
		return ""
	}
	root := Owner(real)
	if root == "" || path != root && !strings.HasPrefix(path, root+"/") {
		return ""
	}
	parent, err := Parent(root)
	if err != nil || Ours(filepath.Join(parent, DirName(root))) != nil {
		return ""
	}
	return real
}

// Owner is the root whose generations a path lies in, links followed as far as the path
// exists; empty where it lies in none.
func Owner(path string) string {
	at, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	for rest := ""; ; {
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			at = filepath.Join(real, rest)
			break
		}
		if at == "/" {
			return ""
		}
		at, rest = filepath.Dir(at), filepath.Join(filepath.Base(at), rest)
	}
	for ; at != "/"; at = filepath.Dir(at) {
		parent, name := filepath.Dir(at), filepath.Base(at)
		if IsDir(unix.AT_FDCWD, at) {
			return filepath.Join(parent, strings.TrimSuffix(strings.TrimPrefix(name, prefix), suffix))
		}
		if IsDir(unix.AT_FDCWD, filepath.Join(parent, DirName(at))) && adopted(filepath.Join(parent, DirName(at))) {
			return at
		}
	}
	return ""
}

// adopted reports whether a state has generations: not one that was only begun.
func adopted(dir string) bool { return len(generations(dir)) > 0 }

// generation is what is read here of a generation.
type generation struct{ Name, Sealed string }

// generations are those that a state has; none where it cannot be read.
func generations(dir string) []generation {
	b, err := os.ReadFile(filepath.Join(dir, StateFile))
	var state struct{ Generations []generation }
	if err != nil || json.Unmarshal(b, &state) != nil {
		return nil
	}
	return state.Generations
}
