package daemon

import (
	"context"
	"fmt"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/prune"
)

// running is a run under way.
type running struct {
	run      report.Run         // only the run itself uses it, until it ends
	problems []manifest.Problem // of the snapshot that it made; as run
	used     uint64             // bytes of the store, when it made one; as run
	live     runner.Live
	pruned   prune.Progress
	checked  check.Progress

	began  time.Time
	cancel context.CancelCauseFunc
	// generation of the repository, the configuration, and timeout (0: none), when its turn came.
	generation int
	env        *configs.Environment
	timeout    time.Duration

	// When progress was last seen, and what it was.
	phase string
	done  uint64
	moved time.Time
}

// progress is a measure of what the run has done, which only grows.
func (r *running) progress() uint64 {
	n := uint64(r.live.Attempt())
	if p := r.live.Progress(); p != nil {
		n += p.Files.Load() + p.Bytes.Load() + p.FilesRead.Load() + p.BytesRead.Load()
	}
	n += r.pruned.Manifests.Load() + r.pruned.Read.Load() + r.pruned.Deleted.Load()
	return n + r.checked.PacksDone.Load() + r.checked.Bytes.Load()
}

// moving ends a run that makes no progress. It returns false when the run does
// not end in spite of that.
func (r *running) moving(now time.Time, environment bool) bool {
	phase, done := r.live.Phase(), r.progress()
	limit := r.patience(phase)
	if limit == 0 || phase != r.phase || done != r.done {
		r.phase, r.done, r.moved = phase, done, now
		return true
	}
	still := now.Sub(r.moved)
	if still < limit {
		return true
	}
	if r.timeout == 0 { // otherwise the timeout has ended it, if anything can
		hint := "the store hangs"
		if environment {
			hint = "a source or the store hangs, and set a timeout"
		}
		r.cancel(fmt.Errorf("the run did nothing for %v, and was ended: see whether %s", limit, hint))
	}
	return still < limit+unresponsive
}

// patience is how long a run may make no progress in a phase; 0 is for phases that
// end by themselves.
func (r *running) patience(phase string) time.Duration {
	switch phase {
	case "capture", "retention":
		return max(runner.Stuck, r.timeout)
	case "prune", "check", drillPhase, driftPhase:
		return stuckPrune
	}
	return 0
}
