// Package snapshot captures environments and reads what was captured.
//
// A capture is one pass (docs/ARCHITECTURE.md has the page): the walk yields
// nodes in path order; they are merged with the host's own copy of the last
// manifest; files that changed are read, chunked and stored by workers; the
// entries come together again, in path order, as segments of the new manifest.
// Memory does not grow with the tree.
//
// It promises that what it reports as complete is durable and committed, and
// that a run which dies at any moment leaves the repository as it was, plus
// packs that the next run finds. It takes no locks in the store.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/posix"
	"knowngood/internal/userdir"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/signs"
	"knowngood/snapshot/walk"
	"knowngood/storage/chunk"
	"knowngood/storage/history"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Options of a capture.
type Options struct {
	Environment string
	Sources     []walk.Source
	Commands    []Command
	Expect      []Expectation  // of each of Sources, then of each of Commands; of those missing, half of what they had
	Omit        []posix.DevIno // what is never captured: the repository, the state directory

	StateDir userdir.Dir // of this repository
	Level    pack.Level
	PackSize int // bytes; that of the repository when 0
	// Apart stores content, index and manifest in objects of their own, however little
	// there is; else a run with little content takes as few objects as it can.
	Apart  bool
	Reread bool // read every file, even where its time stamps are unchanged
	// RereadEvery is within what time each file is read again, whatever its
	// time stamps are; 0 is never. The files take turns, spread over that time.
	RereadEvery time.Duration
	// MaxRepack is how many bytes of files that did not change are read again, so
	// that packs of which little is needed can be freed; 0 for none.
	MaxRepack uint64
	// WritebackWindow is how long before a run a file must have been unchanged
	// for the next one to believe its time stamps. 0 asks the kernel how long
	// it may miss writes through a mapping. Tests, whose files are younger, set
	// a nanosecond; the granularity of the time stamps counts in any case.
	WritebackWindow time.Duration
	Verify          objects.Verification
	DryRun          bool   // walk and compare, store nothing
	NotEmpty        bool   // refuse, with ErrNothing, a snapshot in which no rule includes anything
	Version         string // of the program
	Tags            []string
	Progress        *Progress // may be nil
	// Skipped, when set, is called with what is left out, and why.
	Skipped func(path string, why walk.Reason)
}

// ErrNothing means that the rules of the sources include nothing that is there.
var ErrNothing = errors.New("the include patterns match nothing: no snapshot was taken (knowngood snapshot --help explains patterns)")

// Result of a capture.
type Result struct {
	Snapshot *history.Snapshot // nil in a dry run
	Totals
	NewBytes    uint64 // content that the repository did not have
	StoredBytes uint64 // written to the store before the root, as the root has it: packs, index runs, manifest
	Read        uint64 // files read
	Healed      Healed
	Suspect     []Suspicion // why the snapshot is suspect; none: it is good
	Verified    time.Time   // when the listing began that has what the snapshot needs; zero in a dry run
	Problems    []manifest.Problem
	Count       uint64 // of problems, of which at most manifest.MaxProblems are listed
	Duration    time.Duration
}

// Partial reports whether something could not be captured as it should.
func (r *Result) Partial() bool { return r.Count > 0 }

// capture is one run.
type capture struct {
	Options
	repo    *repository.Repository
	host    *trust.Host
	writer  *objects.Writer // nil in a dry run
	index   *objects.Index
	chunker *chunk.Chunker
	users   *posix.Users
	started time.Time

	parents parents
	healing healing
	links   *links

	judgement  judgement // on the snapshots before
	suspicions []Suspicion
	unmounted  []int        // positions of sources that must be mount points and are none
	signs      signs.Counts // of what the emitter has seen
	losses     signs.Losses // of the merge

	problems problems
	mounts   []mountPoint      // met by the walk, in path order
	real     map[string]string // where sources lead to over symbolic links
	jobs     chan *job
	batches  chan []*item
	pressed  chan struct{} // the merge offers here when the emitter holds it up
}

// Capture takes a snapshot of an environment.
func Capture(ctx context.Context, repo *repository.Repository, host *trust.Host, o Options) (*Result, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if n := len(o.Sources) + len(o.Commands); n > manifest.MaxSources {
		return nil, fmt.Errorf("%d sources: a snapshot holds at most %d: name fewer, larger trees", n, manifest.MaxSources)
	}
	c := &capture{Options: o, repo: repo, host: host, users: &posix.Users{}, links: newLinks(host.Domain.SegmentKey()), started: time.Now(), real: map[string]string{}, problems: problems{progress: o.Progress},
		jobs: make(chan *job), batches: make(chan []*item, maxBatches), pressed: make(chan struct{})}
	if err := posix.CheckProc(); err != nil {
		return nil, err
	}
	if c.WritebackWindow == 0 {
		c.WritebackWindow = posix.WritebackWindow(posix.KernelSettings)
	}
	dir := o.StateDir.In("env", o.Environment)
	if !c.Reread {
		c.parents = openParents(dir, host.Domain.ID, c.DryRun)
		defer c.parents.close()
	}
	if p := c.parents.last; p != nil {
		c.Progress.Expected.Store(p.trailer.totals.Bytes)
	}

	if o.DryRun {
		return c.run(ctx, nil)
	}
	d := repo.Descriptor()
	chunker, err := chunk.New(chunk.Params{Min: d.ChunkMin, Avg: d.ChunkAverage, Max: d.ChunkMax}, host.Domain.GearKey())
	if err != nil {
		return nil, err
	}
	c.chunker = chunker
	epoch, err := repo.CurrentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	if c.index, err = repo.OpenIndex(ctx, host, o.Verify); err != nil {
		return nil, err
	}
	defer c.index.Close()
	c.healing.index = c.index
	if err := c.parents.check(ctx, c.index); err != nil {
		return nil, err
	}
	if c.MaxRepack > 0 && c.parents.last != nil {
		c.parents.vacating = vacate(dir, c.parents.last.trailer.needed(), c.index, c.MaxRepack)
	}
	if c.writer, err = repo.NewWriter(ctx, host, epoch, c.index, objects.WriterOptions{Level: o.Level, PackSize: o.PackSize, Apart: o.Apart}); err != nil {
		return nil, err
	}
	local, err := newLocalWriter(dir, host.Domain.ID, c.started)
	if err != nil {
		return nil, err
	}
	defer c.writer.Abort()
	result, err := c.run(c.writer.Context(), local)
	if err != nil {
		local.keep()
		if cause := context.Cause(c.writer.Context()); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return nil, err
	}
	for _, p := range c.parents.partials {
		_ = dir.Remove(filepath.Base(p.file.Name())) // the next run looks at it again
	}
	if err := c.parents.vacating.save(dir); err != nil {
		c.Progress.warn(fmt.Sprintf("the next run reads files that did not change again: %v", err))
	}
	return result, nil
}

// run is the pipeline: walk and merge, read, emit, then commit.
func (c *capture) run(ctx context.Context, local *localWriter) (*Result, error) {
	if err := c.checkMounts(); err != nil {
		return nil, err
	}
	commands, err := c.runCommands(ctx)
	if err != nil {
		return nil, err
	}
	e := newEmitter(c, local)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.batches)
		defer close(c.jobs)
		return c.merge(gctx, commands)
	})
	var readers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() error { return c.readFiles(gctx) })
	}
	g.Go(func() error {
		err := readers.Wait()
		if err == nil && c.writer != nil {
			err = c.writer.CloseChunks()
		}
		return err
	})
	g.Go(func() error { return e.emit(gctx) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, p := range e.sources.thawed {
		c.Progress.warn(fmt.Sprintf("%q changed after the run had started, in a source that is configured as frozen, so the snapshot does not record it as frozen: see that a hook freezes it before the run, and that path names the frozen view", "/"+p))
	}
	switch {
	case !c.NotEmpty: // nobody is there to see what it came to
		for _, s := range e.sources.nothing() {
			c.problems.add(manifest.EntryPath(s.Path), "its include patterns match nothing in it: correct them, or remove the source (what lies in a further source inside it belongs to that one)")
		}
	case !e.sources.any:
		return nil, ErrNothing
	}
	if c.DryRun {
		return c.result(e, nil), nil
	}
	return c.commit(ctx, e)
}

func (c *capture) result(e *emitter, s *history.Snapshot) *Result {
	r := &Result{Snapshot: s, Totals: e.totals, Suspect: c.suspicions, Duration: time.Since(c.started), Read: c.Progress.FilesRead.Load()}
	r.Problems, r.Count = c.problems.list()
	if c.writer != nil {
		r.NewBytes, r.StoredBytes, r.Healed = c.writer.NewBytes(), c.writer.StoredBytes(), c.healing.total()
	}
	return r
}

// commit publishes the index, unless little is new in it, the manifest and the root,
// in this order.
func (c *capture) commit(ctx context.Context, e *emitter) (*Result, error) {
	again, err := c.index.Revalidate(ctx)
	if err != nil {
		return nil, err
	}
	for _, err := range c.index.Unopenable() {
		c.problems.add("", fmt.Sprintf("nobody can open the snapshot: %v", err))
	}
	publish := c.index.PublishMany
	if c.Apart {
		publish = c.index.Publish
	}
	runs, err := publish(ctx, c.writer)
	if err != nil {
		return nil, err
	}
	trailer, err := e.finish()
	if err != nil {
		return nil, err
	}
	if err := c.index.Hold(); err != nil {
		return nil, err
	}
	if err := c.index.Verify(ctx, trailer.needed(), again); err != nil {
		return nil, err
	}
	protected, err := c.protect(ctx, trailer)
	if err != nil {
		return nil, err
	}
	if c.judgement, err = judged(ctx, c.repo, c.host.Name, c.Environment); err != nil {
		return nil, err
	}
	counts := c.sourceCounts(trailer.table.Sources)
	problems, count := c.problems.list()
	body := statement.RootBody{
		Started: c.started, Status: statement.Complete, Manifest: trailer.manifest, Content: trailer.content, Objects: pack.ObjectsDigest(trailer.objects), ProtectedUntil: protected,
		Counts: statement.Counts{Entries: e.totals.Entries, Files: e.totals.Files, Directories: e.totals.Directories, ContentBytes: e.totals.Bytes,
			NewContentBytes: c.writer.NewBytes(), Problems: count},
		Sources: counts, Suspect: c.judge(trailer.table.Sources, counts), Version: c.Version, Tags: c.Tags,
	}
	if len(problems) > 0 {
		body.Status = statement.Partial
	}
	s, err := c.commitRoot(ctx, body, runs, trailer)
	if err != nil {
		return nil, err
	}
	c.index.Done()
	c.remember(s, trailer.table.Sources)
	trailer.root, trailer.number = s.ID, s.Number
	if err := e.local.commit(trailer); err != nil {
		// The snapshot is committed; the next run only reads more.
		c.Progress.warn(fmt.Sprintf("%s is committed, but the next snapshot will read every file again: %v", s.Ref(), err))
	}
	r := c.result(e, s)
	r.Verified = c.index.Verified()
	return r, nil
}

// commitRoot puts the root with a body under the next number that is free.
func (c *capture) commitRoot(ctx context.Context, body statement.RootBody, runs [][32]byte, trailer *localTrailer) (*history.Snapshot, error) {
	commit, err := c.repo.Begin(ctx, c.host, c.Environment)
	if err != nil {
		return nil, err
	}
	for {
		number, err := commit.Next(ctx)
		if err == nil {
			err = c.parents.verify(ctx, number, trailer)
		}
		if err != nil {
			return nil, err
		}
		b := body
		b.StoredBytes, b.Finished = c.writer.StoredBytes(), time.Now()
		if s, taken, err := commit.Put(ctx, &b, runs, time.Now()); !taken {
			return s, err
		}
	}
}
