package daemon

import (
	"context"
	"errors"
	"io/fs"

	"go.uber.org/zap"

	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/internal/userdir"
	"knowngood/storage/layout"
)

// settleDead finishes the runs that died before this start, beside new ones. A
// record of an environment that is not configured any more is dropped, and logged.
func (x *executor) settleDead(ctx context.Context) error {
	dir := jobfiles.Locks(x.o.Config.StateDir)
	names, err := dir.Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	x.settleDrills(ctx)
	for _, name := range names {
		if layout.ValidName(name) != nil || ctx.Err() != nil {
			continue
		}
		x.jobs.mu.Lock()
		var one *runner.Runner
		if j := x.jobs.byName[name]; j != nil {
			one = x.runner(j, nil)
		}
		x.jobs.mu.Unlock()
		if one == nil {
			dropRecord(x.o.Log, dir, name)
			continue
		}
		x.active.Go(func() {
			if err := one.Settle(ctx, name); err != nil && !errors.Is(err, errGone) {
				x.o.Log.Error("what should follow a run that died was not done; the next run does it first", zap.String("environment", name), zap.Error(err))
			}
		})
	}
	return nil
}

// dropRecord drops what is recorded of an environment that is not configured.
func dropRecord(log *zap.Logger, dir userdir.Dir, name string) {
	lock, err := jobfiles.TryLock(dir, name, "the daemon")
	if err != nil { // somebody may have it
		return
	}
	defer lock.Release()
	if lock.Record == (jobfiles.Record{}) {
		return
	}
	log.Warn("a run died of an environment that is not configured any more: its hooks do not run, and its record is dropped", zap.String("environment", name))
	if err := lock.Drop(); err != nil {
		log.Warn("the record was not dropped", zap.Error(err))
	}
}

// died counts a run of j that died, once, and reports it.
func (x *executor) died(j *job, run report.Run) {
	x.jobs.mu.Lock()
	if x.jobs.byName[j.name] != j {
		x.jobs.mu.Unlock()
		return
	}
	if last := j.state.Last; last == nil || !last.Started.Equal(run.Started) {
		x.jobs.ended(j, run)
	}
	newest, failures := j.state.Last.Started.Equal(run.Started), j.state.Failures
	x.jobs.mu.Unlock()

	logRun(x.o.Log, j.name, &run)
	if newest { // otherwise the runs after it are reported
		x.messages.ran(j.name, &run, failures)
	}
	x.wake.wake()
}
