package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
)

const (
	maxProblems = 10_000 // that are kept, and as many parts; the rest is counted
	maxFlagged  = 1000
)

// report collects what a restore does, and what it cannot restore. What concerns
// the list of entries comes from one goroutine, everything else concurrently.
type report struct {
	progress *Progress

	planned     Counts
	unavailable Counts          // of these, what the snapshot does not have completely
	unread      map[string]bool // first paths of parts of the list that cannot be read

	files, directories, others, bytes              atomic.Uint64 // restored
	created, changed, metadata, unchanged, deleted atomic.Uint64

	// apart has a problem for each path that is restored apart from the other
	// names of its inode. It changes only between stages.
	apart map[string]error

	mu     sync.Mutex
	result Result
}

// problem adds what could not be restored.
func (r *report) problem(path string, err error) {
	r.note(path, err)
	if r.progress.Problem != nil {
		r.progress.Problem(path, err)
	}
}

// note is problem without a call of Progress, for what is reported together with
// more of its kind.
func (r *report) note(path string, err error) {
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

// fatal turns an error that concerns one node into a problem, and returns those
// that end the restore.
func (r *report) fatal(path string, err error) error {
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

// missing adds a part of the list of files that cannot be read, once. In later
// passes its entries are known to the first one, so only that counts them.
func (r *report) missing(s *snapshot.SegmentError, err error, first bool) {
	if r.unread[s.First] {
		return
	}
	r.unread[s.First] = true
	if first {
		r.result.Unlisted += uint64(s.Entries)
	}
	r.problem(s.First, err)
}

// flag adds an entry that is restored as the capture has it, which may not be as
// it was.
func (r *report) flag(e *manifest.Entry) {
	if r.result.FlaggedCount++; len(r.result.Flagged) < maxFlagged {
		r.result.Flagged = append(r.result.Flagged, Flagged{strings.Clone(e.Path), e.Flags})
	}
}

// part adds a file in the target that holds, or would in a dry run, what was read
// of the one at path.
func (r *report) part(path, file string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.PartCount++; len(r.result.Parts) < maxProblems {
		r.result.Parts = append(r.result.Parts, Part{path, file})
	}
}

// done counts a node that is now as the snapshot has it, or would be in a dry
// run, and what was done for that. It comes after the act. The size is that of a
// file.
func (r *report) done(action, path string, kind manifest.Type, size uint64) {
	switch kind {
	case manifest.File:
		r.files.Add(1)
		r.bytes.Add(size)
	case manifest.Dir: // counted where it is known to be wanted
	default:
		r.others.Add(1)
	}
	r.did(action, path)
	if why := r.apart[path]; why != nil {
		r.problem(path, why)
	}
}

// did counts an action.
func (r *report) did(action, path string) {
	switch action {
	case "create":
		r.created.Add(1)
	case "change":
		r.changed.Add(1)
	case "metadata":
		r.metadata.Add(1)
	case "unchanged":
		r.unchanged.Add(1)
	case "delete":
		r.deleted.Add(1)
	}
	if r.progress.Change != nil {
		r.progress.Change(action, path)
	}
}

// restored is what is restored so far.
func (r *report) restored() Counts {
	return Counts{Files: r.files.Load(), Directories: r.directories.Load(), Others: r.others.Load(), Bytes: r.bytes.Load()}
}

// complete reports whether everything is restored that the snapshot has.
func (r *report) complete() bool {
	return r.restored() == r.planned.less(r.unavailable) && r.result.Unlisted == 0
}

// sum returns the result of what was collected.
func (r *report) sum() *Result {
	s := &r.result
	s.Planned, s.Restored = r.planned, r.restored()
	s.Created, s.Changed, s.Metadata = r.created.Load(), r.changed.Load(), r.metadata.Load()
	s.Unchanged, s.Deleted = r.unchanged.Load(), r.deleted.Load()
	s.Fetched = r.progress.Fetched.Load()
	return s
}
