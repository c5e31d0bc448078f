package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/internal/userdir"
	"knowngood/storage/layout"
)

// diedText is the error of a run that died.
func diedText(started time.Time) string {
	return fmt.Sprintf("the run that began at %s died: knowngood or the machine ended in the middle of it (killed, out of memory, a crash or loss of power); what it stored is kept, and the next run goes on from there", started.Format("2006-01-02 15:04:05 MST"))
}

// afterDeath deals with a run of the environment that died, if one did: the
// hooks that clean up behind it run now, and whoever counts runs is told of it.
// The lock is held. An error is that this was cut short; the next to take the
// lock does it then.
//
// The record goes when the hooks have run. A crash between these two runs them
// again: once more is better than never, for what they take back.
func (r *Runner) afterDeath(ctx context.Context, lock *jobfiles.Lock, name string, env *configs.Environment) error {
	if began := lock.Record.Run; began != nil {
		run := report.Run{Trigger: began.Trigger, Scheduled: began.Scheduled, Started: began.Started, Missed: began.Missed, Result: report.Failed, Error: diedText(began.Started), Died: true}
		if !slices.Contains([]string{"schedule", "catch-up", "hand"}, run.Trigger) {
			run.Trigger = ""
		}
		r.Log.Error("a run of this environment died; its hooks after and on_failure run now", zap.Time("started", run.Started), zap.String("trigger", run.Trigger))

		clean, end := outliving(ctx)
		err := r.hooks(clean, "after", env.Hooks.After, r.environ(name, &run), false)
		err = errors.Join(err, r.hooks(clean, "on_failure", env.Hooks.OnFailure, r.environ(name, &run), false))
		cut := clean.Err()
		end()
		if cut != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			run.Error += "; then: " + err.Error()
		}
		run.Finished = time.Now()
		if err := lock.Bury(run); err != nil {
			return err
		}
	}

	if died := lock.Record.Died; died != nil && r.died != nil {
		r.died(*died)
		return lock.Counted()
	}
	return nil
}

// settle is afterDeath without a run after it. Whoever has the environment just
// now has done it.
func (r *Runner) settle(ctx context.Context, name string) error {
	lock, err := jobfiles.TryLock(jobfiles.Locks(r.StateDir), name, r.Purpose)
	if held := (*jobfiles.HeldError)(nil); errors.As(err, &held) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if lock.Record == (jobfiles.Record{}) {
		return nil
	}
	env, err := r.admitted()
	if err != nil {
		return err
	}
	return r.afterDeath(ctx, lock, name, env)
}

// settleDead deals with the runs that died before this start, beside what is done
// from now on. A record of what is configured no more is dropped, and named.
func (d *Daemon) settleDead(ctx context.Context) error {
	dir := jobfiles.Locks(d.config.StateDir)
	names, err := dir.Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if layout.ValidName(name) != nil || ctx.Err() != nil {
			continue
		}
		d.mu.Lock()
		var runner *Runner
		if j := d.jobs[name]; j != nil {
			runner = d.runner(j, nil)
		}
		d.mu.Unlock()
		if runner == nil {
			d.dropRecord(dir, name)
			continue
		}
		d.runs.Go(func() {
			if err := runner.settle(ctx, name); err != nil && !errors.Is(err, errGone) {
				d.Log.Error("what should follow a run that died was not done; the next run does it first", zap.String("environment", name), zap.Error(err))
			}
		})
	}
	return nil
}

// dropRecord drops what is recorded of an environment that is not configured.
func (d *Daemon) dropRecord(dir userdir.Dir, name string) {
	lock, err := jobfiles.TryLock(dir, name, "the daemon")
	if err != nil { // somebody may have it
		return
	}
	defer lock.Release()
	if lock.Record == (jobfiles.Record{}) {
		return
	}
	d.Log.Warn("a run died of an environment that is not configured any more: its hooks do not run, and its record is dropped", zap.String("environment", name))
	if err := lock.Drop(); err != nil {
		d.Log.Warn("the record was not dropped", zap.Error(err))
	}
}

// died counts a run of j that died, once, and tells of it.
func (d *Daemon) died(j *job, run report.Run) {
	d.mu.Lock()
	if d.jobs[j.name] != j {
		d.mu.Unlock()
		return
	}
	if last := j.state.Last; last == nil || !last.Started.Equal(run.Started) {
		d.ended(j, run)
	}
	newest, failures := j.state.Last.Started.Equal(run.Started), j.state.Failures
	d.mu.Unlock()

	d.logRun(j.name, &run)
	if newest { // else what came after it is told
		d.tellRun(j.name, &run, failures)
	}
	d.look()
}
