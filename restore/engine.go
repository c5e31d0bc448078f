package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/fetch"
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

// run restores all entries, names that cannot be linked to the first of their
// inode after the others, and then deletes what is extra.
func (r *restorer) run(ctx context.Context) error {
	err := r.stage(ctx, r.entry)
	for err == nil && r.links.nextStage() {
		err = r.stage(ctx, r.apart)
	}
	if err != nil {
		return err
	}
	if r.Delete && r.compare && r.root >= 0 && r.single == "" {
		return r.deleteExtra(ctx)
	}
	return nil
}

// stage is the pipeline: entries in path order; existing files compared on all
// cores; ranges fetched and decoded by many. However it ends, files that are
// whole take their places, and of others nothing is left beside them.
func (r *restorer) stage(ctx context.Context, do entryFunc) error {
	g, gctx := errgroup.WithContext(ctx)
	r.fetcher = fetch.New(r.Tree.Reader, &r.Progress.Fetched)
	r.commit.r = r
	if !r.DryRun {
		r.fetcher.Start(gctx, g)
	}
	g.Go(func() error {
		defer r.fetcher.Close()
		return r.feed(gctx, do)
	})
	err := g.Wait()
	if ferr := r.commit.flush(); err == nil {
		err = ferr
	}
	r.commit.discard()
	return err
}

// entryFunc does something with an entry. The examiner is nil where there is
// nothing to compare with.
type entryFunc func(context.Context, *examiner, *manifest.Entry) error

// feed walks the entries, makes directories and small nodes, and hands files on.
func (r *restorer) feed(ctx context.Context, do entryFunc) error {
	if err := r.pass(ctx, do); err != nil {
		return err
	}
	if r.links.waiting.Load() {
		// Now all names of each group are known.
		r.links.second = true
		if err := r.pass(ctx, r.waited); err != nil {
			return err
		}
	}
	return r.fetcher.Flush(ctx)
}

// pass hands each entry to do, with what compares files, where there is
// something to compare with.
func (r *restorer) pass(ctx context.Context, do entryFunc) error {
	var ex *examiner
	if r.compare && r.root >= 0 {
		ex = newExaminer(ctx, r)
	}
	err := r.entries(ctx, func(e *manifest.Entry) error { return do(ctx, ex, e) })
	if ex != nil {
		if werr := ex.wait(); err == nil {
			err = werr
		}
	}
	return err
}

// entries calls do with each entry. Of parts of the list that cannot be read it
// counts the entries.
func (r *restorer) entries(ctx context.Context, do func(*manifest.Entry) error) error {
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		var lost *snapshot.SegmentError
		switch {
		case err == nil:
			err = do(e)
		case errors.As(err, &lost):
			r.lost(lost, err)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lost names a part of the list of files that cannot be read, once. In a later
// pass its entries are known to the first one, and what waits is not restored.
func (r *restorer) lost(s *snapshot.SegmentError, err error) {
	if r.unread[s.First] {
		return
	}
	r.unread[s.First] = true
	if !r.links.second && r.links.apart == nil {
		r.result.Unlisted += uint64(s.Entries)
	}
	r.problem(s.First, err)
}

// entry restores one entry, or hands it on.
func (r *restorer) entry(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	for len(r.chain) > 0 && !manifest.Within(e.Path, r.chain[len(r.chain)-1].entry.Path) {
		r.chain = r.chain[:len(r.chain)-1]
	}
	wanted := r.wanted(e.Path, e.Type == manifest.Dir)
	path := e.Path
	if wanted {
		r.planned.plan(e.Type, e.Size)
		if e.Flags != 0 {
			if e = r.flagged(e); e == nil {
				return nil
			}
		}
	}
	what := e.InodeDigest()
	r.owners.Apply(ctx, e, wanted)
	if e.Type == manifest.Dir {
		r.chain = append(r.chain, &pendingDir{entry: *e})
	}
	if !wanted {
		return nil
	}
	if r.marked && r.rel(e.Path) == walk.RestoreMarker {
		r.problem(e.Path, errors.New("not restored: the marker of this restore has its name (restore its directory elsewhere)"))
		return nil
	}

	if err := r.makeDirs(); err != nil {
		return r.fatal(e.Path, err)
	}
	if e.Type == manifest.Dir {
		r.tally.directories.Add(1)
		return nil
	}
	if e.Path != path {
		return r.file(ctx, ex, &file{entry: e, fd: -1, action: "create", part: strings.Clone(path), temp: true})
	}
	return r.make(ctx, ex, e, what)
}

// make makes a node that is no directory, or has it made.
func (r *restorer) make(ctx context.Context, ex *examiner, e *manifest.Entry, what [16]byte) error {
	group, linked := r.group(e, what)
	switch {
	case linked:
		return r.fatal(e.Path, r.link(group, e.Path))
	case e.Type == manifest.File:
		return r.file(ctx, ex, &file{entry: e, fd: -1, action: "create", group: group})
	}
	if err := r.with(e.Path, func() error { return r.node(e, group) }); err != nil {
		group.fail(r)
		return r.fatal(e.Path, fmt.Errorf("not restored: %w", err))
	}
	return group.complete(r)
}

// file hands a file on to where it is compared, or fetched.
func (r *restorer) file(ctx context.Context, ex *examiner, f *file) error {
	switch {
	case ex != nil:
		return ex.send(f)
	case r.DryRun:
		return f.planned(r, nil)
	}
	return f.fetch(ctx, r)
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
		action := ""
		err := r.with(d.entry.Path, func() (err error) {
			action, err = r.makeDir(rel, &d.entry)
			return err
		})
		if err != nil {
			return err
		}
		r.did(action, d.entry.Path)
		if (action != "unchanged" || d.entry.Flags&manifest.Implied == 0) && !unknown(&d.entry) {
			r.log.add(&d.entry)
		}
	}
	return nil
}

// makeDir makes a directory, or finds it there, and returns which.
func (r *restorer) makeDir(rel string, e *manifest.Entry) (action string, err error) {
	if r.root < 0 {
		return "create", nil
	}
	dir, name := split(rel)
	h, err := r.dirs.Get(dir)
	if err != nil {
		if r.DryRun {
			return "create", nil
		}
		return "", err
	}
	defer h.Release()

	action = "create"
	if r.compare || r.lostFound && rel == lostFound {
		st, err := posix.StatAt(h.FD(), name)
		switch {
		case err == nil && (st.Type == manifest.Dir || r.leadsOn(e.Path)):
			return "unchanged", nil
		case err == nil && e.Flags&manifest.Implied != 0:
			return "", fmt.Errorf("a %v is in the way to what was captured, and is left alone: restore REF:PATH with --target and the directory that you mean", st.Type)
		case err == nil && e.Flags&manifest.ListingUnread != 0:
			return "", fmt.Errorf("a %v is in the way, and what the directory held is not in the snapshot", st.Type)
		case err == nil:
			action = "change"
		case !errors.Is(err, unix.ENOENT):
			return "", err
		}
	}
	if r.DryRun {
		return action, nil
	}
	if action == "change" {
		if err := unix.Unlinkat(h.FD(), name, 0); err != nil {
			return "", err
		}
	}
	if err := unix.Mkdirat(h.FD(), name, 0o700); err != nil {
		return "", err
	}
	if e.InodeFlags&posix.EmptyFlags != 0 {
		if fd, err := posix.OpenDir(h.FD(), name); err == nil {
			posix.SetEmptyFlags(fd, e.InodeFlags)
			unix.Close(fd)
		}
	}
	return action, nil
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

// stat describes the node at a path in the target: ENOENT also when it has no
// directory, and where nothing is to be compared with.
func (r *restorer) stat(path string) (posix.Stat, error) {
	if !r.compare || r.root < 0 {
		return posix.Stat{}, unix.ENOENT
	}
	h, name, err := r.within(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return posix.Stat{}, unix.ENOENT // a dry run makes no directories
	}
	if err != nil {
		return posix.Stat{}, err
	}
	defer h.Release()
	return posix.StatAt(h.FD(), name)
}
