package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knowngood/internal/scratch"
)

// scratchName begins the names of the scratch spaces of drills.
const scratchName = "drill-"

// newScratch makes room below a directory, and removes what killed drills left
// there.
func newScratch(below string) (*scratch.Space, error) {
	err := ownAlone(below)
	if err == nil {
		err = os.MkdirAll(below, 0o700)
	}
	if err == nil {
		err = ownAlone(below) // somebody may have made it meanwhile
	}
	var s *scratch.Space
	if err == nil {
		s, err = scratch.New(below, scratchName)
	}
	if err != nil {
		return nil, fmt.Errorf("scratch space: %w (--scratch DIR names another directory)", err)
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
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		others := st.Mode&sticky == 0 && (st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && st.Gid != 0 && int(st.Gid) != os.Getegid())
		if err == nil && (others || st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
			return fmt.Errorf("another user can change %s: name a directory of your own", dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

// scratchDir makes a directory in the scratch space.
func (d *drill) scratchDir(name string) (string, error) {
	dir := filepath.Join(d.scratch.Dir, name)
	return dir, os.Mkdir(dir, 0o700)
}

// ScratchDir is where drills work by default.
func ScratchDir(stateDir string) string { return scratch.Beside(stateDir, "drills") }

// Scratch makes room of the same kind in ScratchDir, for something else than a drill.
func Scratch(stateDir string) (*scratch.Space, error) { return newScratch(ScratchDir(stateDir)) }

// Sweep removes what killed drills left in a directory.
func Sweep(below string) error { return scratch.Sweep(below, scratchName) }
