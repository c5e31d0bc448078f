package restore

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"knowngood/restore/fetch"
	"knowngood/restore/owners"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/seal"
)

// Progress may be read while a restore runs.
type Progress struct {
	Files, Bytes atomic.Uint64 // done, unchanged ones included
	Found        atomic.Uint64 // bytes of these that were there before the run
	Fetched      atomic.Uint64 // bytes read from the store
	Waited       fetch.Meter   // for how long at least one read of the store was under way

	// Problem, when set, gets each problem when it occurs, concurrently.
	Problem func(path string, err error)
	// Change, when set, gets what was done to a path, or would be in a dry
	// run: "create", "change", "metadata", "unchanged", "delete".
	Change func(action, path string)
}

// Counts of nodes. Each name of a file with several names counts as one.
type Counts struct {
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Others      uint64 `json:"others"`
	Bytes       uint64 `json:"bytes"` // of the files, holes included
}

// Result of a restore, or of a dry run.
type Result struct {
	// Place is the path of the restored node when Under is not a directory; else it
	// is the target.
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
	// read all of it; each is a problem, too.
	Incomplete uint64
	// Parts are the files that hold what was read of these, where that was
	// asked for, or would in a dry run: the first ones, of PartCount.
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
	// Unfinished means that the target keeps the marker by which the same restore
	// continues, because not everything is restored.
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

// add counts a node.
func (c *Counts) add(kind manifest.Type, size uint64) {
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

// notRestoredError is why a path is not restored.
type notRestoredError struct{ err error }

func notRestored(err error) error { return &notRestoredError{err} }

func (e *notRestoredError) Error() string {
	var d *authentic.DamageError
	switch {
	case !errors.As(e.err, &d):
	case errors.Is(d.Err, storage.ErrNotFound):
		return fmt.Sprintf("NOT restored: its data is missing in the store (%s %s)", d.What, d.Key)
	case errors.Is(d.Err, seal.ErrWrongKey):
		return fmt.Sprintf("NOT restored: its data was changed after it was stored (%s %s)", d.What, d.Key)
	}
	return fmt.Sprintf("NOT restored: %v", e.err)
}

func (e *notRestoredError) Unwrap() error { return e.err }
