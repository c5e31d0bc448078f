package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/live"
	"knowngood/snapshot/walk"
)

// Plan is what adopting an existing directory would do.
type Plan struct {
	Root, Dir, Name string
	Data            []string // that is moved out of the tree
}

// Adopt makes an existing directory the first generation: with method link it and a link
// change places. Carried data is moved out of it, each by one exchange. An environment that
// was adopted before only gets the data moved that is not yet. A dry run changes nothing but
// a directory of its own, which it removes.
func Adopt(ctx context.Context, o *Options, dry bool) (*Plan, error) {
	s, err := opened(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.idle(); err != nil {
		return nil, err
	}
	p, err := s.plan(ctx)
	if err != nil || dry || s.state.adopted() && len(p.Data) == 0 {
		return p, err
	}
	if s.state == nil {
		if err := s.begin(); err != nil {
			return nil, err
		}
	}
	s.state.Transaction = &transaction{Kind: "adopt", To: p.Name, Data: p.Data, Boot: BootID()}
	if err := s.save("adopt"); err != nil {
		return nil, err
	}
	return p, s.adopt(ctx)
}

// plan finds out what adopting would do, and refuses what cannot be adopted.
func (s *Set) plan(ctx context.Context) (*Plan, error) {
	p := &Plan{Root: s.root, Dir: s.dir}
	top := s.root
	if s.state.adopted() {
		g, err := s.Live()
		if err != nil {
			return nil, err
		}
		p.Name, top = g.Name, s.topOf(g.Name)
	} else {
		st, err := posix.StatAt(unix.AT_FDCWD, s.root)
		switch {
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: s.root, Err: err}
		case st.Type != inode.Dir:
			return nil, fmt.Errorf("%s is no directory: only a directory can become a generation", s.root)
		}
		if mounted, err := posix.IsMountPoint(s.root); err != nil || mounted {
			return nil, errors.Join(err, fmt.Errorf("a file system is mounted on %s: generations lie beside it, so they need a directory within one file system", s.root))
		}
		if err := canExchange(s.parent); err != nil {
			return nil, err
		}
		p.Name = fmt.Sprintf("adopted-%08x", uint32(st.Ino))
		if err := s.movable(ctx, p.Name); err != nil {
			return nil, err
		}
	}
	for _, d := range s.Config.Carried() {
		st, err := statBeneath(top, d)
		switch {
		case err != nil:
			return nil, fmt.Errorf("data %q: %w (make it first, or correct the path)", d, err)
		case st.Type == inode.Symlink && exists(s.data(d)):
		case st.Type != inode.Dir && st.Type != inode.File:
			return nil, fmt.Errorf("data %q is neither a directory nor a file", d)
		default:
			p.Data = append(p.Data, d)
		}
	}
	return p, nil
}

// movable refuses a directory of which something would be lost where a link takes its place: what
// is mounted in it, and where its links out of it lead, because these would begin elsewhere.
func (s *Set) movable(ctx context.Context, name string) error {
	if err := nothingMounted(s.root); err != nil || s.Config.Switch.Method != "link" {
		return err
	}
	unread := func(string, error) {} // that is noted where the tree is recorded
	return eachBelow(ctx, s.root, unread, func(n *walk.Node, rel string) error {
		if n.Stat.Type != inode.Symlink {
			return nil
		}
		dirfd, err := n.Dir.Open()
		if err != nil {
			return &unreadError{err}
		}
		target, err := posix.Readlink(dirfd, n.Name)
		if err != nil {
			return &unreadError{err}
		}
		was, is := filepath.Join(s.root, filepath.Dir(rel), target), filepath.Join(s.path(name), filepath.Dir(rel), target)
		if _, err := os.Stat(was); err != nil || was == is || !leadsOut(rel, target) {
			return nil
		}
		return fmt.Errorf("this link leads out of the tree by %q, and from a generation, which lies in %s, to %s: make it %s, or set method: exchange", target, s.dir, is, was)
	})
}

// nothingMounted refuses a tree in which something is mounted: that would stay there, and not be in
// the one that goes live next.
func nothingMounted(top string) error {
	all, err := posix.Mounts(top)
	if err == nil && len(all) > 0 {
		err = fmt.Errorf("a file system is mounted on %s, which would stay there when another generation goes live: mount it outside, and have a link to it in the tree", all[0].Path)
	}
	return err
}

// leadsOut reports whether a link at a path leads out of its tree by "..".
func leadsOut(rel, target string) bool {
	return !filepath.IsAbs(target) && !filepath.IsLocal(filepath.Join(filepath.Dir(rel), target))
}

// statBeneath describes a path below a directory, following no link.
func statBeneath(top, path string) (posix.Stat, error) {
	fd, err := unix.Open(top, openDirPath, 0)
	if err != nil {
		return posix.Stat{}, err
	}
	defer unix.Close(fd)
	at, err := unix.Openat2(fd, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if errors.Is(err, unix.EXDEV) {
		err = errors.New("another file system is mounted there")
	}
	if err != nil {
		return posix.Stat{}, err
	}
	defer unix.Close(at)
	return posix.StatFd(at)
}

// canExchange finds out whether a directory and a link can change places below a directory. An
// overlay exchanges only what was made in it, so it is refused as a whole.
func canExchange(parent string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: parent, Err: err}
	} else if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s is on an overlay: %w", parent, unsupported(unix.EXDEV))
	}
	dir, err := os.MkdirTemp(parent, ".knowngood-try-")
	if err != nil {
		return fmt.Errorf("generations lie beside the root: %w", err)
	}
	defer os.RemoveAll(dir)
	err = errors.Join(os.Mkdir(dir+"/a", 0o700), os.Symlink("a", dir+"/b"))
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE)
	}
	return unsupported(err)
}

// begin makes the directory of generations, and its state.
func (j *journal) begin() error {
	err := os.Mkdir(j.dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = live.Ours(j.dir) // where others may make names, one could have made this in the meantime
	}
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(j.dir, 0o755), durable.SyncDir(j.parent)); err != nil { // whatever the umask
		return err
	}
	j.point("after the directory")
	if j.lock == nil {
		if err := j.acquire(); err != nil {
			return err
		}
		if j.state != nil {
			return fmt.Errorf("%s was adopted by another process: %w", j.root, ErrBusy)
		}
	}
	j.state = &state{Version: stateVersion, Environment: j.Environment, Root: j.Config.Root, Method: j.Config.Switch.Method, Generations: []*Generation{}}
	return nil
}

// adopt does what the transaction names, each part unless it is done.
func (j *journal) adopt(ctx context.Context) error {
	if j.toExchange() {
		if err := j.exchangeRoot(j.state.Transaction.To, true); err != nil {
			return err
		}
	}
	return j.finishAdoption(ctx)
}

// toExchange reports whether the root has still to change places with a link.
func (j *journal) toExchange() bool {
	return j.state.Method == "link" && !j.state.adopted() && !j.isLink()
}

func (p *places) isLink() bool {
	_, err := live.Link(p.root)
	return err == nil
}

// exchangeRoot exchanges the root and its generation, of which one is a link to the other.
func (p *places) exchangeRoot(name string, toLink bool) error {
	if toLink {
		if err := os.Symlink(live.DirName(p.root)+"/"+name, p.path(name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	p.point("before the exchange")
	if err := unix.Renameat2(unix.AT_FDCWD, p.path(name), unix.AT_FDCWD, p.root, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", p.root, p.path(name), unsupported(err))
	}
	p.point("after the exchange")
	return p.sync()
}

// finishAdoption moves the data, and records the generation.
func (j *journal) finishAdoption(ctx context.Context) error {
	t := j.state.Transaction
	top := j.path(t.To)
	if j.state.Method == "exchange" {
		top = j.root
	}
	for _, d := range t.Data {
		if err := j.moveData(top, d, true); err != nil {
			return err
		}
	}
	if err := posix.SyncFS(j.dir); err != nil {
		return err
	}
	st, err := posix.StatAt(unix.AT_FDCWD, top)
	if err != nil {
		return err
	}
	g := j.state.find(t.To)
	if g == nil {
		g = &Generation{Name: t.To, Status: Committed, Origin: Origin{Way: "adopted", Proof: "it was there before"}, Built: j.Now(), LiveAt: j.Now()}
		j.state.Generations = append(j.state.Generations, g)
	}
	g.Inode = st.Ino
	if g.Digest, g.Entries, err = j.record(ctx, top, t.To, true); err != nil {
		return err
	}
	j.state.Transaction = nil
	return j.save("adopted")
}

// moveData exchanges carried data in a tree and its place outside, of which one is a link to
// the other: out of the tree, or back into it. What is where it belongs stays.
func (p *places) moveData(top, path string, out bool) error {
	place := p.data(path)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	st, err := os.Lstat(place)
	inTree, terr := statBeneath(top, path)
	if terr != nil {
		return fmt.Errorf("data %q: %w", path, terr)
	}
	if out == (inTree.Type == inode.Symlink) {
		return nil // done
	}
	if out && errors.Is(err, fs.ErrNotExist) {
		err = os.Symlink(place, place)
	} else if err == nil && out != (st.Mode()&os.ModeSymlink != 0) {
		err = fmt.Errorf("%s is in the way", place)
	}
	if err != nil {
		return err
	}
	p.point("before moving data")
	err = inDirOf(top, path, func(dirfd int, name string) error {
		return unix.Renameat2(dirfd, name, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE)
	})
	if err != nil {
		return fmt.Errorf("data %q: %w", path, unsupported(err))
	}
	p.point("after moving data")
	return nil
}

// recoverAdoption finishes an adoption, or forgets one that changed nothing.
func (j *journal) recoverAdoption(ctx context.Context) error {
	if j.toExchange() {
		j.Note("adopting %s was interrupted before it began: it is as it was", j.root)
		return forget(j)
	}
	j.Note("adopting %s was interrupted: it is finished", j.root)
	return j.finishAdoption(ctx)
}

// Release makes the root a plain directory again: the live generation, with its carried data
// in it. The other generations are removed, unless a process uses them.
func Release(ctx context.Context, o *Options) error {
	s, err := open(o)
	if err != nil {
		return err
	}
	defer s.Close()
	if s.state == nil {
		return s.notAdopted()
	}
	if err := s.recover(ctx); err != nil || s.state == nil {
		return err
	}
	if err := s.idle(); err != nil {
		return err
	}
	g, err := s.Live()
	if err != nil {
		return err
	}
	for _, other := range s.state.Generations {
		if held := s.Holders(other.Name); other != g && len(held) > 0 {
			return fmt.Errorf("generation %s would be removed, and is still used by %s: restart or end it", other.Name, held[0])
		}
	}
	s.state.Transaction = &transaction{Kind: "release", From: g.Name, Data: s.carriedNow(s.topOf(g.Name)), Boot: BootID()}
	if err := s.save("release"); err != nil {
		return err
	}
	return s.release(ctx)
}

// carriedNow are the paths of a tree that are links to carried data.
func (p *places) carriedNow(top string) []string {
	return slices.DeleteFunc(p.Config.Carried(), func(d string) bool {
		st, err := statBeneath(top, d)
		return err != nil || st.Type != inode.Symlink || !exists(p.data(d))
	})
}

// release does what is left of it: the data goes back, then the tree, then the rest.
func (j *journal) release(ctx context.Context) error {
	t, top := j.state.Transaction, j.root
	linked := j.state.Method == "link" && j.isLink()
	if linked {
		top = j.path(t.From)
	}
	if g := j.state.find(t.From); g != nil && g.Sealed != "" {
		if err := unseal(ctx, top); err != nil {
			return err
		}
	}
	for _, d := range t.Data {
		if err := j.moveData(top, d, false); err != nil {
			return err
		}
	}
	if linked {
		if err := j.exchangeRoot(t.From, false); err != nil {
			return err
		}
	}
	if err := posix.SyncFS(j.dir); err != nil {
		return err
	}
	j.point("before removing")
	left, err := j.leftData()
	if err != nil {
		return err
	}
	if left != "" {
		return fmt.Errorf("%s holds data that the live generation has no link to: move it away, then release again", left)
	}
	return forget(j)
}

// forget removes the directory of generations, its state last: until then the next command
// goes on. Nothing is locked after it.
func forget(j *journal) error {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Name() == live.StateFile || n.Name() == lockName {
			continue
		}
		if err := j.remove(n.Name()); err != nil {
			return err
		}
	}
	j.point("before the last")
	if err := posix.RemovePath(j.dir); err != nil {
		return err
	}
	j.lock.Close()
	j.state, j.lock = nil, nil
	return durable.SyncDir(j.parent)
}

// begun reports whether the directory has only what is in it before the first adoption has a
// state.
func (p *places) begun() bool {
	names, err := os.ReadDir(p.dir)
	return err == nil && !slices.ContainsFunc(names, func(n fs.DirEntry) bool {
		return n.Name() != lockName && n.Name() != durable.Reserve && !strings.HasPrefix(n.Name(), "."+live.StateFile)
	})
}

// leftData is a file of carried data that is still outside of the tree; empty for none.
func (p *places) leftData() (left string, err error) {
	err = filepath.WalkDir(p.data(""), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return fs.SkipAll
		}
		if err == nil && !d.IsDir() && d.Type()&fs.ModeSymlink == 0 {
			left = path
			return fs.SkipAll
		}
		return err
	})
	return left, err
}
