package restore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// links makes the names of inodes that have several, and knows those that are met
// in the target.
type links struct {
	target   *target.Target
	report   *report
	replacer *replacer
	dryRun   bool

	// settle means that complete groups need no more than settled has of them: there
	// is nothing in the target to compare with.
	settle bool

	// waiting means that a group waits until all its names are known; second that
	// they are, and entries are read for the second time.
	waiting atomic.Bool
	second  bool

	mu      sync.Mutex
	groups  map[uint64]*linkGroup // those that are not settled
	settled settled
	later   map[string]error // names for the next stage, apart from the first of their inode, and why

	// claims has, for inodes of the target with several names, the group that
	// keeps them. Another group that has names there was merged with it, and gets
	// an inode of its own.
	claims map[posix.DevIno]*linkGroup
}

// linkGroup is an inode of the snapshot with several names. A nil group is
// that of a node with one name.
type linkGroup struct {
	links  *links
	number uint64 // in the snapshot
	path   string // its first name, which is made before the others
	dir    uint32 // of path; see settled.enter
	kind   manifest.Type
	size   uint64
	what   [16]byte // see manifest.Entry.InodeDigest

	mu     sync.Mutex
	inode  posix.DevIno // of the first name, once done
	done   bool
	failed bool
	later  []string // names to be made when the first is done
	unlike bool     // it was reported that not all names are one inode

	// renewed means that the first name is not the inode that was there, and so the
	// others are not either.
	renewed bool
	waiting bool // for all names to be known
}

// group returns the link group of an entry with this digest. linked means that
// the entry is another name of what the group has already. An entry that the list
// has in a group, and that is something else, is a node of its own: so nothing
// gets the content or the metadata of another file.
func (l *links) group(e *manifest.Entry, what [16]byte) (g *linkGroup, linked bool) {
	if e.Link == 0 {
		return nil, false
	}
	l.mu.Lock()
	if g = l.groups[e.Link]; g == nil {
		g = l.settled.group(l, e)
	}
	first := g == nil
	if first {
		g = &linkGroup{links: l, number: e.Link, path: strings.Clone(e.Path), dir: l.settled.enter(e.Path), kind: e.Type, size: e.Size, what: what}
		l.groups[e.Link] = g
	}
	l.mu.Unlock()

	switch {
	case first:
		return g, false
	case g.what == what:
		return g, true
	}

	const differ = "the snapshot has it as the same file as %q, and with other content or metadata: restored as a file of its own; compare both with an older snapshot"
	if !g.unlike {
		l.markUnlike(g)
		l.report.problem(g.path, fmt.Errorf(differ, "/"+e.Path))
	}
	l.report.problem(e.Path, fmt.Errorf(differ, "/"+g.path))
	return nil, false
}

func (l *links) markUnlike(g *linkGroup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.unlike = true
	if s := l.settled.groups.Get(g.number); s != nil {
		s.unlike = true
	}
}

// claim reports whether an inode of the target with several names may stay what
// it is for a group: no other group has it.
func (l *links) claim(st *posix.Stat, g *linkGroup) bool {
	if g == nil {
		g = &linkGroup{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()

	other, taken := l.claims[st.ID()]
	if !taken {
		l.claims[st.ID()] = g
	}
	return !taken || other == g
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
func (l *links) holdsAll(g *linkGroup, st *posix.Stat) bool {
	g.mu.Lock()
	names := append([]string{g.path}, g.later...)
	g.mu.Unlock()

	there := uint32(0)
	for _, path := range names {
		if other, err := l.target.Stat(path); err == nil && other.ID() == st.ID() {
			there++
		}
	}
	return there == st.Nlink
}

// add gives an inode that has its first name another one, now or when it is
// complete.
func (l *links) add(g *linkGroup, path string) error {
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
		return l.linkNow(g, path)
	}
	return nil
}

var errOtherName = errors.New("NOT restored: another name of a file that could not be restored")

func (l *links) linkNow(g *linkGroup, path string) error {
	action := ""
	link := func() (err error) {
		action, err = l.action(g, path)
		switch {
		case err != nil || action == "unchanged":
			return err
		case l.dryRun:
			return l.mayLink(g, path)
		}
		return l.make(g, path, action)
	}
	// A protected inode gets no further names.
	err := l.target.With(path, func() error { return l.target.With(g.path, link) })
	if errors.Is(err, errNoLink) {
		l.postpone(g, path, err)
		return nil
	}
	if err != nil {
		return notRestored(err)
	}
	l.report.done(action, path, g.kind, g.size)
	return nil
}

// action finds out what has to be done to a further name of an inode.
func (l *links) action(g *linkGroup, path string) (string, error) {
	st, err := l.target.Stat(path)
	if errors.Is(err, unix.ENOENT) {
		return "create", nil
	}
	if err != nil {
		return "", err
	}
	if st.Type == manifest.Dir {
		return "change", l.replacer.mayClear(path)
	}
	if l.dryRun && g.renewed {
		return "change", nil
	}

	first, err := l.target.Stat(g.path)
	if err != nil && !(l.dryRun && errors.Is(err, unix.ENOENT)) {
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

func (l *links) make(g *linkGroup, path, action string) error {
	from, fromName, err := l.target.Above(g.path)
	if err != nil {
		return err
	}
	defer from.Release()
	h, name, err := l.target.Above(path)
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
	if err = l.replacer.replace(h, as, name, path); err != nil {
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

// complete makes the other names of an inode that has its first one.
func (g *linkGroup) complete() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	later := g.later
	g.done, g.later = true, nil
	g.mu.Unlock()

	for _, path := range later {
		if err := g.links.report.fatal(path, g.links.linkNow(g, path)); err != nil {
			return err
		}
	}

	if l := g.links; l.settle {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.groups[g.number] == g && l.settled.add(g) {
			delete(l.groups, g.number)
		}
	}
	return nil
}

// fail reports the other names of an inode that cannot be restored.
func (g *linkGroup) fail() {
	if g == nil {
		return
	}
	g.mu.Lock()
	later := g.later
	g.failed, g.later = true, nil
	g.mu.Unlock()

	for _, path := range later {
		g.links.report.problem(path, errOtherName)
	}
}

// errNoLink means that an inode cannot get another name where the name is to
// lie: on another file system, or on one that allows no more names, or none.
var errNoLink = errors.New("it cannot be linked there")

// cannotLink adds errNoLink to those errors of link(2) that mean it.
func cannotLink(err error) error {
	for _, no := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.ENOTSUP, unix.ENOSYS} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w (%w)", errNoLink, err)
		}
	}
	return err
}

// mayLink returns an error when a name would lie on another file system than the
// first name of its inode, for a dry run.
func (l *links) mayLink(g *linkGroup, path string) error {
	if l.target.Device(g.path) != l.target.Device(path) {
		return cannotLink(unix.EXDEV)
	}
	return nil
}

// postpone leaves a name of a group to the next stage.
func (l *links) postpone(g *linkGroup, path string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later == nil {
		l.later = map[string]error{}
	}
	l.later[strings.Clone(path)] = fmt.Errorf("restored as a file of its own, and not as another name of %q: %w", "/"+g.path, err)
}

// nextStage begins the stage of the names that were postponed, and reports
// whether there are any.
func (l *links) nextStage() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.apart, l.later = l.later, nil
	l.groups, l.settled, l.second = map[uint64]*linkGroup{}, settled{}, false
	l.waiting.Store(false)
	return len(l.report.apart) > 0
}
