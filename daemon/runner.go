package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// afterTimeout bounds the hooks that clean up behind a run that was ended: the
// service manager does not wait for ever.
const afterTimeout = time.Minute

// Runner runs configured environments: hooks, capture, retries.
//
// A run counts as good only when its root was read back from the store and
// verified; every object before it was confirmed by its checksum.
type Runner struct {
	Host       string
	Repository string // its URL, credentials left out
	URL        string // the same with all that it had
	StateDir   string
	Version    string // of the program
	// Compression is default, fastest or better.
	Compression string
	Purpose     string // who runs: "daemon", "by hand"
	Log         *zap.Logger
	// Open gives the open repository, and this machine as its host, which it has
	// just seen to be so. It stays open for Close by whoever opened it.
	Open func(context.Context) (*repository.Repository, *trust.Host, error)
	// Edit, when set, adds to what is captured how.
	Edit func(*snapshot.Options)
	// Waiting, when set, is told who else is capturing the environment.
	Waiting func(holder string)
	// Committed, when set, is told of the capture that made a snapshot.
	Committed func(result *snapshot.Result)
	// Kept is what retention is applied to; nil for none.
	Kept *Kept

	places *places.Places // bound how many run at once; nil: nothing does
	// admitted, when set, is called when a run has the environment and a place,
	// and says what to capture: it may have waited for hours.
	admitted func() (*configs.Environment, error)
	// died, when set, counts a run of the environment that died. It may be
	// called again for the same one.
	died func(report.Run)
}

// Live is what a run under way has done; it may be read at any time.
type Live struct {
	phase    atomic.Pointer[string]
	attempt  atomic.Int32
	progress atomic.Pointer[snapshot.Progress]
}

func (l *Live) enter(phase string) { l.phase.Store(&phase) }

// Phase is what the run is about.
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

// Run captures an environment once, retries included, and fills in run, whose
// Trigger and Started are set. The error is that of the run; run.Error tells it
// in words. When run names a snapshot, that is committed whatever came after.
func (r *Runner) Run(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	live.enter("waiting")
	lock, leave, err := r.admit(ctx, name, time.Duration(env.Timeout))
	if err == nil {
		defer leave()
		err = r.alone(ctx, lock, name, env, run, live)
	}
	run.Finished = time.Now()
	if err != nil && run.Error == "" {
		failed(ctx, run, err)
	}
	return err
}

// alone is the run of an environment that it has to itself. It begins with what
// a run that died left to do, and leaves a record of itself meanwhile.
func (r *Runner) alone(ctx context.Context, lock *jobfiles.Lock, name string, env *configs.Environment, run *report.Run, live *Live) (err error) {
	if r.admitted != nil {
		if env, err = r.admitted(); err != nil {
			return err
		}
	}
	if lock.Record.Run != nil {
		live.enter("after")
	}
	if err := r.afterDeath(ctx, lock, name, env); err != nil {
		return fmt.Errorf("what should follow a run that died: %w", err)
	}
	if err := lock.Begin(run); err != nil {
		r.Log.Warn("should this run die, nobody will know", zap.Error(err))
	}
	err = r.work(ctx, name, env, run, live)
	// After a panic the record stays, for the hooks that did not run.
	if err := lock.End(); err != nil {
		r.Log.Warn("this run will be taken for one that died", zap.Error(err))
	}
	return err
}

// failed records that a run came to an error: a failure, unless it was stopped.
func failed(ctx context.Context, run *report.Run, err error) {
	run.Result, run.Error = report.Failed, err.Error()
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) || errors.Is(cause, errStopped) {
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
	live.enter("on_failure")
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	r.hooks(clean, "on_failure", env.Hooks.OnFailure, r.environ(name, run), false)
	return err
}

// because is an error with the cause of the end of ctx, if that was its own.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w; it was then: %w", cause, err)
	}
	return err
}

// around captures the environment between its hooks.
func (r *Runner) around(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	live.enter("before")
	err := r.hooks(ctx, "before", env.Hooks.Before, r.environ(name, run), true)
	if err != nil {
		err = fmt.Errorf("nothing was captured: %w", err)
	} else {
		err = r.attempts(ctx, name, env, run, live)
	}
	if err != nil {
		err = because(ctx, err)
		failed(ctx, run, err)
	}
	live.enter("after")
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

// outliving is a context for what cleans up: it goes on for afterTimeout after
// the end of ctx.
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

// attempts captures until it succeeds, or trying again makes no sense.
func (r *Runner) attempts(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	wait := firstRetry
	for {
		run.Attempts++
		live.attempt.Store(int32(run.Attempts))
		live.enter("capture")
		err := r.capture(ctx, name, env, run, live)
		if err == nil || run.Attempts > int(env.Retries) || !passing(err) || ctx.Err() != nil {
			return err
		}
		pause := wait + rand.N(wait/5)
		r.Log.Warn("the store failed; the run is tried again", zap.Error(err), zap.Int("attempt", run.Attempts), zap.Duration("in", pause.Round(time.Second)))
		live.enter("retry")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		wait = min(2*wait, lastRetry)
	}
}

// passing tells whether an error may be gone by itself later: the store could
// not be reached or used for a while.
func passing(err error) bool {
	if authentic.Damaged(err) {
		return false
	}
	for _, e := range []error{storage.ErrUnreachable, storage.ErrUnavailable, storage.ErrStalled, storage.ErrUnproven, storage.ErrChecksum, storage.ErrFull, objects.ErrOvertaken, objects.ErrLost} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// capture is one attempt.
func (r *Runner) capture(ctx context.Context, name string, env *configs.Environment, run *report.Run, live *Live) error {
	o, err := CaptureOptions(name, env)
	if err != nil {
		return err
	}
	repo, host, err := r.Open(ctx)
	if err != nil {
		return err
	}
	o.StateDir, o.Version, o.Level = repo.State.Dir(), r.Version, Level(r.Compression)
	Omit(&o, r.StateDir, r.URL)
	o.Progress = &snapshot.Progress{Warn: func(m string) { r.Log.Warn(m) }, Note: func(m string) { r.Log.Info(m) }}
	if r.Edit != nil {
		r.Edit(&o)
	}
	live.progress.Store(o.Progress)
	result, err := snapshot.Capture(ctx, repo, host, o)
	if err != nil {
		return err
	}
	run.Snapshot, run.Files, run.Bytes, run.NewBytes, run.StoredBytes, run.Problems = result.Snapshot.Ref(), result.Files, result.Bytes, result.NewBytes, result.StoredBytes, result.Count
	run.SnapshotID, run.Directories, run.ReadFiles = fmt.Sprintf("%x", result.Snapshot.ID), result.Directories, result.Read
	run.Verified = result.Verified
	run.HealedPacks, run.HealedBytes = result.Healed.Packs, result.Healed.Bytes
	if b := result.Snapshot.Body; b != nil {
		run.SnapshotTime, run.ProtectedUntil = b.Started, repo.ClaimedProtection(b)
	}
	run.Result = report.Success
	if result.Partial() {
		run.Result = report.Partial
	}
	for _, s := range result.Suspect {
		run.Result, run.Suspect = report.Suspect, append(run.Suspect, s.String())
	}
	run.Suspect = bounded(run.Suspect)
	if r.Committed != nil {
		r.Committed(result)
	}
	live.enter("retention")
	run.Forgotten = r.retain(ctx, repo, name, env, result.Snapshot)
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
