package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// links are the inodes with several names, those of the snapshot and those
// that are met in the target.
type links struct {
	groups map[uint64]*linkGroup

	// waiting says that a group waits until all its names are known; second
	// that they are, and entries are read for the second time.
	waiting atomic.Bool
	second  bool

	mu sync.Mutex
	// apart are the names that are restored apart from the first of their inode
	// in this stage, because they cannot be linked to it, and why; later those
	// of the next stage.
	apart map[string]error
	later map[string]error

	// claims says which inodes of the target, of those with several names,
	// stay for which group. Another group that has names there was merged
	// with it, and gets an inode of its own.
	claims map[posix.DevIno]*linkGroup
}

// linkGroup is an inode of the snapshot with several names. A nil group is
// that of a node with one name.
type linkGroup struct {
	path string // its first name, which is made before the others
	kind manifest.Type
	size uint64
	what [16]byte // see manifest.Entry.InodeDigest

	mu     sync.Mutex
	inode  posix.DevIno // of the first name, once done
	done   bool
	failed bool
	later  []string // names to be made when the first is done
	unlike bool     // it was reported that not all names are one inode

	// renewed says that the first name is not the inode that was there, and so
	// the others are not either.
	renewed bool
	waiting bool // for all names to be known
}

// group is the link group of an entry with this digest. linked says that the
// entry is another name of what the group has already. An entry that the list
// has in a group, and that is something else, is a node of its own: so nothing
// gets the content or the metadata of another file.
func (r *restorer) group(e *manifest.Entry, what [16]byte) (g *linkGroup, linked bool) {
	if e.Link == 0 {
		return nil, false
	}
	g = r.links.groups[e.Link]
	switch {
	case g == nil:
		g = &linkGroup{path: strings.Clone(e.Path), kind: e.Type, size: e.Size, what: what}
		r.links.groups[e.Link] = g
		return g, false
	case g.what == what:
		return g, true
	}

	const differ = "the snapshot has it as the same file as %q, and with other content or metadata: restored as a file of its own; compare both with an older snapshot"
	if !g.unlike {
		g.unlike = true
		r.problem(g.path, fmt.Errorf(differ, "/"+e.Path))
	}
	r.problem(e.Path, fmt.Errorf(differ, "/"+g.path))
	return nil, false
}

// claim reports whether an inode of the target with several names may stay what
// it is for a group: no other group has it.
func (l *links) claim(st *posix.Stat, g *linkGroup) bool {
	if g == nil {
		g = &linkGroup{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()

	if l.claims == nil {
		l.claims = map[posix.DevIno]*linkGroup{}
	}
	other, taken := l.claims[st.ID()]
	if !taken {
		l.claims[st.ID()] = g
	}
	return !taken || other == g
}

// waited takes up a file whose group waited, when its entry is read again.
func (r *restorer) waited(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	g := r.links.groups[e.Link]
	if g == nil || !g.waiting || g.path != e.Path {
		return nil
	}
	r.owners.Apply(ctx, e, false)
	return ex.send(&file{entry: e, fd: -1, group: g})
}

// wait makes a group wait until all its names are known.
func (l *links) wait(g *linkGroup) {
	g.mu.Lock()
	g.waiting = true
	g.mu.Unlock()
	l.waiting.Store(true)
}

// holdsAll reports whether an inode of the target has no names but those of a
// group: then what is done to it is done to nothing else. The stat is older
// than the look at the names.
func (r *restorer) holdsAll(g *linkGroup, st *posix.Stat) bool {
	g.mu.Lock()
	names := append([]string{g.path}, g.later...)
	g.mu.Unlock()

	there := uint32(0)
	for _, path := range names {
		if other, err := r.stat(path); err == nil && other.ID() == st.ID() {
			there++
		}
	}
	return there == st.Nlink
}

// link gives an inode that has its first name another one, now or when it is
// complete.
func (r *restorer) link(g *linkGroup, path string) error {
	g.mu.Lock()
	done, failed := g.done, g.failed
	if !done && !failed {
		g.later = append(g.later, strings.Clone(path))
	}
	g.mu.Unlock()

	switch {
	case failed:
		return errOtherName
	case done:
		return r.linkNow(g, path)
	}
	return nil
}

var errOtherName = errors.New("not restored: another name of a file that could not be restored")

func (r *restorer) linkNow(g *linkGroup, path string) error {
	action := ""
	make := func() (err error) {
		action, err = r.linkAction(g, path)
		switch {
		case err != nil || action == "unchanged":
			return err
		case r.DryRun:
			return r.mayLink(g, path)
		}
		return r.makeLink(g, path, action)
	}
	// A protected inode gets no further names.
	err := r.with(path, func() error { return r.with(g.path, make) })
	if errors.Is(err, errNoLink) {
		r.links.putOff(g, path, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("not restored: %w", err)
	}
	r.done(action, path, g.kind, g.size)
	return nil
}

// linkAction finds out what has to be done to a further name of an inode.
func (r *restorer) linkAction(g *linkGroup, path string) (string, error) {
	st, err := r.stat(path)
	if errors.Is(err, unix.ENOENT) {
		return "create", nil
	}
	if err != nil {
		return "", err
	}
	if st.Type == manifest.Dir {
		return "change", r.mayClear(path)
	}
	if r.DryRun && g.renewed {
		return "change", nil
	}

	first, err := r.stat(g.path)
	if err != nil && !(r.DryRun && errors.Is(err, unix.ENOENT)) {
		return "", err
	}
	if err == nil && st.ID() == first.ID() {
		return "unchanged", nil
	}
	return "change", nil
}

// linkInode gives the inode of the first name another one. Who may change the
// directory of the first name could have put something else there meanwhile.
func (g *linkGroup) linkInode(fromfd int, from string, fd int, name string) error {
	if err := unix.Linkat(fromfd, from, fd, name, 0); err != nil {
		return cannotLink(err)
	}
	st, err := posix.StatAt(fd, name)
	if err == nil && st.ID() != g.inode {
		unix.Unlinkat(fd, name, 0)
		err = fmt.Errorf("/%s, another name of it, was replaced while the restore ran", g.path)
	}
	return err
}

func (r *restorer) makeLink(g *linkGroup, path, action string) error {
	from, fromName, err := r.within(g.path)
	if err != nil {
		return err
	}
	defer from.Release()
	h, name, err := r.within(path)
	if err != nil {
		return err
	}
	defer h.Release()

	as := name
	if action != "create" {
		as = walk.PartName(name)
		if err := removePart(h.FD(), as); err != nil {
			return err
		}
	}
	if err := g.linkInode(from.FD(), fromName, h.FD(), as); err != nil || as == name {
		return err
	}
	if err = r.replace(h, as, name, path); err != nil {
		unix.Unlinkat(h.FD(), as, 0)
	}
	return err
}

// renew notes that the first name gets an inode that was not there.
func (g *linkGroup) renew() {
	if g != nil {
		g.renewed = true
	}
}

// complete makes the other names of an inode that has its first.
func (g *linkGroup) complete(r *restorer) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	later := g.later
	g.done, g.later = true, nil
	g.mu.Unlock()

	for _, path := range later {
		if err := r.fatal(path, r.linkNow(g, path)); err != nil {
			return err
		}
	}
	return nil
}

// fail names the other names of an inode that cannot be restored.
func (g *linkGroup) fail(r *restorer) {
	if g == nil {
		return
	}
	g.mu.Lock()
	later := g.later
	g.failed, g.later = true, nil
	g.mu.Unlock()

	for _, path := range later {
		r.problem(path, errOtherName)
	}
}
