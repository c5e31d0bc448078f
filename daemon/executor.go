package daemon

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/checking"
	"knowngood/daemon/notify"
	"knowngood/daemon/places"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/daemon/warnings"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// executor executes the runs of jobs, and records how they end.
type executor struct {
	o        *Options
	findings *authentic.Findings
	jobs     *jobs
	repo     *holder
	messages *messenger
	warnings *warnings.List
	checks   *checking.State
	wake     waker

	places places.Places
	active sync.WaitGroup // runs, and what happens beside them
}

// begin starts a run of j; jobs.mu is held.
func (x *executor) begin(ctx context.Context, j *job, run report.Run) {
	ctx, cancel := context.WithCancelCause(ctx)
	run.Started = x.o.Now()
	r := &running{run: run, began: run.Started, moved: run.Started, cancel: cancel}
	j.running = r
	x.jobs.running++
	work := x.capture(j, r)
	switch j.name {
	case pruneJob:
		work = func(ctx context.Context) error { return x.prune(ctx, r) }
	case checkJob:
		work = func(ctx context.Context) error { return x.check(ctx, j, r) }
	}
	if isDrill(j.name) {
		work = func(ctx context.Context) error { return x.drill(ctx, j.name, r) }
	}
	if isDrift(j.name) {
		work = func(ctx context.Context) error { return x.drift(ctx, j.name, r) }
	}
	x.active.Go(func() {
		defer cancel(nil)
		if (j.name == pruneJob || j.name == checkJob) && x.o.Working != nil {
			defer x.o.Working()()
		}
		err := guarded(ctx, x.o.Log, work)
		x.end(ctx, j, r, err)
	})
}

// guarded turns a panic, which is a bug, into an error of the run.
func guarded(ctx context.Context, log *zap.Logger, work func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic in a run", zap.Any("panic", p), zap.Stack("stack"))
			err = errPanic
		}
	}()
	return work(ctx)
}

var errPanic = errors.New("a bug in knowngood ended the run: the log has the details, please report them")

// errGone ends a run whose job was removed by a reload while it waited.
var errGone = errors.New("it is not configured any more")

// capture is a run of an environment, with the configuration of the moment when
// its turn comes; jobs.mu is held.
func (x *executor) capture(j *job, r *running) func(context.Context) error {
	one := x.runner(j, func() {
		r.generation, r.env, r.timeout = x.repo.generation(), j.env, time.Duration(j.env.Timeout)
		x.messages.ping(notify.Started, j.name, nil)
		x.o.Log.Info("run started", zap.String("environment", j.name), zap.String("trigger", r.run.Trigger))
	})
	one.Committed = func(made *runner.Made) { r.problems, r.used = made.Listed(), made.UsedBytes }
	env := j.env
	return func(ctx context.Context) error { return one.Run(ctx, j.name, env, &r.run, &r.live) }
}

// runner runs the environment of j as it is configured when its turn comes.
// admitted, which may be nil, is called then, with jobs.mu held.
func (x *executor) runner(j *job, admitted func()) *runner.Runner {
	log := x.o.Log.With(zap.String("environment", j.name))
	one := &runner.Runner{StateDir: x.o.Config.StateDir, Version: x.o.Version, Purpose: "the daemon", Log: log, Open: x.repository, Kept: j.kept, Places: &x.places, Capture: x.o.Capture,
		Waiting: func(holder string) {
			log.Info("the environment is being captured already; waiting for that", zap.String("by", holder))
		}}
	one.Admitted = func() (*configs.Environment, error) {
		x.jobs.mu.Lock()
		defer x.jobs.mu.Unlock()
		if j.gone {
			return nil, errGone
		}
		c := x.jobs.config
		one.Host, one.Repository, one.URL, one.Compression = c.Host, redact(c.Repository.URL), c.Repository.URL, string(c.Compression)
		one.MaxRepack = c.CaptureRepack()
		if admitted != nil {
			admitted()
		}
		return j.env, nil
	}
	one.Died = func(run report.Run) { x.died(j, run) }
	return one
}

// check is a run of the check job, with the configuration of when it begins. It
// does not occupy a place.
func (x *executor) check(ctx context.Context, j *job, r *running) (err error) {
	defer func() { err = runner.WithCause(ctx, err) }()
	x.jobs.mu.Lock()
	o := checking.Options{Config: x.jobs.config, Began: x.o.Now(), Open: x.o.Open, Unlocked: x.o.Unlocked, Progress: &r.checked, Log: x.o.Log}
	if j.timing != nil {
		o.Next = j.due(o.Began).next
	}
	x.jobs.mu.Unlock()
	x.o.Log.Info("check started", zap.String("trigger", r.run.Trigger))
	r.live.Enter("check")
	r.run.Attempts = 1

	_, host, err := x.repository(ctx)
	if err != nil {
		return err
	}
	o.Host = host.Name
	return x.checks.Run(ctx, o, &r.run)
}

// end records a run that ended.
func (x *executor) end(ctx context.Context, j *job, r *running, err error) {
	run := &r.run
	if run.Finished.IsZero() {
		run.Finished = x.o.Now()
	}
	if err != nil && run.Error == "" {
		runner.Fail(ctx, run, err)
	}
	run.Result = cmp.Or(run.Result, report.Success)
	gone := errors.Is(err, errGone)
	if gone {
		x.o.Log.Info("a run that waited for its turn is left out: "+err.Error(), zap.String("environment", j.name))
	} else {
		logRun(x.o.Log, j.name, run)
	}
	repo, _ := x.repo.current()
	if repo != nil {
		x.reportFindings(err)
	}

	failures, last := x.record(j, r, repo, gone)
	if !gone {
		x.messages.ran(j.name, run, failures)
	}
	if last {
		debug.FreeOSMemory()
	}
	x.wake.wake()
}

// record records the end of a run, unless its job was gone before it began, and
// what it changed. It returns how many runs of the job failed in a row, and whether
// no other run is under way.
func (x *executor) record(j *job, r *running, repo *repository.Repository, gone bool) (failures int, last bool) {
	t := x.jobs
	t.mu.Lock()
	url, quota, used := t.config.Repository.URL, uint64(t.config.Repository.Quota), cmp.Or(r.used, t.storage.UsedBytes)
	t.mu.Unlock()
	store := space(repo, used, url, quota)

	t.mu.Lock()
	defer t.mu.Unlock()
	j.running = nil
	t.running--
	if r.run.Snapshot != "" {
		j.problems.snapshot, j.problems.list = r.run.Snapshot, r.problems
		if repo != nil && r.generation == x.repo.generation() { // otherwise it may be in another repository
			j.committed(repo, t.config.Host, &r.run, r.env)
		}
	}
	if r.run.Died && r.run.Scheduled.After(j.state.LastScheduled) {
		j.state.LastScheduled = r.run.Scheduled // only its process did: what kills each run must not be repeated at once
	}
	if !gone {
		t.ended(j, r.run)
	}
	if j.drill != nil && j.drill.Host == "" {
		if of := t.byName[j.drill.Environment]; of != nil {
			of.proved = time.Time{} // it is read again what is proven of it
		}
	}
	failures = j.state.Failures
	store.BytesPerDay, store.FullAt = forecast(t.pastRuns(), store.FreeBytes, store.LimitBytes > 0, x.o.Now())
	t.storage = store
	if j.gone {
		t.drop(j)
	}
	return failures, t.running == 0
}

// reportFindings reports tampering that the repository noticed, and damage that a
// run met.
func (x *executor) reportFindings(err error) {
	found := x.findings.Take()
	if err != nil && authentic.Damaged(err) {
		found = append(found, authentic.FindingOf(err))
	}
	for _, f := range found {
		x.found(f.Err.Error(), f.Kind != authentic.Warning)
	}
}

// found reports a finding in the repository, by a message, too.
func (x *executor) found(text string, tampering bool) {
	x.warnings.Add(text, tampering)
	x.messages.notify(func(w *notify.Watch) []notify.Message {
		return w.Found(report.Warning{Time: x.o.Now(), Text: text, Tampering: tampering})
	})
}

// repository opens the repository unless it is open, and verifies that this machine
// is still its host.
func (x *executor) repository(ctx context.Context) (*repository.Repository, *trust.Host, error) {
	repo, host, opened, err := x.repo.get(ctx)
	if opened {
		x.update(ctx, repo)
	}
	return repo, host, err
}

// update reads from the repository what the daemon does not know yet: the newest
// snapshots, where its state is older.
func (x *executor) update(ctx context.Context, repo *repository.Repository) {
	host, names := x.jobs.outdated(repo)
	if len(names) == 0 {
		return
	}
	for _, name := range names {
		f, err := findNewest(ctx, repo, host, name)
		if ctx.Err() != nil {
			return
		}
		x.jobs.update(name, repo.ID().String(), f, err)
		if authentic.Damaged(err) {
			x.messages.notify(func(w *notify.Watch) []notify.Message {
				return w.Found(report.Warning{Time: x.o.Now(), Text: err.Error(), Tampering: true})
			})
		}
	}
	x.jobs.mu.Lock()
	defer x.jobs.mu.Unlock()
	x.messages.last(x.jobs.byName) // what failed may have succeeded by hand
}

// stop ends the runs under way, and waits for them. What they stored is kept, and
// the next ones go on from there.
func (x *executor) stop() {
	x.jobs.mu.Lock()
	for _, j := range x.jobs.byName {
		if j.running != nil {
			j.running.cancel(runner.ErrStopped)
		}
	}
	x.jobs.mu.Unlock()
	x.active.Wait()
}
