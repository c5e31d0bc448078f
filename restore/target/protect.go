package target

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// protection is about the inode flags that forbid changes, immutable and
// append-only: they are set when all else is done, and removed where they are in
// the way.
type protection struct {
	paths   *Paths
	dir     *directory
	problem func(entry string, err error)

	mu      sync.Mutex
	due     flagLog
	removed map[string]uint32 // flags that directories had, by path below the target
}

// add remembers a file or directory that is to be protected.
func (p *protection) add(e *manifest.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due.add(e)
}

// remove removes flags that forbid to change the node of an entry, and the names
// in its directory. It reports whether there were any; undo gives the node its
// flags again, for when it could not be changed all the same.
func (p *protection) remove(entry string) (undo func(), did bool) {
	rel := p.paths.Rel(entry)
	h, name, err := p.dir.above(rel)
	if err != nil {
		return nil, false
	}
	defer h.Release()
	if h.Readable {
		did = p.removeDir(h.FD(), h.Path)
	}

	undo = func() {}
	switch st, err := posix.StatAt(h.FD(), name); {
	case err != nil || name == "":
	case st.Type == manifest.Dir:
		if fd, err := posix.OpenDir(h.FD(), name); err == nil {
			did = p.removeDir(fd, rel) || did
			unix.Close(fd)
		}
	case st.Type == manifest.File:
		fd, _, err := posix.OpenFile(h.FD(), name)
		if err != nil {
			break
		}
		flags, _, _ := posix.InodeFlags(fd)
		if unlocked, _ := posix.Unlock(fd); !unlocked {
			unix.Close(fd)
			break
		}
		did = true
		unix.Close(fd)
		undo = func() {
			if err := p.set(rel, manifest.File, flags); err != nil {
				p.problem(entry, err)
			}
		}
	}
	return undo, did
}

// removeDir removes the flags of an open directory, until its entry gives it
// others, or the restore ends.
func (p *protection) removeDir(fd int, rel string) bool {
	flags, _, _ := posix.InodeFlags(fd)
	if did, _ := posix.Unlock(fd); !did {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed == nil {
		p.removed = map[string]uint32{}
	}
	if _, ok := p.removed[rel]; !ok {
		p.removed[rel] = flags
	}
	return true
}

// settled reports that a directory has the flags of its entry.
func (p *protection) settled(rel string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.removed, rel)
}

// putBack gives directories the flags that were removed from them, unless they are
// gone, or an entry gave them others.
func (p *protection) putBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for rel, flags := range p.removed {
		if err := p.set(rel, manifest.Dir, flags); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			p.problem(p.paths.entry(rel), err)
		}
	}
	clear(p.removed)
}

// protect gives everything that was restored the flags that forbid changes: the
// target itself, from which a marker may have to be removed before, or all
// below it.
func (p *protection) protect(target bool) {
	p.due.each(func(entry string, kind manifest.Type, flags uint32) {
		rel := p.paths.Rel(entry)
		if target != (rel == "") {
			return
		}
		if err := p.set(rel, kind, flags); err != nil {
			p.problem(entry, err)
		}
	})
}

// set adds those of the flags that forbid changes to the others of a file or
// directory.
func (p *protection) set(rel string, kind manifest.Type, flags uint32) error {
	if rel == "" {
		return addFlags(p.dir.fd, flags)
	}
	h, name, err := p.dir.above(rel)
	if err != nil {
		return err
	}
	defer h.Release()

	fd := -1
	if kind == manifest.Dir {
		fd, err = posix.OpenDir(h.FD(), name)
	} else {
		fd, _, err = posix.OpenFile(h.FD(), name)
	}
	if err != nil {
		return fmt.Errorf("inode flags: %w", err)
	}
	defer unix.Close(fd)
	return addFlags(fd, flags)
}

func addFlags(fd int, flags uint32) error {
	if p := posix.Protect(fd, flags); p != nil {
		return p
	}
	return nil
}
