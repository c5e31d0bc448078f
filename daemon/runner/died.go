package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
)

// diedText is the error of a run that died.
func diedText(started time.Time) string {
	return fmt.Sprintf("the run that began at %s died: knowngood or the machine ended in the middle of it (killed, out of memory, a crash or loss of power); what it stored is kept, and the next run goes on from there", started.Format("2006-01-02 15:04:05 MST"))
}

// afterDeath finishes a run of the environment that died, if one did: its hooks
// after and on_failure run now, and the run is counted. The lock is held. An error
// means that this was interrupted; whoever takes the lock next repeats it.
//
// The record is removed when the hooks have run. A crash between the two runs the
// hooks again: twice is better than never, because they undo what hooks before did.
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

	if died := lock.Record.Died; died != nil && r.Died != nil {
		r.Died(*died)
		return lock.Counted()
	}
	return nil
}

// Settle finishes a run of the environment that died, without a run after it.
// When another process holds the environment, that one has done it.
func (r *Runner) Settle(ctx context.Context, name string) error {
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
	env, err := r.Admitted()
	if err != nil {
		return err
	}
	return r.afterDeath(ctx, lock, name, env)
}
