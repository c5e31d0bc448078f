// Package restore rebuilds trees from snapshots.
//
// A restore plans, then applies: entries are read in path order, their chunks
// grouped by frame and pack, ranges fetched with many requests in flight,
// frames decoded on all cores, every chunk verified against its ID and
// written where it belongs. It promises that nothing outside the target is
// touched, whatever the manifest contains; that no file is left with content that
// did not verify; and that what it reports as restored is durable.
//
// It refuses a target that is not empty, unless the restore is in place, or an
// earlier restore of the same snapshot was interrupted there.
package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/restore/fetch"
	"knowngood/restore/owners"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Run restores, or in a dry run finds out what a restore would do.
func Run(ctx context.Context, o Options) (*Result, error) {
	started := time.Now()
	r, err := plan(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer r.target.Close()

	err = r.run(ctx)
	if err == nil && !o.DryRun {
		err = r.finish(ctx)
	}
	r.target.PutBack()
	if err != nil {
		return nil, r.explain(err)
	}

	result := &r.report.result
	result.Place, result.Owners = r.target.Place(), r.owners.Report()
	result.Fetched = r.Progress.Fetched.Load()
	if r.files.packs != nil {
		result.Packs, result.Lacking = r.files.packs.Report()
	}
	result.Duration = time.Since(started)
	return result, nil
}

// restorer is one run: it hands each entry of the snapshot to those who restore
// it.
//
//	Tree.Entries ──▶ entry ──▶ directories, nodes, links: made at once
//	                   │ files: examiner, where there is something to compare with
//	                   ▼
//	fetch.Fetcher ──▶ file.Write ──▶ file.finish: metadata ──▶ committer: sync, rename
type restorer struct {
	*Options
	target *target.Target
	report *report
	owners *owners.Map
	dirs   *directories
	nodes  *nodes
	files  *files
	links  *links
	parts  *parts
	rules  *rules
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
	if r.Delete && r.target.Compares() && r.target.Single() == "" {
		return r.deleteExtra(ctx)
	}
	return nil
}

// stage is the pipeline: entries in path order; existing files compared on all
// cores; ranges fetched and decoded by many. However it ends, files that are
// complete get their names, and nothing is left of others.
func (r *restorer) stage(ctx context.Context, do entryFunc) error {
	g, gctx := errgroup.WithContext(ctx)
	fetcher := fetch.New(r.Tree.Reader, &r.Progress.Fetched, &r.Progress.Waited)
	r.files.fetcher = fetcher
	if !r.DryRun {
		fetcher.Start(gctx, g)
	}
	g.Go(func() error {
		defer fetcher.Close()
		return r.feed(gctx, do)
	})

	err := g.Wait()
	if ferr := r.files.commit.flush(); err == nil {
		err = ferr
	}
	r.files.commit.discard()
	return err
}

// entryFunc does something with an entry. The examiner is nil where there is
// nothing to compare with.
type entryFunc func(context.Context, *examiner, *manifest.Entry) error

// feed passes over the entries, and once more for those whose inode could not be
// decided on before all its names were known.
func (r *restorer) feed(ctx context.Context, do entryFunc) error {
	if err := r.pass(ctx, do); err != nil {
		return err
	}
	if r.links.waiting.Load() {
		r.links.second = true
		if err := r.pass(ctx, r.waited); err != nil {
			return err
		}
	}
	return r.files.fetcher.Flush(ctx)
}

// pass hands each entry to do, with what compares files, where there is
// something to compare with.
func (r *restorer) pass(ctx context.Context, do entryFunc) error {
	var ex *examiner
	if r.target.Compares() {
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
			r.report.missing(lost, err, !r.links.second && r.report.apart == nil)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// entry restores one entry, or hands it on.
func (r *restorer) entry(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	r.dirs.leave(e.Path)
	wanted := r.wanted(e.Path, e.Type == manifest.Dir)
	path := e.Path
	if wanted {
		r.report.result.Planned.add(e.Type, e.Size)
		if e.Flags != 0 {
			if e = r.flagged(e); e == nil {
				return nil
			}
		}
	}

	digest := e.InodeDigest()
	r.owners.Apply(ctx, e, wanted)
	if e.Type == manifest.Dir {
		r.dirs.enter(e)
	}
	if !wanted {
		return nil
	}
	if r.target.Marked() && r.target.Rel(e.Path) == walk.RestoreMarker {
		r.report.problem(e.Path, errors.New("NOT restored: the marker of this restore has its name (restore its directory elsewhere)"))
		return nil
	}

	if err := r.dirs.make(); err != nil {
		return r.report.fatal(e.Path, err)
	}
	if e.Type == manifest.Dir {
		r.report.restored(manifest.Dir, 0)
		return nil
	}
	if e.Path != path {
		return r.file(ctx, ex, &file{to: r.files, entry: e, fd: -1, action: "create", part: strings.Clone(path), temp: true})
	}
	return r.make(ctx, ex, e, digest)
}

// waited restores a file whose group waited, when its entry is read again.
func (r *restorer) waited(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	g := r.links.groups[e.Link]
	if g == nil || !g.waiting || g.path != e.Path {
		return nil
	}
	r.owners.Apply(ctx, e, false)
	return ex.send(&file{to: r.files, entry: e, fd: -1, group: g})
}

// apart restores an entry that was postponed: the first one of its group becomes a
// file of its own, and the others become names of that, where a file can have
// several. Each of them is reported when it is restored: see report.done.
func (r *restorer) apart(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	why := r.report.apart[e.Path]
	if why == nil {
		return nil
	}
	if !errors.Is(why, unix.EXDEV) && !errors.Is(why, unix.EMLINK) {
		e.Link = 0
	}
	digest := e.InodeDigest()
	r.owners.Apply(ctx, e, false)
	return r.make(ctx, ex, e, digest)
}

// make makes a node that is no directory, or has it made. The digest is that of
// the entry as the snapshot has it.
func (r *restorer) make(ctx context.Context, ex *examiner, e *manifest.Entry, digest [16]byte) error {
	group, linked := r.links.group(e, digest)
	switch {
	case linked:
		return r.report.fatal(e.Path, r.links.add(group, e.Path))
	case e.Type == manifest.File:
		return r.file(ctx, ex, &file{to: r.files, entry: e, fd: -1, action: "create", group: group})
	}
	if err := r.target.With(e.Path, func() error { return r.nodes.restore(e, group) }); err != nil {
		group.fail()
		return r.report.fatal(e.Path, notRestored(err))
	}
	return group.complete()
}

// file hands a file on to where it is compared, or fetched.
func (r *restorer) file(ctx context.Context, ex *examiner, f *file) error {
	switch {
	case ex != nil:
		return ex.send(f)
	case r.DryRun:
		return f.planned(nil)
	}
	return f.fetch(ctx)
}

// finish applies what comes last, makes everything durable, and ends the restore
// in the target when nothing is left to be done.
func (r *restorer) finish(ctx context.Context) error {
	r.dirs.finish()
	r.dirs.finishAbove(ctx, r.Tree, r.owners)
	r.target.PutBack() // before flags forbid it
	complete := r.report.complete()
	r.report.result.Unfinished = r.target.Marked() && !complete
	return r.target.Finish(complete)
}

// explain adds what to do next to errors of the target's file system.
func (r *restorer) explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %s is full: make room and run the same command again: it goes on where it stopped (%w)", ErrNoSpace, r.Target, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("target %s is on a read-only file system: remount it, or choose another --target: %w", r.Target, err)
	}
	return err
}
