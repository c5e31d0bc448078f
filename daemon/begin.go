package daemon

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/snapshot"
)

// begin starts a run of j; mu is held.
func (d *Daemon) begin(ctx context.Context, j *job, run report.Run) {
	ctx, cancel := context.WithCancelCause(ctx)
	run.Started = d.Now()
	r := &running{run: run, began: run.Started, moved: run.Started, cancel: cancel}
	j.running = r
	d.busy++
	work := d.capture(j, r)
	switch j.name {
	case pruneJob:
		work = d.prune(r)
	case checkJob:
		work = d.check(j, r)
	}
	d.runs.Go(func() {
		defer cancel(nil)
		err := d.guarded(ctx, work)
		d.end(ctx, j, r, err)
	})
}

// guarded turns a panic, which is a mistake of ours, into an error of the run.
func (d *Daemon) guarded(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.Log.Error("panic in a run", zap.Any("panic", p), zap.Stack("stack"))
			err = errPanic
		}
	}()
	return work(ctx)
}

var errPanic = errors.New("a mistake in knowngood ended the run: the log has the details, please report them")

// errGone ends a run whose turn came when a reload had taken out its job.
var errGone = errors.New("it is not configured any more")

// capture is a run of an environment, as it is configured when its turn comes;
// mu is held.
func (d *Daemon) capture(j *job, r *running) func(context.Context) error {
	runner := d.runner(j, func() {
		r.number, r.timeout = d.repo.configured(), time.Duration(j.env.Timeout)
		d.teller.Ping(notify.Started, j.name, nil)
		d.Log.Info("run started", zap.String("environment", j.name), zap.String("trigger", r.run.Trigger))
	})
	runner.Committed = func(made *snapshot.Result) { r.problems = made.Problems }
	env := j.env
	return func(ctx context.Context) error { return runner.Run(ctx, j.name, env, &r.run, &r.live) }
}

// runner runs the environment of j as it is configured when its turn comes.
// admitted, which may be nil, is called then, with mu held.
func (d *Daemon) runner(j *job, admitted func()) *Runner {
	log := d.Log.With(zap.String("environment", j.name))
	runner := &Runner{StateDir: d.config.StateDir, Version: d.Version, Purpose: "the daemon", Log: log, Open: d.repository, Kept: j.kept, places: &d.places, Edit: d.Edit,
		Waiting: func(holder string) {
			log.Info("the environment is being captured already; waiting for that", zap.String("by", holder))
		}}
	runner.admitted = func() (*configs.Environment, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if j.gone {
			return nil, errGone
		}
		c := d.config
		runner.Host, runner.Repository, runner.URL, runner.Compression = c.Host, redact(c.Repository.URL), c.Repository.URL, string(c.Compression)
		if admitted != nil {
			admitted()
		}
		return j.env, nil
	}
	runner.died = func(run report.Run) { d.died(j, run) }
	return runner
}

// end takes in that a run ended.
func (d *Daemon) end(ctx context.Context, j *job, r *running, err error) {
	run := &r.run
	if run.Finished.IsZero() {
		run.Finished = d.Now()
	}
	if err != nil && run.Error == "" {
		failed(ctx, run, err)
	}
	if run.Result == "" {
		run.Result = report.Success
	}
	gone := errors.Is(err, errGone)
	if gone {
		d.Log.Info("a run that waited for its turn is left out: "+err.Error(), zap.String("environment", j.name))
	} else {
		d.logRun(j.name, run)
	}
	repo, _ := d.repo.current()
	if repo != nil {
		d.takeWarnings(repo, err)
	}
	d.mu.Lock()
	url, quota := d.config.Repository.URL, uint64(d.config.Repository.Quota)
	d.mu.Unlock()
	store := space(repo, url, quota)
	d.mu.Lock()
	j.running = nil
	d.busy--
	if run.Snapshot != "" {
		j.problems.snapshot, j.problems.list = run.Snapshot, r.problems
	}
	if run.Snapshot != "" && repo != nil && r.number == d.repo.configured() { // else it may be in another repository
		j.state.Repository = repo.ID().String()
		if run.MadeGood() {
			j.state.Newest, j.state.Protected = run.Started, run.ProtectedUntil
		}
		j.state.Accepted = snapshot.Accepted(repo, j.name)
		if n, nerr := repo.Remembered(d.config.Host, j.name); nerr == nil {
			if n != j.state.Number+1 {
				j.kept.doubt() // somebody captured by hand in between
			}
			j.state.Number = n
		}
	}
	if !gone {
		d.ended(j, *run)
	}
	failures := j.state.Failures
	d.measure(store)
	if j.gone {
		j.slots.Close()
		delete(d.jobs, j.name)
	}
	last := d.busy == 0
	if last {
		d.repo.mu.Lock()
		d.repo.closeOld()
		d.repo.mu.Unlock()
	}
	d.mu.Unlock()
	if !gone {
		d.tellRun(j.name, run, failures)
	}
	if last {
		idle()
	}
	d.look()
}

// logRun is the line that a run leaves at its end.
func (d *Daemon) logRun(name string, run *report.Run) {
	fields := []zap.Field{zap.String("result", string(run.Result)), zap.String("trigger", run.Trigger), zap.Duration("took", run.Duration().Round(time.Millisecond)), zap.Int("attempts", run.Attempts)}
	what, size := "prune", zap.Uint64("freed_bytes", run.FreedBytes)
	if name == checkJob {
		what, size = "check", zap.Uint64("read_bytes", run.ReadBytes)
	}
	if isEnvironment(name) {
		what, size = "run", zap.Uint64("stored_bytes", run.StoredBytes)
		fields = append(fields, zap.String("environment", name), zap.String("snapshot", run.Snapshot), zap.Uint64("files", run.Files), zap.Uint64("bytes", run.Bytes),
			zap.Uint64("new_bytes", run.NewBytes), zap.Uint64("problems", run.Problems))
	}
	fields = append(fields, size)
	if run.HealedPacks > 0 {
		fields = append(fields, zap.Uint64("healed_packs", run.HealedPacks), zap.Uint64("healed_bytes", run.HealedBytes))
	}
	if run.Missed > 0 {
		fields = append(fields, zap.Int("missed", run.Missed))
	}
	switch {
	case run.Result == report.Interrupted:
		d.Log.Info(what+" interrupted by the stop of the daemon; the next one goes on from there", fields...)
	case run.Result == report.Failed:
		d.Log.Error(what+" failed", append(fields, zap.String("error", run.Error))...)
	case run.Result == report.Suspect:
		d.Log.Warn(what+" done: the snapshot is suspect, and nothing is forgotten until it is accepted or the source is back", append(fields, zap.Strings("suspect", run.Suspect))...)
	default:
		d.Log.Info(what+" done", fields...)
	}
}
