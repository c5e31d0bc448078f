package restore

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// rights are what a user gave himself in directories of his own that refused
// him, for as long as the restore takes: mode 0555 keeps him from replacing a
// file in place, though nobody but him may change that mode.
type rights struct {
	mu    sync.Mutex
	modes map[string]uint32 // of directories, by path below root, as they were
}

const ownerRights = 0o700

// with does something to the node of a path, and does it once more when the
// directories above refused it and could be unlocked, or inode flags did and
// could be taken away.
func (r *restorer) with(path string, do func() error) error {
	err := do()
	if errors.Is(err, unix.EACCES) && r.unlock(path) {
		err = do()
	}
	if errors.Is(err, unix.EPERM) {
		if undo, did := r.unprotect(path); did {
			if err = do(); err != nil {
				undo()
			}
		}
	}
	return err
}

// unlock gives this user all rights in those directories above a path that are
// his. It reports whether he has rights now that a directory did not give him.
func (r *restorer) unlock(path string) bool {
	if r.DryRun || r.root < 0 {
		return false
	}
	r.rights.mu.Lock()
	defer r.rights.mu.Unlock()

	dir, _ := split(r.rel(path))
	given := r.unlockDir("")
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			given = r.unlockDir(dir[:i]) || given
		}
	}
	return given
}

// unlockDir unlocks one directory, by its path below root.
func (r *restorer) unlockDir(rel string) bool {
	if _, ok := r.rights.modes[rel]; ok {
		return true
	}
	if rel == "" {
		st, err := posix.StatFd(r.root)
		return err == nil && r.needsRights(&st) && posix.Chmod(r.root, st.Mode|ownerRights) == nil && r.rights.note(rel, st.Mode)
	}

	above, name := split(rel)
	h, err := r.dirs.Get(above)
	if err != nil {
		return false
	}
	defer h.Release()

	st, err := posix.StatAt(h.FD(), name)
	if err != nil || !r.needsRights(&st) || posix.ChmodDir(h.FD(), name, st.Mode|ownerRights) != nil {
		return false
	}
	r.dirs.Forget(rel) // it may have been opened without the right to read it
	return r.rights.note(rel, st.Mode)
}

func (r *restorer) needsRights(st *posix.Stat) bool {
	return st.Type == manifest.Dir && int(st.UID) == r.uid && st.Mode&ownerRights != ownerRights
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
func (g *rights) openLocked(r *restorer, dir string) (int, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)

	st, err := posix.StatFd(at)
	if err != nil || !r.needsRights(&st) || posix.Chmod(at, st.Mode|ownerRights) != nil {
		return -1, unix.EACCES
	}
	g.note("", st.Mode)
	return unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// settled says that a directory has the mode that it is to have.
func (g *rights) settled(rel string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.modes, rel)
}

// takeBack gives the directories their modes back that the restore itself gave
// none, those below before those above.
func (g *rights) takeBack(r *restorer) {
	g.mu.Lock()
	defer g.mu.Unlock()

	paths := slices.SortedFunc(maps.Keys(g.modes), manifest.Compare)
	for _, rel := range slices.Backward(paths) {
		if err := r.lockDir(rel, g.modes[rel]); err != nil && !errors.Is(err, unix.ENOENT) {
			r.problem(r.path(rel), err)
		}
	}
	clear(g.modes)
}

func (r *restorer) lockDir(rel string, mode uint32) error {
	if rel == "" {
		return posix.Chmod(r.root, mode)
	}
	above, name := split(rel)
	h, err := r.dirs.Get(above)
	if err != nil {
		return err
	}
	defer h.Release()

	return posix.ChmodDir(h.FD(), name, mode)
}

// path is the path of an entry that comes to lie at rel below the target.
func (r *restorer) path(rel string) string {
	if r.Under == "" || rel == "" {
		return r.Under + rel
	}
	return r.Under + "/" + rel
}
