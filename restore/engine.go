package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// pendingDir is a directory on the way to the present entry. It is made when
// something below it is, or when it is wanted itself.
type pendingDir struct {
	entry manifest.Entry
	made  bool
}

// linkGroup is an inode with several names.
type linkGroup struct {
	of     manifest.Type
	mu     sync.Mutex
	path   string // the name that is complete, once done
	done   bool
	failed bool
	later  []string // names to be made when it is complete
	// renewed is of a dry run: the inode would be another than is there, and
	// so would what the other names stand for.
	renewed bool
}

// run is the pipeline: entries in path order; existing files compared on all
// cores; ranges fetched and decoded by many.
func (r *restorer) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	r.ranges = make(chan *rangeJob)
	r.window = newWindow(r)
	r.commit.r = r
	if !r.DryRun {
		f := newFetcher(r)
		for range rangesInFlight {
			g.Go(func() error { return f.work(gctx) })
		}
	}
	g.Go(func() error {
		defer close(r.ranges)
		return r.feed(gctx)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.commit.flush(); err != nil {
		return err
	}
	if r.Delete && r.compare && r.root >= 0 {
		return r.deleteExtra(ctx)
	}
	return nil
}

// feed walks the entries, makes directories and small nodes, and hands files on.
func (r *restorer) feed(ctx context.Context) error {
	var ex *examiner
	if r.compare && r.root >= 0 {
		ex = newExaminer(ctx, r)
	}
	err := r.entries(ctx, ex)
	if ex != nil {
		if werr := ex.wait(); err == nil {
			err = werr
		}
	}
	if err != nil {
		return err
	}
	return r.window.flush(ctx)
}

func (r *restorer) entries(ctx context.Context, ex *examiner) error {
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		if err != nil {
			var se *snapshot.SegmentError
			if !errors.As(err, &se) {
				return err
			}
			r.problem(se.First, err)
			continue
		}
		if err := r.entry(ctx, ex, e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// entry restores one entry, or hands it on.
func (r *restorer) entry(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	for len(r.chain) > 0 && !manifest.Within(e.Path, r.chain[len(r.chain)-1].entry.Path) {
		r.chain = r.chain[:len(r.chain)-1]
	}
	wanted := r.wanted(e.Path, e.Type == manifest.Dir)
	if wanted && e.Flags != 0 {
		if e = r.flagged(e); e == nil {
			return nil
		}
	}
	r.owners.apply(ctx, e, wanted)
	if e.Type == manifest.Dir {
		r.chain = append(r.chain, &pendingDir{entry: *e})
		if wanted {
			r.result.Directories++
			return r.fatal(e.Path, r.makeDirs())
		}
		return nil
	}
	if !wanted {
		return nil
	}
	if err := r.makeDirs(); err != nil {
		return r.fatal(e.Path, err)
	}
	if e.Type == manifest.File {
		r.result.Files++
		r.result.Bytes += e.Size
	} else {
		r.result.Others++
	}
	if e.Link != 0 {
		if g, ok := r.links[e.Link]; ok && g.of != e.Type {
			return r.fatal(e.Path, fmt.Errorf("not restored: the snapshot has it as a %v and as another name of a %v", e.Type, g.of))
		} else if ok {
			return r.fatal(e.Path, r.link(g, e.Path))
		}
		r.links[e.Link] = &linkGroup{of: e.Type}
	}
	if e.Type != manifest.File {
		return r.fatal(e.Path, r.node(e))
	}
	f := &file{entry: e, fd: -1, group: r.links[e.Link]}
	if ex != nil {
		return ex.send(f)
	}
	r.change("create", e.Path)
	if r.DryRun {
		return f.group.planned(r, e.Path)
	}
	return r.window.add(ctx, f)
}

// fatal turns an error that concerns one node into a problem, and lets
// through those that end the restore.
func (r *restorer) fatal(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS), errors.Is(err, unix.EIO), errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%q: %w", "/"+path, err)
	}
	r.problem(path, err)
	return nil
}

// makeDirs makes the directories of the chain that are missing.
func (r *restorer) makeDirs() error {
	for _, d := range r.chain {
		if d.made {
			continue
		}
		d.made = true
		rel := r.rel(d.entry.Path)
		if rel == "" {
			// The target itself: it takes on what was captured, not what was implied.
			if d.entry.Flags&manifest.Implied == 0 && !unknown(&d.entry) {
				r.log.add(&d.entry)
			}
			continue
		}
		made, err := r.makeDir(rel, &d.entry)
		if err != nil {
			return err
		}
		if (made || d.entry.Flags&manifest.Implied == 0) && !unknown(&d.entry) {
			r.log.add(&d.entry)
		}
	}
	return nil
}

func (r *restorer) makeDir(rel string, e *manifest.Entry) (made bool, err error) {
	path := e.Path
	if r.root < 0 {
		r.change("create", path)
		return true, nil
	}
	dir, name := split(rel)
	h, err := r.dirs.Get(dir)
	if err != nil {
		if r.DryRun {
			r.change("create", path)
			return true, nil
		}
		return false, err
	}
	defer h.Release()
	if r.compare {
		st, err := posix.StatAt(h.FD(), name)
		switch {
		case err == nil && st.Type == manifest.Dir:
			r.change("unchanged", path)
			return false, nil
		case err == nil && e.Flags&manifest.ListingUnread != 0:
			return false, fmt.Errorf("a %v is in the way, and what the directory held is not in the snapshot", st.Type)
		case err == nil:
			r.change("change", path)
			if r.DryRun {
				return true, nil
			}
			if err := unix.Unlinkat(h.FD(), name, 0); err != nil {
				return false, err
			}
			return true, unix.Mkdirat(h.FD(), name, 0o700)
		case !errors.Is(err, unix.ENOENT):
			return false, err
		}
	}
	r.change("create", path)
	if r.DryRun {
		return true, nil
	}
	return true, unix.Mkdirat(h.FD(), name, 0o700)
}

// split separates the last component of a path.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// within opens the directory that a path of the manifest lies in.
func (r *restorer) within(path string) (*posix.Dir, string, error) {
	dir, name := split(r.rel(path))
	h, err := r.dirs.Get(dir)
	return h, name, err
}

// node restores a node that is neither file nor directory.
func (r *restorer) node(e *manifest.Entry) error {
	if r.root < 0 {
		r.change("create", e.Path)
		return r.links[e.Link].planned(r, e.Path)
	}
	h, name, err := r.within(e.Path)
	if err != nil {
		if r.DryRun {
			r.change("create", e.Path)
			return r.links[e.Link].planned(r, e.Path)
		}
		return err
	}
	defer h.Release()
	action := "create"
	if r.compare {
		st, err := posix.StatAt(h.FD(), name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err == nil {
			same, err := sameNode(h.FD(), name, &st, e)
			if err != nil {
				return err
			}
			if same {
				r.change("unchanged", e.Path)
				if !r.DryRun {
					r.attributes(e.Path, r.applier.ApplyAt(h.FD(), name, e))
				}
				r.linked(e)
				return nil
			}
			if action = "change"; st.Type == manifest.Dir {
				if err := r.clear(h.FD(), name, e.Path); err != nil {
					return err
				}
			}
		}
	}
	r.change(action, e.Path)
	if r.DryRun {
		return r.links[e.Link].planned(r, e.Path)
	}
	as := name
	if action == "change" {
		as = walk.PartName(name)
		if err := unix.Unlinkat(h.FD(), as, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	if e.Type == manifest.Symlink {
		err = unix.Symlinkat(e.Target, h.FD(), as)
	} else {
		err = posix.Mknod(h.FD(), as, e)
	}
	if err != nil {
		return err
	}
	r.attributes(e.Path, r.applier.ApplyAt(h.FD(), as, e))
	if as != name {
		if err := unix.Renameat(h.FD(), as, h.FD(), name); err != nil {
			return err
		}
	}
	r.linked(e)
	return nil
}

// linked tells those who wait that a node has its first name.
func (r *restorer) linked(e *manifest.Entry) {
	if g := r.links[e.Link]; e.Link != 0 {
		g.path, g.done = e.Path, true
	}
}

func sameNode(dirfd int, name string, st *posix.Stat, e *manifest.Entry) (bool, error) {
	switch {
	case st.Type != e.Type:
		return false, nil
	case e.Type == manifest.Symlink:
		target, err := posix.Readlink(dirfd, name)
		return target == e.Target, err
	case e.Type == manifest.CharDevice || e.Type == manifest.BlockDevice:
		return st.Rdev == e.Rdev, nil
	}
	return true, nil
}

// clear removes a directory that stands where the snapshot has something else.
func (r *restorer) clear(dirfd int, name, path string) error {
	if !r.Delete {
		return errors.New("a directory is in the way: give --delete to remove what the snapshot does not have")
	}
	if r.spared(path) {
		return errors.New("a directory is in the way, with the repository, the state directory or the identity in it: move these")
	}
	if r.DryRun {
		return nil
	}
	return posix.RemoveAll(dirfd, name)
}

// attributes notes metadata that could not be applied.
func (r *restorer) attributes(path string, problems []*posix.Problem) {
	for _, err := range problems {
		r.problem(path, err)
	}
}

// planLink tells what linkNow would do.
func (r *restorer) planLink(g *linkGroup, path string) error {
	st, err := r.statOf(path)
	switch {
	case errors.Is(err, unix.ENOENT):
		r.change("create", path)
		return nil
	case err != nil:
		return err
	}
	source, err := r.statOf(g.path)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err == nil && !g.renewed && st.ID() == source.ID() {
		r.change("unchanged", path)
	} else {
		r.change("change", path)
	}
	return nil
}

// statOf looks at a node in the target; ENOENT also when it has no directory,
// and where nothing is to be compared with.
func (r *restorer) statOf(path string) (posix.Stat, error) {
	if !r.compare || r.root < 0 {
		return posix.Stat{}, unix.ENOENT
	}
	h, name, err := r.within(path)
	if err != nil {
		return posix.Stat{}, unix.ENOENT // a dry run makes no directories
	}
	defer h.Release()
	return posix.StatAt(h.FD(), name)
}

// link gives an inode that has a name another one, now or when it is complete.
func (r *restorer) link(g *linkGroup, path string) error {
	g.mu.Lock()
	if g.failed {
		g.mu.Unlock()
		return errors.New("another name of a file that could not be restored")
	}
	if !g.done {
		g.later = append(g.later, strings.Clone(path))
		g.mu.Unlock()
		return nil
	}
	g.mu.Unlock()
	return r.linkNow(g, path)
}

func (r *restorer) linkNow(g *linkGroup, path string) error {
	if r.DryRun {
		return r.planLink(g, path)
	}
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
	if !r.compare {
		r.change("create", path)
		return unix.Linkat(from.FD(), fromName, h.FD(), name, 0)
	}
	source, err := posix.StatAt(from.FD(), fromName)
	if err != nil {
		return err
	}
	st, err := posix.StatAt(h.FD(), name)
	switch {
	case err == nil && st.ID() == source.ID():
		r.change("unchanged", path)
		return nil
	case errors.Is(err, unix.ENOENT):
		r.change("create", path)
		return unix.Linkat(from.FD(), fromName, h.FD(), name, 0)
	case err != nil:
		return err
	case st.Type == manifest.Dir:
		if err := r.clear(h.FD(), name, path); err != nil {
			return err
		}
	}
	r.change("change", path)
	temp := walk.PartName(name)
	if err := unix.Unlinkat(h.FD(), temp, 0); err != nil && err != unix.ENOENT {
		return err
	}
	if err := unix.Linkat(from.FD(), fromName, h.FD(), temp, 0); err != nil {
		return err
	}
	return unix.Renameat(h.FD(), temp, h.FD(), name)
}
