// Package runner runs one configured environment: it locks the environment, runs
// its hooks, captures it with retries, and applies its retention policy.
//
// It promises that one process captures an environment at a time, that a run
// counts as good only when its root was read back from the store, and that the
// hooks that clean up run after every run, one that died included. It does not
// schedule anything.
package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/places"
	"knowngood/daemon/report"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// Waits before a run is tried again: the first, doubled each time, and at most
// the last. Up to a fifth is added by chance, so that hosts do not come back
// to a store together.
const (
	firstRetry = 30 * time.Second
	lastRetry  = 15 * time.Minute
)

// afterTimeout bounds the hooks that clean up after a run that was ended: the
// service manager does not wait for ever.
const afterTimeout = time.Minute

// Stuck is how long a run without a timeout may make no progress.
const Stuck = 2 * time.Hour

// ErrStopped is the cause with which the daemon ends its runs when it stops.
var ErrStopped = errors.New("the daemon was stopped")

// Runner runs configured environments: hooks, capture, retries.
//
// A run counts as good only when its root was read back from the store and
// verified; every object before it was confirmed by its checksum.
type Runner struct {
	Host       string
	Repository string // URL without credentials
	URL        string // the full URL
	StateDir   string
	Version    string // of the program
	// Compression is default, fastest or better.
	Compression string
	MaxRepack   uint64 // see snapshot.Options
	Purpose     string // who runs it, for the lock file: "the daemon"
	Log         *zap.Logger
	// Open returns the open repository, and this machine as its host, which has
	// just been verified. The repository belongs to whoever opened it.
	Open func(context.Context) (*repository.Repository, *trust.Host, error)
	// Edit, when set, changes the options of a capture in this process.
	Edit func(*snapshot.Options)
	// Capture, when set, captures in the place of this process.
	Capture Capture
	// Waiting, when set, is called with the process that captures the environment
	// at the moment.
	Waiting func(holder string)
	// Committed, when set, is called with what a capture made.
	Committed func(*Made)
	// Kept is what retention is applied to; nil: nothing is forgotten.
	Kept *Kept
	// Places bound how many runs work at once; nil: no bound.
	Places *places.Places
	// Admitted, when set, is called when a run has the environment and a place.
	// It returns what to capture: the run may have waited for hours.
	Admitted func() (*configs.Environment, error)
	// Died, when set, counts a run of the environment that died. It may be called
	// again with the same run.
	Died func(report.Run)
}

// Live is the progress of a run; it may be read at any time.
type Live struct {
	phase    atomic.Pointer[string]
	attempt  atomic.Int32
	progress atomic.Pointer[snapshot.Progress]
	failure  atomic.Pointer[Failure]
}

// Failure is why an attempt failed, and when the next one begins.
type Failure struct {
	Err  error
	Next time.Time
}

// Enter begins a phase.
func (l *Live) Enter(phase string) { l.phase.Store(&phase) }

// Phase is what the run does at the moment.
func (l *Live) Phase() string {
	if p := l.phase.Load(); p != nil {
		return *p
	}
	return "waiting"
}

// Progress of the capture under way; nil before the first.
func (l *Live) Progress() *snapshot.Progress { return l.progress.Load() }

// Attempt under way, from 1; 0 before the first.
func (l *Live) Attempt() int { return int(l.attempt.Load()) }

// Failure of the last attempt that failed; nil while none has.
func (l *Live) Failure() *Failure { return l.failure.Load() }

// Run captures an environment once, retries included, and fills in run, whose
// Trigger and Started are set. The error is that of the run; run.Error has its
// text. When run names a snapshot, it is committed, whatever came after.
func (r *Runner) Run(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	live.Enter("waiting")
	lock, leave, err := r.admit(ctx, name, time.Duration(env.Timeout))
	if err == nil {
		defer leave()
		err = r.exclusive(ctx, lock, name, env, run, live)
	}
	run.Finished = time.Now()
	if err != nil && run.Error == "" {
		Fail(ctx, run, err)
	}
	return err
}

// exclusive is the run while it holds the lock of the environment. It begins with
// what a run that died left to do, and records itself in the lock file meanwhile.
func (r *Runner) exclusive(ctx context.Context, lock *jobfiles.Lock, name string, env *configs.Environment, run *report.Run, live *Live) (err error) {
	if r.Admitted != nil {
		if env, err = r.Admitted(); err != nil {
			return err
		}
	}
	if lock.Record.Run != nil {
		live.Enter("after")
	}
	if err := r.afterDeath(ctx, lock, name, env); err != nil {
		return fmt.Errorf("what should follow a run that died: %w", err)
	}
	if err := lock.Begin(run); err != nil {
		r.Log.Warn("the run is not recorded: if it dies, its hooks after and on_failure will not run", zap.Error(err))
	}
	err = r.work(ctx, name, env, run, live)
	// After a panic the record stays, for the hooks that did not run.
	if err := lock.End(); err != nil {
		r.Log.Warn("the record of the run was not removed: the next run will treat this one as died", zap.Error(err))
	}
	return err
}

// Fail records the error of a run: a failure, unless the run was stopped.
func Fail(ctx context.Context, run *report.Run, err error) {
	run.Result, run.Error = report.Failed, err.Error()
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) || errors.Is(cause, ErrStopped) {
		run.Result, run.Error = report.Interrupted, "the run was stopped; what it stored is kept, and the next run goes on from there"
	}
}

// work runs the hooks, and captures.
func (r *Runner) work(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	limited := ctx
	if env.Timeout > 0 { // of the work, and not of waiting for others
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, time.Duration(env.Timeout), fmt.Errorf("the run took longer than its timeout of %v", time.Duration(env.Timeout)))
		defer cancel()
	}
	err := r.around(limited, name, env, run, live)
	if run.Result != report.Failed {
		return err
	}
	live.Enter("on_failure")
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	r.hooks(clean, "on_failure", env.Hooks.OnFailure, r.environ(name, run), false)
	return err
}

// WithCause is err with the reason why ctx ended, where ctx has one of its own.
func WithCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w; it was then: %w", cause, err)
	}
	return err
}

// around runs the hooks, and captures the environment between them.
func (r *Runner) around(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	live.Enter("before")
	err := r.hooks(ctx, "before", env.Hooks.Before, r.environ(name, run), true)
	if err != nil {
		err = fmt.Errorf("nothing was captured: %w", err)
	} else {
		err = r.attempts(ctx, name, env, run, live)
	}
	if err != nil {
		died := (*DiedError)(nil)
		run.Died = errors.As(err, &died) && ctx.Err() == nil
		err = WithCause(ctx, err)
		Fail(ctx, run, err)
	}
	live.Enter("after")
	clean, end := outliving(ctx)
	defer end()
	if after := r.hooks(clean, "after", env.Hooks.After, r.environ(name, run), false); after != nil {
		if run.Snapshot != "" {
			after = fmt.Errorf("%s is committed, but what should follow failed: %w", run.Snapshot, after)
		}
		err = errors.Join(err, after)
		if run.Result != report.Interrupted {
			run.Result = report.Failed
			run.Error = err.Error()
		} else {
			run.Error += "; then: " + after.Error()
		}
	}
	return err
}

// outliving is a context for cleaning up: it ends afterTimeout later than ctx.
func outliving(ctx context.Context) (context.Context, context.CancelFunc) {
	clean, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(afterTimeout):
			cancel()
		case <-clean.Done():
		}
	})
	return clean, func() {
		unhook()
		cancel()
	}
}

// attempts captures until it succeeds, or another attempt would not help.
func (r *Runner) attempts(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	wait := firstRetry
	for {
		run.Attempts++
		live.attempt.Store(int32(run.Attempts))
		live.Enter("capture")
		err := r.capture(ctx, name, env, run, live)
		if err == nil || run.Attempts > int(env.Retries) || !Transient(err) || ctx.Err() != nil {
			return err
		}
		pause := wait + rand.N(wait/5)
		r.Log.Warn("the store failed; the run is tried again", zap.Error(err), zap.Int("attempt", run.Attempts), zap.Duration("in", pause.Round(time.Second)))
		live.failure.Store(&Failure{err, time.Now().Add(pause)})
		live.Enter("retry")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		wait = min(2*wait, lastRetry)
	}
}

// Transient reports whether an error may disappear by itself: the store could not
// be reached or used for a while.
func Transient(err error) bool {
	if authentic.Damaged(err) {
		return false
	}
	if elsewhere := (*ElsewhereError)(nil); errors.As(err, &elsewhere) {
		return elsewhere.Transient
	}
	return slices.ContainsFunc([]error{storage.ErrUnreachable, storage.ErrUnavailable, storage.ErrStalled, storage.ErrUnproven, storage.ErrChecksum, storage.ErrFull, objects.ErrOvertaken, objects.ErrLost}, func(target error) bool { return errors.Is(err, target) })
}

// capture is one attempt.
func (r *Runner) capture(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	repo, host, err := r.Open(ctx)
	if err != nil {
		return err
	}
	p := &snapshot.Progress{Warn: func(m string) { r.Log.Warn(m) }, Note: func(m string) { r.Log.Info(m) }}
	live.progress.Store(p)
	capture := r.Capture
	if capture == nil {
		capture = func(ctx context.Context, a *Attempt, p *snapshot.Progress) (*Made, error) {
			return a.Make(ctx, repo, host, p, r.Edit)
		}
	}
	made, err := capture(ctx, &Attempt{Name: name, Environment: env, URL: r.URL, StateDir: r.StateDir, Version: r.Version, Compression: r.Compression, MaxRepack: r.MaxRepack}, p)
	if err != nil {
		return err
	}
	made.describe(run)
	if r.Committed != nil {
		r.Committed(made)
	}
	live.Enter("retention")
	run.Forgotten = r.retain(ctx, repo, name, env, made.Item)
	return nil
}

// Level of a configured compression.
func Level(compression string) pack.Level {
	switch compression {
	case "fastest":
		return pack.LevelFastest
	case "better":
		return pack.LevelBetter
	}
	return pack.LevelDefault
}
