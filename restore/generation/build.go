package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/walk"
)

// Build is how a generation is made.
type Build struct {
	Origin
	Number uint64
	ID     [32]byte // of the snapshot
	// Clone begins with a clone of the live generation, where that costs no space; with Copies
	// also where it does.
	Clone   bool
	Copies  bool
	OnClone string // what Fill does with a clone: then …
	// Fill makes an empty directory, or one with a clone, hold the tree. Carried data is
	// linked afterwards, in place of what is there.
	Fill func(ctx context.Context, dir string, cloned bool) error
	// Name, when set, is called after Fill, for what is known only then: it sets Number, ID
	// and Origin.
	Name func(ctx context.Context, dir string) error
}

// ErrLive is about a generation that is live already.
var ErrLive = errors.New("it is live already")

// Stage builds a generation beside the live one. One of the same snapshot that is there and
// as it was recorded is taken as it is; one that is bad is built again.
func (s *Set) Stage(ctx context.Context, b *Build) (*Generation, error) {
	if err := s.idle(); err != nil {
		return nil, err
	}
	for _, p := range s.Config.Carried() {
		if st, err := os.Lstat(s.data(p)); err != nil || st.Mode()&os.ModeSymlink != 0 {
			return nil, fmt.Errorf("data %q is not carried yet: knowngood generations %s --adopt moves it out of the live generation", p, s.Environment)
		}
	}
	if was, err := s.Live(); err == nil {
		if err := nothingMounted(s.topOf(was.Name)); err != nil {
			return nil, err
		}
	}
	if b.Name == nil {
		if g, err := s.ready(ctx, b); g != nil || err != nil {
			return g, err
		}
	}
	g, err := s.build(ctx, b)
	if err != nil {
		return nil, errors.Join(err, s.tidy())
	}
	return g, nil
}

// ready is a generation of the same snapshot that was built before, with the proof that there is
// now; nil where it must be built.
func (s *Set) ready(ctx context.Context, b *Build) (*Generation, error) {
	name := nameOf(b.Number, b.ID)
	g := s.state.find(name)
	if g == nil {
		return nil, nil
	}
	if name == s.liveName() {
		return nil, fmt.Errorf("%s: %w", g.Snapshot, ErrLive)
	}
	if g.Status != Bad && (g.Sealed != "") == s.Config.Switch.Seal {
		err := s.verify(ctx, g)
		if changed := (*ChangedError)(nil); !errors.As(err, &changed) {
			g.Proof = b.Proof
			return g, err
		}
		s.Note("%v; it is built anew", err)
	}
	return nil, s.discard(g)
}

// WentBack is why the generation of a snapshot went back here; empty where it did not.
func (s *Set) WentBack(number uint64, id [32]byte) string {
	if g := s.state.find(nameOf(number, id)); g != nil && g.Status == Bad {
		return g.Why
	}
	return ""
}

// discard removes a generation that nothing uses.
func (j *journal) discard(g *Generation) error {
	if held := HeldBy(j.path(g.Name)); len(held) > 0 {
		return fmt.Errorf("generation %s is still used by %s: restart or end it", g.Name, held[0])
	}
	j.state.drop(g.Name)
	if err := j.save("discard"); err != nil {
		return err
	}
	j.point("before removing")
	return errors.Join(j.remove(g.Name), j.remove(g.Name+recordName))
}

func (s *Set) build(ctx context.Context, b *Build) (*Generation, error) {
	if err := s.remove(newName); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.path(newName), 0o700); err != nil {
		return nil, err
	}
	s.point("before building")
	// No rename leaves a subvolume, as that of carried data would when it goes back.
	// And one with files that fs-verity protects could not be changed by what is next.
	top, way, subvolumes := s.path(newName+"/tree"), "", s.state.Method == "link" && len(s.Config.Carried()) == 0 && !s.Config.Switch.Seal
	if b.Clone {
		was, err := s.Live()
		if err != nil {
			return nil, err
		}
		unread := func(path string, err error) {
			s.Note("the clone is without %q, which cannot be read: %v", durable.Text(path, durable.MaxText), err)
		}
		if way, err = CloneTree(ctx, s.topOf(was.Name), top, Cloning{s.Config.Carried(), subvolumes, !b.Copies, unread}); err != nil {
			return nil, fmt.Errorf("clone of %s: %w", was.Name, err)
		}
	}
	if way == "" {
		if err := MakeTop(top, subvolumes); err != nil {
			return nil, err
		}
	}
	if err := b.Fill(ctx, top, way != ""); err != nil {
		return nil, err
	}
	if way != "" {
		b.Way = way + " of the live one, then " + b.OnClone
	}
	s.point("after filling")
	if err := s.linkData(top); err != nil {
		return nil, err
	}
	if b.Name != nil {
		if err := b.Name(ctx, top); err != nil {
			return nil, err
		}
		if g, err := s.ready(ctx, b); g != nil || err != nil {
			return g, errors.Join(err, s.remove(newName))
		}
	}
	g := &Generation{Name: nameOf(b.Number, b.ID), Status: Staged, Origin: b.Origin, Built: s.Now()}
	if err := posix.SyncFS(top); err != nil {
		return nil, err
	}
	st, err := posix.StatAt(unix.AT_FDCWD, top)
	if err != nil {
		return nil, err
	}
	g.Inode = st.Ino
	// Once it has its name, those who own files in it can change them.
	if s.Config.Switch.Seal {
		if g.Sealed, err = seal(ctx, top); err != nil {
			return nil, err
		}
	}
	if g.Digest, g.Entries, err = s.record(ctx, top, g.Name, false); err != nil {
		return nil, err
	}
	s.point("after its record")
	if err := s.named(g, top); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return nil, err
	}
	s.state.Generations = append(s.state.Generations, g)
	if err := s.save("staged"); err != nil {
		return nil, err
	}
	return g, s.remove(newName)
}

// linkData puts links to carried data into a tree, in place of what is there. No link of the
// tree is followed.
func (p *places) linkData(top string) error {
	for _, d := range p.Config.Carried() {
		err := inDirOf(top, d, func(dirfd int, name string) error {
			if err := posix.RemoveAll(dirfd, name); err != nil {
				return err
			}
			return unix.Symlinkat(p.data(d), dirfd, name)
		})
		if err != nil {
			return fmt.Errorf("link to carried data %q: %w", d, err)
		}
	}
	return nil
}

// openDirPath opens a directory as a mere reference to it, which no right to read takes.
const openDirPath = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// inDirOf opens the directory that a path below another one lies in, following no link, and
// makes what of it is missing.
func inDirOf(top, path string, do func(dirfd int, name string) error) error {
	names := strings.Split(path, "/")
	last := len(names) - 1
	dir, err := unix.Open(top, openDirPath, 0)
	for _, name := range names[:last] {
		if err != nil {
			return err
		}
		above := dir
		if err = unix.Mkdirat(above, name, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			dir, err = unix.Openat(above, name, openDirPath, 0)
		}
		unix.Close(above)
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return do(dir, names[last])
}

// prune removes what is more than is kept: bad ones that are older than the live one, then
// the oldest, but never the live one, the one before it, and what a process still uses.
func (j *journal) prune() error {
	liveName := j.liveName()
	before := j.state.before(liveName)
	var wanted, spent []*Generation
	isOlder := false
	for _, g := range j.state.newest() {
		isOlder = isOlder || g.Name == liveName
		if isOlder && g.Status == Bad {
			spent = append(spent, g)
		} else {
			wanted = append(wanted, g)
		}
	}
	kept := min(2, len(j.state.Generations))
	for _, g := range append(wanted, spent...) {
		if g.Name == liveName || g == before {
			continue
		}
		if kept++; kept <= int(j.Config.Generations.Keep) {
			continue
		}
		if held := HeldBy(j.path(g.Name)); len(held) > 0 {
			j.Note("generation %s is kept: %s still uses it", g.Name, held[0])
			if err := disarm(j, g); err != nil {
				return fmt.Errorf("generation %s: its set-uid programs: %w", g.Name, err)
			}
			continue
		}
		if err := j.discard(g); err != nil {
			return err
		}
	}
	return nil
}

// disarm takes the rights of others from the programs of a generation that goes once nothing uses
// it any more: anybody can use it for ever, to keep a set-uid program that has a hole. A file with
// further names may be one of another tree, and stays.
func disarm(j *journal, g *Generation) error {
	unread := func(string, error) {} // nor can it be started
	return eachBelow(context.Background(), j.path(g.Name), unread, func(n *walk.Node, _ string) error {
		if n.Stat.Type != inode.File || n.Stat.Mode&0o111 == 0 {
			return nil
		}
		dirfd, err := n.Dir.Open()
		if err != nil {
			return &unreadError{err}
		}
		fd, st, err := posix.OpenFile(dirfd, n.Name)
		if err != nil {
			return &unreadError{err}
		}
		defer unix.Close(fd)
		_, plain := unix.Fgetxattr(fd, "security.capability", nil)
		if st.Nlink > 1 || st.Mode&0o6000 == 0 && plain != nil {
			return nil
		}
		if g.Status != Bad {
			g.Status, g.Why = Bad, "its set-uid programs are none any more: it was to be removed, and was still used"
			if err := j.save("disarm"); err != nil {
				return err
			}
		}
		if _, err = posix.Unlock(fd); err == nil && plain == nil {
			err = unix.Fremovexattr(fd, "security.capability")
		}
		if err == nil {
			err = posix.Chmod(fd, st.Mode&^0o6000)
		}
		return err
	})
}

// ClockTick is by how much times of files lag behind the clock, at most.
const ClockTick = 20 * time.Millisecond

// Unsaved are files of the live generation that were changed or removed after a moment, by
// which a snapshot has what there was: outside of data, and not as the record of the
// generation has them. What was adopted has no record, so nothing is known to be missing in
// it.
func (s *Set) Unsaved(ctx context.Context, since time.Time) (*Changes, error) {
	g, err := s.Live()
	if err != nil {
		return nil, err
	}
	all := &Changes{}
	since = since.Add(-ClockTick)
	top := s.topOf(g.Name)
	unread := func(path string, err error) { all.add(path, "unreadable ("+err.Error()+")") }
	c := &scan{top: top, old: s.path(g.Name + recordName), moving: true, unread: unread, changed: func(x Change) {
		var saved bool
		if x.Is == nil {
			saved = x.Was.Type == inode.Dir || emptiedBefore(top, x.Path, since)
		} else {
			saved = x.Is.Type == inode.Dir || x.Is.Ctime.Time().Before(since)
		}
		if !saved && g.Snapshot == "" {
			x.Kind = "added or changed" // nothing is known of before
		}
		if !saved {
			all.add(x.Path, x.Kind)
		}
	}}
	for _, d := range s.Config.Data {
		c.without = append(c.without, d.Path)
	}
	if g.Snapshot == "" { // no snapshot has what was adopted, unless one was taken since
		c.old = ""
	}
	return all, c.run(ctx)
}

// emptiedBefore reports whether what is gone from a path was removed before a moment: the
// directory that it was in, or the nearest that is left, was not changed since. Where that
// was changed for another reason, it cannot be known, and is false. No link is followed.
func emptiedBefore(top, path string, moment time.Time) bool {
	st, err := posix.StatAt(unix.AT_FDCWD, top)
	changed := st.Mtime // a rename of the tree itself changes its ctime
	names := strings.Split(path, "/")
	for _, name := range names[:len(names)-1] {
		if top = filepath.Join(top, name); err == nil {
			st, err = posix.StatAt(unix.AT_FDCWD, top)
		}
		if err != nil || st.Type != inode.Dir {
			break
		}
		changed = st.Ctime
	}
	return changed.Time().Before(moment)
}
