// Package restore rebuilds trees from snapshots, and checks that they can be.
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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/repository"
)

// Options of a restore.
type Options struct {
	Tree   *snapshot.Tree
	Under  string // manifest path of the subtree to restore; "" is all
	Target string // directory; the subtree's content comes to lie in it
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
	// whole as NAME.incomplete; else nothing is written in its name.
	WithIncomplete bool
	Owners         OwnerOptions
	DryRun         bool

	Progress *Progress
}

// Progress may be read while a restore runs.
type Progress struct {
	Files, Bytes atomic.Uint64 // done, unchanged ones included
	Fetched      atomic.Uint64 // bytes read from the store

	// Problem, when set, is told each problem as it is met, concurrently.
	Problem func(path string, err error)
	// Change, when set, is told what is done, or would be in a dry run.
	Change func(action, path string)
}

// Result of a restore, or of a dry run.
type Result struct {
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Others      uint64 `json:"others"`
	Bytes       uint64 `json:"bytes"`
	Created     uint64 `json:"created"`
	Changed     uint64 `json:"changed"`
	Unchanged   uint64 `json:"unchanged"`
	Deleted     uint64 `json:"deleted"`
	Fetched     uint64 `json:"fetched_bytes"`
	Duration    time.Duration
	// Incomplete counts what was not restored because the capture could not
	// read it whole; each is a problem, too.
	Incomplete uint64
	// Flagged are entries that were restored as the capture has them, which may
	// not be as they were: the first ones, of FlaggedCount.
	Flagged      []Flagged
	FlaggedCount uint64
	Problems     []Problem
	Count        uint64 // of problems, of which the first ones are listed
	Damaged      bool   // some of the problems are damage in the repository
	Owners       Owners
}

// Problem names a node that could not be restored as it should.
type Problem struct {
	Path string
	Err  error
}

// maxProblems is how many problems are kept; the rest is counted.
const maxProblems = 10_000

// Errors that callers branch on.
var (
	ErrNotEmpty = errors.New("the target directory is not empty")
	ErrNoSpace  = errors.New("not enough free space in the target")
	ErrNoPath   = errors.New("the snapshot has no such path")
)

// restorer is one run.
type restorer struct {
	Options
	root    int // the target's descriptor; -1 in a dry run without target
	dirs    *posix.Dirs
	applier *posix.Applier
	owners  *ownerMap
	compare bool // look at what is there
	uid     int  // of this process
	gid     int
	real    string // path of the target, free of links
	strip   int    // bytes of the path that lie above the target
	single  bool   // Under is not a directory

	ranges chan *rangeJob
	window *window
	links  map[uint64]*linkGroup
	// incompletes are the paths that were written as NAME.incomplete.
	incompletes map[string]bool
	chain       []*pendingDir // the directories above the present entry
	log         dirLog
	commit      committer

	mu     sync.Mutex
	result Result
	counts struct{ created, changed, unchanged, deleted atomic.Uint64 }
}

// Run restores, or in a dry run tells what a restore would do.
func Run(ctx context.Context, o Options) (*Result, error) {
	started := time.Now()
	if err := posix.CheckProc(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	r := &restorer{Options: o, root: -1, compare: o.InPlace, uid: os.Geteuid(), gid: os.Getegid(), links: map[uint64]*linkGroup{}, incompletes: map[string]bool{}}
	first, err := r.locate(ctx)
	if err != nil {
		return nil, err
	}
	marker, err := r.openTarget(ctx)
	if err != nil {
		return nil, err
	}
	if r.root >= 0 {
		defer r.dirs.Close()
	}
	r.applier = posix.NewApplier(posix.ApplyOptions{KeepOwner: o.Owners.Keep, Exact: r.compare})
	if r.owners, err = newOwnerMap(ctx, &r.Options, first); err != nil {
		return nil, err
	}
	if first.Type != manifest.Dir {
		r.single = true
	}
	if err := r.run(ctx); err != nil {
		return nil, r.explain(err)
	}
	if !o.DryRun {
		r.log.apply(r)
		if err := syncfs(r.root); err != nil {
			return nil, fmt.Errorf("sync %s: %w", o.Target, err)
		}
	}
	if marker != "" {
		if err := r.removeMarker(marker); err != nil {
			return nil, err
		}
	}
	r.result.Duration = time.Since(started)
	r.result.Created, r.result.Changed = r.counts.created.Load(), r.counts.changed.Load()
	r.result.Unchanged, r.result.Deleted = r.counts.unchanged.Load(), r.counts.deleted.Load()
	r.result.Fetched = o.Progress.Fetched.Load()
	r.result.Owners = r.owners.result()
	return &r.result, nil
}

// locate finds the entry that the restore starts from.
func (r *restorer) locate(ctx context.Context) (*manifest.Entry, error) {
	if r.Under == "" {
		return &manifest.Entry{Type: manifest.Dir}, nil
	}
	e, err := r.Tree.Find(ctx, r.Under)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("%w: %q in %s (knowngood ls %s shows what it has)", ErrNoPath, "/"+r.Under, r.Tree.Snapshot.Ref(), r.Tree.Snapshot.Ref())
	}
	r.strip = len(r.Under)
	if e.Type != manifest.Dir {
		r.strip = strings.LastIndexByte(r.Under, '/')
	}
	r.strip++
	return e, nil
}

// rel is the path of an entry below the target.
func (r *restorer) rel(path string) string {
	if len(path) < r.strip {
		return ""
	}
	return path[r.strip:]
}

// isOwn reports whether a path in the target is one of Spare, or in one.
func (r *restorer) isOwn(path string) bool {
	at := filepath.Join(r.real, r.rel(path))
	return slices.ContainsFunc(r.Spare, func(p string) bool { return p == at || strings.HasPrefix(at, p+"/") })
}

// spared reports whether a path in the target is one of Spare, or above or
// below one.
func (r *restorer) spared(path string) bool {
	at := filepath.Join(r.real, r.rel(path))
	return slices.ContainsFunc(r.Spare, func(p string) bool {
		return p == at || strings.HasPrefix(p, at+"/") || strings.HasPrefix(at, p+"/")
	})
}

// openTarget opens the target directory and makes it when it is missing. A
// marker in it tells an interrupted restore of the same snapshot, which goes
// on.
func (r *restorer) openTarget(ctx context.Context) (marker string, err error) {
	if !r.DryRun {
		if err := os.MkdirAll(r.Target, 0o700); err != nil {
			return "", fmt.Errorf("target: %w", err)
		}
	}
	r.root, err = unix.Open(r.Target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT && r.DryRun {
		r.root = -1
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("target %s: %w", r.Target, err)
	}
	if r.dirs, err = posix.NewDirs(r.root, 4*posix.DirsLimit); err != nil {
		return "", fmt.Errorf("target %s: %w", r.Target, err)
	}
	if r.InPlace {
		if r.real, err = filepath.EvalSymlinks(r.Target); err == nil {
			r.real, err = filepath.Abs(r.real)
		}
		return "", err
	}
	want := fmt.Sprintf("%x\n%s\n", r.Tree.Snapshot.ID, r.Under)
	empty := true
	err = posix.ReadDir(r.root, make([]byte, posix.DirBuffer), func([]byte, manifest.Type) error { empty = false; return errors.New("stop") })
	if !empty {
		got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", r.root, walk.RestoreMarker))
		if err != nil || string(got) != want {
			return "", fmt.Errorf("%w: %s (choose a new directory, or --in-place to change what is there)", ErrNotEmpty, r.Target)
		}
		r.compare = true
		return walk.RestoreMarker, nil
	}
	if err != nil {
		return "", fmt.Errorf("target %s: %w", r.Target, err)
	}
	if err := r.checkSpace(ctx); err != nil || r.DryRun {
		return "", err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/%s", r.root, walk.RestoreMarker), []byte(want), 0o600); err != nil {
		return "", fmt.Errorf("target %s: %w", r.Target, err)
	}
	return walk.RestoreMarker, nil
}

// checkSpace compares the content to be written with the room there is.
func (r *restorer) checkSpace(ctx context.Context) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(r.root, &fs); err != nil {
		return fmt.Errorf("target %s: %w", r.Target, err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	need := uint64(0)
	if r.Under == "" && r.Select == nil {
		need = r.Tree.Snapshot.Body.ContentBytes
		if need <= free {
			return nil
		}
		need = 0 // it counts holes and hard links; look closer
	}
	seen := map[uint64]bool{}
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		if err != nil {
			continue // the restore itself names it
		}
		if e.Type != manifest.File || !r.wanted(e.Path, false) || e.Link != 0 && seen[e.Link] {
			continue
		}
		if e.Link != 0 {
			seen[e.Link] = true
		}
		need += e.ContentSize()
	}
	if need > free {
		return fmt.Errorf("%w: %s has %d bytes free, the restore takes %d (make room, or restore a sub-path)", ErrNoSpace, r.Target, free, need)
	}
	return ctx.Err()
}

// removeMarker says that the restore is complete, now that all of it is
// durable. The target keeps the times that it was given.
func (r *restorer) removeMarker(marker string) error {
	var st unix.Stat_t
	err := unix.Fstat(r.root, &st)
	if err == nil {
		err = unix.Unlinkat(r.root, marker, 0)
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", r.root), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, 0)
	}
	if err == nil {
		err = syncfs(r.root)
	}
	if err != nil {
		return fmt.Errorf("target %s: end the restore: %w", r.Target, err)
	}
	return nil
}

// problem notes what could not be restored.
func (r *restorer) problem(path string, err error) {
	r.mu.Lock()
	r.result.Count++
	if len(r.result.Problems) < maxProblems {
		r.result.Problems = append(r.result.Problems, Problem{strings.Clone(path), err})
	}
	var damage *repository.DamageError
	if errors.As(err, &damage) {
		r.result.Damaged = true
	}
	r.mu.Unlock()
	if r.Progress.Problem != nil {
		r.Progress.Problem(path, err)
	}
}

func (r *restorer) change(action, path string) {
	switch action {
	case "create":
		r.counts.created.Add(1)
	case "change":
		r.counts.changed.Add(1)
	case "delete":
		r.counts.deleted.Add(1)
	case "unchanged":
		r.counts.unchanged.Add(1)
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

func syncfs(fd int) error {
	_, _, errno := unix.Syscall(unix.SYS_SYNCFS, uintptr(fd), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
