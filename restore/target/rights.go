package target

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// rights are what a user gives himself in directories of his own that refuse him,
// for as long as the restore takes: mode 0555 keeps him from replacing a file in
// place, though nobody except him may change that mode.
type rights struct {
	dir     *directory
	uid     int // of this process
	problem func(rel string, err error)

	mu    sync.Mutex
	modes map[string]uint32 // of directories, by path below the target, as they were
}

const ownerRights = 0o700

// unlock gives this user all rights in those directories above rel that are his.
// It reports whether he has rights now that a directory did not give him.
func (g *rights) unlock(rel string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()

	dir, _ := Split(rel)
	given := g.unlockDir("")
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			given = g.unlockDir(dir[:i]) || given
		}
	}
	return given
}

// unlockDir unlocks one directory. mu is held.
func (g *rights) unlockDir(rel string) bool {
	if _, ok := g.modes[rel]; ok {
		return true
	}
	if rel == "" {
		st, err := posix.StatFd(g.dir.fd)
		return err == nil && g.refuses(&st) && posix.Chmod(g.dir.fd, st.Mode|ownerRights) == nil && g.note(rel, st.Mode)
	}

	h, name, err := g.dir.above(rel)
	if err != nil {
		return false
	}
	defer h.Release()

	st, err := posix.StatAt(h.FD(), name)
	if err != nil || !g.refuses(&st) || posix.ChmodDir(h.FD(), name, st.Mode|ownerRights) != nil {
		return false
	}
	g.dir.open.Forget(rel) // it may have been opened without the right to read it
	return g.note(rel, st.Mode)
}

// refuses reports whether a node is a directory of this user that refuses him
// something.
func (g *rights) refuses(st *posix.Stat) bool {
	return st.Type == manifest.Dir && int(st.UID) == g.uid && st.Mode&ownerRights != ownerRights
}

// note remembers the mode that a directory had; mu is held.
func (g *rights) note(rel string, mode uint32) bool {
	if g.modes == nil {
		g.modes = map[string]uint32{}
	}
	g.modes[rel] = mode
	return true
}

// openLocked opens the target itself, by its path.
func (g *rights) openLocked(dir string) (int, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)

	st, err := posix.StatFd(at)
	if err != nil || !g.refuses(&st) || posix.Chmod(at, st.Mode|ownerRights) != nil {
		return -1, unix.EACCES
	}
	g.note("", st.Mode)
	return unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// settled reports that a directory has the mode that it is to have.
func (g *rights) settled(rel string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.modes, rel)
}

// putBack gives directories their old modes, unless the restore gave them others,
// those below before those above.
func (g *rights) putBack() {
	g.mu.Lock()
	defer g.mu.Unlock()

	paths := slices.SortedFunc(maps.Keys(g.modes), manifest.Compare)
	for _, rel := range slices.Backward(paths) {
		if err := g.lockDir(rel, g.modes[rel]); err != nil && !errors.Is(err, unix.ENOENT) {
			g.problem(rel, err)
		}
	}
	clear(g.modes)
}

func (g *rights) lockDir(rel string, mode uint32) error {
	if rel == "" {
		return posix.Chmod(g.dir.fd, mode)
	}
	h, name, err := g.dir.above(rel)
	if err != nil {
		return err
	}
	defer h.Release()

	return posix.ChmodDir(h.FD(), name, mode)
}
