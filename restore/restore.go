// Package restore rebuilds trees from snapshots.
//
// A restore plans, then applies: entries are read in path order, their chunks
// grouped by frame and pack, ranges fetched with many requests in flight,
// frames decoded on all cores, every chunk verified against its ID and
// written where it belongs. It promises that nothing outside the target is
// touched, whatever the manifest says; that no file is left with content that
// did not verify; and that what it reports as restored is durable.
//
// It refuses a target that is not empty, unless it is told to restore in
// place, or an earlier restore of the same snapshot was interrupted there.
package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/fetch"
	"knowngood/restore/owners"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
)

// Options of a restore.
type Options struct {
	Tree  *snapshot.Tree
	Under string // manifest path of what to restore; "" is all
	// Target is the directory that the content of Under comes to lie in. When
	// Under is not a directory, it is the path that the node gets, or, when
	// that is a directory or ends with a slash, the directory that takes it in
	// under its own name.
	Target string
	// InPlace compares with what is there: unchanged files are left alone,
	// changed ones replaced.
	InPlace bool
	// Delete removes what the snapshot does not have from the directories that
	// were captured, in place only. What the capture left out, by the rules
	// that the snapshot records, stays, and what is mounted there.
	Delete bool
	// Today, when set, is what a capture would mean now: what its rules leave
	// out is not deleted either.
	Today *snapshot.Scope
	// Spare are absolute paths, free of links, that Delete leaves alone, with
	// what is below and above them: the repository itself, say.
	Spare []string
	// Select decides which entries are wanted; nil wants all.
	Select *snapshot.Scope
	// WithIncomplete writes what was read of a file that could not be read
	// whole as NAME.incomplete, or NAME.incomplete-2 and so on where something
	// has that name; else nothing is written in its name.
	WithIncomplete bool
	Owners         owners.Options
	// DryRun changes nothing.
	DryRun bool
	// Verify makes a dry run find out whether the packs that it would read are
	// there. See Result.Lacking.
	Verify bool

	Progress *Progress
}

// Progress may be read while a restore runs.
type Progress struct {
	Files, Bytes atomic.Uint64 // done, unchanged ones included
	Found        atomic.Uint64 // bytes of these that were there before the run
	Fetched      atomic.Uint64 // bytes read from the store

	// Problem, when set, gets each problem as it is met, concurrently.
	Problem func(path string, err error)
	// Change, when set, gets what was done to a path, or would be in a dry
	// run: "create", "change", "metadata", "unchanged", "delete".
	Change func(action, path string)
}

// Counts of nodes. Each name of a file with several counts as one.
type Counts struct {
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Others      uint64 `json:"others"`
	Bytes       uint64 `json:"bytes"` // of the files, holes included
}

// Result of a restore, or of a dry run.
type Result struct {
	// Place is the path of what Under is, when that is not a directory; else
	// it is the target.
	Place   string
	Planned Counts // what was asked for
	// Restored is what of that is on the disk now, whether it was there before
	// or not; in a dry run, what could be restored.
	Restored Counts
	// Unlisted is how many entries at most lie in parts of the list of files
	// that cannot be read. They count neither as planned nor as restored.
	Unlisted uint64

	Created, Changed, Metadata, Unchanged, Deleted uint64

	// Incomplete counts what was not restored because the capture could not
	// read it whole; each is a problem, too.
	Incomplete uint64
	// Parts are the files that hold what was read of these, where that was
	// asked for: the first ones, of PartCount. In a dry run they would.
	Parts     []Part
	PartCount uint64
	// Flagged are entries that were restored as the capture has them, which may
	// not be as they were: the first ones, of FlaggedCount.
	Flagged      []Flagged
	FlaggedCount uint64

	Fetched  uint64 // bytes read from the store
	Duration time.Duration
	Problems []Problem
	Count    uint64 // of problems, of which the first ones are listed
	Damaged  bool   // some of the problems are damage in the repository
	Owners   owners.Report
	// Unfinished says that the target keeps the marker by which the same
	// restore goes on, because not everything is restored.
	Unfinished bool

	// Packs is how many packs a dry run with Verify would read from, and
	// Lacking which of them are not as they should be.
	Packs   int
	Lacking []fetch.LackingPack
}

// Complete reports whether everything that was asked for is restored.
func (r *Result) Complete() bool { return r.Planned == r.Restored && r.Unlisted == 0 }

// Problem names a node that could not be restored as it should.
type Problem struct {
	Path string
	Err  error
}

// maxProblems is how many problems are kept; the rest is counted.
const maxProblems = 10_000

// Errors that callers branch on.
var (
	ErrNotEmpty  = errors.New("the target directory is not empty")
	ErrExists    = errors.New("the target exists")
	ErrAmbiguous = errors.New("the target could be meant in two ways")
	ErrNoSpace   = errors.New("not enough free space in the target")
	ErrNoPath    = errors.New("the snapshot has no such path")
)

// restorer is one run.
type restorer struct {
	Options
	root    int // the descriptor of the target, or of the directory of a single node; -1 in a dry run without
	dirs    *posix.Dirs
	applier *posix.Applier
	owners  *owners.Map
	compare bool // with what is there
	uid     int  // of this process
	gid     int
	real    string // path of root, free of links
	strip   int    // bytes of the path that lie above the target
	single  string // the name that Under gets, which is not a directory; else ""
	place   string // see Result
	detours []detour
	scopes  []*snapshot.Scope // what a capture means: as the snapshot has it, and today
	marked  bool              // the target has the marker of this restore
	// lostFound says that the target, which is empty otherwise, has such a directory.
	lostFound bool
	parents   []parent

	fetcher    *fetch.Fetcher
	links      links
	parts      map[string]bool // paths of what was read of files; see part
	unread     map[string]bool // first paths of parts of the list that cannot be read
	chain      []*pendingDir   // the directories above the present entry
	log        dirLog
	commit     committer
	rights     rights
	protection protection
	objects    *fetch.Packs // of a dry run that verifies; else nil

	planned     Counts
	unavailable Counts // of these, what the snapshot does not have whole
	tally       tally

	mu     sync.Mutex
	result Result // its problems
}

// tally counts what is done.
type tally struct {
	files, directories, others, bytes              atomic.Uint64
	created, changed, metadata, unchanged, deleted atomic.Uint64
}

// Run restores, or in a dry run finds out what a restore would do.
func Run(ctx context.Context, o Options) (*Result, error) {
	started := time.Now()
	if err := posix.CheckProc(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	r := &restorer{Options: o, root: -1, compare: o.InPlace, uid: os.Geteuid(), gid: os.Getegid(), parts: map[string]bool{}, unread: map[string]bool{}}
	r.links.groups = map[uint64]*linkGroup{}
	first, err := r.locate(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.findDetours(); err != nil {
		return nil, err
	}
	if err := r.findScopes(); err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openTarget(ctx); err != nil {
		return nil, err
	}
	r.applier = posix.NewApplier(posix.ApplyOptions{KeepOwner: o.Owners.Keep, Exact: r.compare})
	if r.owners, err = owners.NewMap(ctx, o.Owners, o.Tree, o.Under, first, r.wanted); err != nil {
		return nil, err
	}
	if o.DryRun && o.Verify {
		if r.objects, err = fetch.ListPacks(ctx, o.Tree); err != nil {
			return nil, err
		}
	}

	err = r.run(ctx)
	if err == nil && !o.DryRun {
		err = r.finish(ctx)
	}
	r.rights.takeBack(r)
	r.putBack()
	if err != nil {
		return nil, r.explain(err)
	}
	return r.sum(started), nil
}

// finish applies what comes last, makes everything durable, and ends the
// restore in the target when nothing is left to be done.
func (r *restorer) finish(ctx context.Context) error {
	r.log.apply(r)
	r.finishParents(ctx)
	r.rights.takeBack(r) // before flags forbid it
	r.putBack()
	r.protect(false)
	if !r.marked {
		r.protect(true)
	}
	if err := syncfs(r.root); err != nil {
		return fmt.Errorf("sync %s: %w", r.Target, err)
	}
	if !r.marked {
		return nil
	}
	if r.counts() != r.planned.less(r.unavailable) || r.result.Unlisted > 0 {
		r.result.Unfinished = true
		return nil
	}
	return r.removeMarker()
}

// counts is what is restored so far.
func (r *restorer) counts() Counts {
	t := &r.tally
	return Counts{Files: t.files.Load(), Directories: t.directories.Load(), Others: t.others.Load(), Bytes: t.bytes.Load()}
}

func (r *restorer) sum(started time.Time) *Result {
	s, t := &r.result, &r.tally
	s.Place, s.Planned, s.Restored = r.place, r.planned, r.counts()
	s.Created, s.Changed, s.Metadata = t.created.Load(), t.changed.Load(), t.metadata.Load()
	s.Unchanged, s.Deleted = t.unchanged.Load(), t.deleted.Load()
	s.Fetched, s.Owners = r.Progress.Fetched.Load(), r.owners.Report()
	if r.objects != nil {
		s.Packs, s.Lacking = r.objects.Report()
	}
	s.Duration = time.Since(started)
	return s
}

// problem notes what could not be restored.
func (r *restorer) problem(path string, err error) {
	r.note(path, err)
	if r.Progress.Problem != nil {
		r.Progress.Problem(path, err)
	}
}

// note is problem without a word to Progress, for what is reported together
// with more of its kind.
func (r *restorer) note(path string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Count++
	if len(r.result.Problems) < maxProblems {
		r.result.Problems = append(r.result.Problems, Problem{strings.Clone(path), err})
	}
	var damage *authentic.DamageError
	if errors.As(err, &damage) {
		r.result.Damaged = true
	}
}

// plan counts what is asked for.
func (c *Counts) plan(kind manifest.Type, size uint64) {
	switch kind {
	case manifest.Dir:
		c.Directories++
	case manifest.File:
		c.Files++
		c.Bytes += size
	default:
		c.Others++
	}
}

func (c Counts) less(o Counts) Counts {
	return Counts{c.Files - o.Files, c.Directories - o.Directories, c.Others - o.Others, c.Bytes - o.Bytes}
}

// done counts a node that is now as the snapshot has it, or would be in a dry
// run, and what was done for that. It comes after the act. The size is that of
// a file.
func (r *restorer) done(action, path string, kind manifest.Type, size uint64) {
	switch kind {
	case manifest.File:
		r.tally.files.Add(1)
		r.tally.bytes.Add(size)
	case manifest.Dir: // counted where it is known to be wanted
	default:
		r.tally.others.Add(1)
	}
	r.did(action, path)
	if why := r.links.apart[path]; why != nil {
		r.problem(path, why)
	}
}

// did counts an action.
func (r *restorer) did(action, path string) {
	switch action {
	case "create":
		r.tally.created.Add(1)
	case "change":
		r.tally.changed.Add(1)
	case "metadata":
		r.tally.metadata.Add(1)
	case "unchanged":
		r.tally.unchanged.Add(1)
	case "delete":
		r.tally.deleted.Add(1)
	}
	if r.Progress.Change != nil {
		r.Progress.Change(action, path)
	}
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

// fatal turns an error that concerns one node into a problem, and returns
// those that end the restore.
func (r *restorer) fatal(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.EMFILE), endsRestore(err):
		return fmt.Errorf("%q: %w", "/"+path, err)
	}
	r.problem(path, err)
	return nil
}

// endsRestore reports whether an error of the target's file system would meet
// every other file as well.
func endsRestore(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO)
}

func syncfs(fd int) error {
	_, _, errno := unix.Syscall(unix.SYS_SYNCFS, uintptr(fd), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
