package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

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
	progress    *Progress
	unavailable Counts          // of what is planned: what the snapshot does not have completely
	unread      map[string]bool // first paths of parts of the list that cannot be read

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
	if _, ok := errors.AsType[*authentic.DamageError](err); ok {
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
	r.restored(kind, size)
	r.did(action, path)
	if why := r.apart[path]; why != nil {
		r.problem(path, why)
	}
}

// restored counts a node. A directory is counted where it is known to be wanted.
func (r *report) restored(kind manifest.Type, size uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Restored.add(kind, size)
}

// did counts an action.
func (r *report) did(action, path string) {
	r.mu.Lock()
	switch action {
	case "create":
		r.result.Created++
	case "change":
		r.result.Changed++
	case "metadata":
		r.result.Metadata++
	case "unchanged":
		r.result.Unchanged++
	case "delete":
		r.result.Deleted++
	}
	r.mu.Unlock()
	if r.progress.Change != nil {
		r.progress.Change(action, path)
	}
}

// complete reports whether everything is restored that the snapshot has.
func (r *report) complete() bool {
	return r.result.Restored == r.result.Planned.less(r.unavailable) && r.result.Unlisted == 0
}
