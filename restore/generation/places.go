package generation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/internal/posix"
	"knowngood/snapshot/live"
)

// places are where an environment and its generations are on the disk. They know paths, and
// what the file system shows there; what should be there is the state's.
type places struct {
	*Options
	root   string // free of links above it; empty in place
	parent string
	dir    string // of the generations, their records and their state
}

// at finds the places.
func at(o *Options) (*places, error) {
	if o.InPlace != nil {
		if !exists(o.InPlace.Dir) {
			return nil, o.notAdopted()
		}
		parent, err := live.Parent(o.InPlace.Dir)
		return &places{Options: o, dir: filepath.Join(parent, filepath.Base(o.InPlace.Dir))}, err
	}
	parent, err := live.Parent(o.Config.Root)
	return &places{o, filepath.Join(parent, filepath.Base(o.Config.Root)), parent, filepath.Join(parent, live.DirName(o.Config.Root))}, err
}

func (p *places) path(name string) string { return filepath.Join(p.dir, name) }

// data is where carried data is, by its path in the tree.
func (p *places) data(path string) string { return filepath.Join(p.dir, live.DataDir, path) }

// shown is the generation that the root is, or that its sources are in place; empty for none.
func (p *places) shown(s *state) string {
	switch s.Method {
	case methodCopy:
		for _, g := range s.newest() {
			if g.Status == Trial || g.Status == Committed {
				return g.Name
			}
		}
	case "link":
		if name, err := live.Link(p.root); err == nil && s.find(name) != nil {
			return name
		}
	default:
		st, err := posix.StatAt(unix.AT_FDCWD, p.root)
		for _, g := range s.Generations {
			if err == nil && g.Inode == st.Ino {
				return g.Name
			}
		}
	}
	return ""
}

// show makes the root another generation, in one rename, and makes that durable.
func (p *places) show(s *state, name string) error {
	if err := p.ownNames(s); err != nil {
		return err
	}
	if p.shown(s) != name {
		p.point("before the rename")
		if err := p.rename(s.Method, name); err != nil {
			return fmt.Errorf("flip %s to %s: %w", p.root, name, err)
		}
		p.point("after the rename")
	}
	if err := p.ownNames(s); err != nil {
		return err
	}
	return p.sync()
}

func (p *places) rename(method, name string) error {
	if method == "exchange" {
		return unix.Renameat2(unix.AT_FDCWD, p.path(name), unix.AT_FDCWD, p.root, unix.RENAME_EXCHANGE)
	}
	if err := os.Remove(p.path(linkName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(live.DirName(p.root)+"/"+name, p.path(linkName)); err != nil {
		return err
	}
	return os.Rename(p.path(linkName), p.root)
}

// ownNames gives a generation that was live under the name of the other one its own.
func (p *places) ownNames(s *state) error {
	if s.Method != "exchange" {
		return nil
	}
	for _, at := range s.Generations {
		st, err := posix.StatAt(unix.AT_FDCWD, p.path(at.Name))
		if err != nil || st.Ino == at.Inode {
			continue
		}
		for _, g := range s.Generations {
			if g.Inode == st.Ino {
				if err := unix.Renameat2(unix.AT_FDCWD, p.path(at.Name), unix.AT_FDCWD, p.path(g.Name), unix.RENAME_NOREPLACE); err != nil {
					return fmt.Errorf("rename %s to %s: %w", p.path(at.Name), g.Name, err)
				}
				break
			}
		}
	}
	return nil
}

// remove removes something in the directory of generations. A generation is first put where only
// the running user gets to: who owns a directory in it could fill that while it is emptied, and
// nobody is to start a set-uid program of it any more.
func (p *places) remove(name string) error {
	if p.InPlace != nil || !namePattern.MatchString(name) {
		return posix.RemovePath(p.path(name))
	}
	err := posix.RemovePath(p.path(oldName))
	if err == nil {
		err = os.Mkdir(p.path(oldName), 0o700)
	}
	if fd, oerr := posix.OpenDir(unix.AT_FDCWD, p.path(name)); oerr == nil { // one that is sealed has no other name
		_, _ = posix.Unlock(fd)
		unix.Close(fd)
	}
	if err == nil {
		err = os.Rename(p.path(name), p.path(oldName+"/"+name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove generation %s: %w", name, err)
	}
	p.point("after it is put away")
	return posix.RemovePath(p.path(oldName))
}

// sync makes durable which names the root and the generations have.
func (p *places) sync() error { return errors.Join(durable.SyncDir(p.parent), durable.SyncDir(p.dir)) }
