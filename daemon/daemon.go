package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/checking"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/daemon/warnings"
	"knowngood/daemon/web"
	"knowngood/internal/userdir"
	"knowngood/storage/authentic"
)

// Options of a daemon.
type Options struct {
	Config *configs.Config
	// Load reads the configuration again, and validates it.
	Load func() (*configs.Config, error)
	// Open opens the repository of a configuration.
	Open checking.Open
	// Unlocked opens it with the identity of the configuration.
	Unlocked checking.Open
	Version  string
	// ConfigFile is where the configuration came from; empty: only from flags.
	ConfigFile string
	Log        *zap.Logger
	// Notify sends a state, such as READY=1, to the service manager.
	Notify func(state string)
	// Watchdog is how often the service manager expects a sign of life; 0: never.
	Watchdog time.Duration
	// Now is the wall clock.
	Now func() time.Time
	// Capture captures in a process of its own; nil: in this one.
	Capture runner.Capture
	// Drill drills what a job of the configuration names, or only removes what a drill
	// of it left that was killed. It returns what --json prints, also with an error that
	// means that not all is well.
	Drill func(ctx context.Context, job string, sweep bool) ([]byte, error)
	// Drift compares what a job of the configuration names with the known-good state. It
	// returns what --json prints, as Drill does.
	Drift func(ctx context.Context, job string) ([]byte, error)
	// Trial returns what of an environment is on trial; nil for nothing. What should have
	// gone back by now it takes back, where it can. Nil where that is not wanted.
	Trial func(ctx context.Context, environment string, env *configs.Environment) (*report.Trial, error)
	// Room reports whether a capture has room beside a drill; nil: by memory and disk.
	Room func(stateDir string) bool
	// Working, when set, is called when this process itself begins a run, of a check
	// or a prune, and what it returns when that ends.
	Working func() (ended func())
}

// Limits.
const (
	// stuckPrune ends a prune or a check that read nothing and deleted nothing for
	// so long: while it lists, it shows no progress.
	stuckPrune = 24 * time.Hour
	// unresponsive is how long after the end of a stuck run the daemon calls itself
	// broken, so that the service manager restarts it.
	unresponsive = 10 * time.Minute
	// reopenAfter is how soon a repository that could not be opened is tried again
	// without a run that needs it.
	reopenAfter = time.Minute
	// startPatience is how long the start waits for the repository.
	startPatience = 20 * time.Second
)

// Daemon is the service. Run runs it once.
//
// Locks are taken in this order: jobs, then messages, checks or repo, then
// warnings.
type Daemon struct {
	Options
	ctx       context.Context // of Run; belongs to jobs.mu
	started   time.Time
	wake      waker
	observing sync.Mutex             // held by who reads the repository between runs
	trying    sync.Mutex             // held by who looks for trials
	published atomic.Pointer[string] // the newest status line of the service manager

	findings authentic.Findings // of repo, and of what is opened for a prune
	warnings *warnings.List
	jobs     *jobs
	repo     *holder
	messages *messenger
	checks   *checking.State
	executor *executor

	timelines map[string]*timeline // by environment; belongs to jobs.mu
}

// waker wakes the loop of the daemon.
type waker chan struct{}

func (w waker) wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// New makes a daemon; Run reads its state.
func New(o Options) *Daemon {
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Room == nil {
		o.Room = roomFor
	}
	d := &Daemon{Options: o, started: o.Now(), wake: make(waker, 1), timelines: map[string]*timeline{}}
	d.warnings = warnings.New(o.Log, func() time.Time { return d.Now() })
	d.jobs = &jobs{o: &d.Options, warnings: d.warnings, config: o.Config, byName: map[string]*job{}}
	d.repo = &holder{o: &d.Options, findings: &d.findings, config: o.Config, opening: make(chan struct{}, 1)}
	d.messages = &messenger{o: &d.Options, warnings: d.warnings, wake: d.wake}
	d.checks = checking.NewState(d.warnings)
	d.executor = &executor{o: &d.Options, findings: &d.findings, jobs: d.jobs, repo: d.repo, messages: d.messages, warnings: d.warnings, checks: d.checks, wake: d.wake}
	return d
}

// Run runs the daemon until ctx ends, and then until its runs have. The error
// is why it could not start.
func (d *Daemon) Run(ctx context.Context) error {
	stateDir := d.Config.StateDir
	lock, err := jobfiles.TryLock(jobfiles.Locks(stateDir), ".daemon", "daemon")
	if held, ok := errors.AsType[*jobfiles.HeldError](err); ok {
		return fmt.Errorf("another daemon uses the state directory %s: %s; stop that one first, or give this one a state_dir of its own", stateDir, held.Holder)
	}
	if err != nil {
		return userdir.At(stateDir).Failed(err)
	}
	defer lock.Release()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	for _, addr := range []string{d.Config.Listen, d.Config.ListenTCP} {
		if addr == "" {
			continue
		}
		listener, err := web.Listen(addr)
		if err != nil {
			return err
		}
		serving.Go(func() {
			if err := web.Serve(ctx, listener, web.Handler(d, d)); err != nil && ctx.Err() == nil {
				d.Log.Error("the API stopped", zap.String("listen", addr), zap.Error(err))
			}
		})
	}
	return d.work(ctx)
}

// work runs the jobs until ctx ends.
func (d *Daemon) work(ctx context.Context) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	defer d.close()

	d.jobs.mu.Lock()
	d.messages.last(d.jobs.byName)
	d.jobs.mu.Unlock()
	d.awaitRepository(ctx)
	if err := d.executor.settleDead(ctx); err != nil {
		d.Log.Error("whether runs died is not known", zap.Error(err))
	}
	d.status()
	d.Notify("READY=1")
	d.loop(ctx)

	d.Notify("STOPPING=1")
	d.executor.stop()
	return nil
}

// start reads the state of the daemon, and starts to deliver messages.
func (d *Daemon) start(ctx context.Context) error {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	d.ctx = ctx
	d.repo.since = d.Now()
	c := d.Config
	if err := d.messages.open(c); err != nil {
		return err
	}
	d.configure(c)
	d.Log.Info("daemon started", zap.String("version", d.Version), zap.String("config", d.ConfigFile), zap.String("host", c.Host),
		zap.String("repository", redact(c.Repository.URL)), zap.Int("environments", len(c.Environments)))
	return nil
}

// configure makes the jobs those of a configuration; jobs.mu is held.
func (d *Daemon) configure(c *configs.Config) {
	if c.Check != nil {
		d.checks.Open(c.StateDir)
	}
	d.jobs.configure(c)
	d.executor.places.Resize(int(c.MaxRuns))
}

// awaitRepository opens the repository, and waits for that, but not for long: the
// status reports that it is not open yet.
func (d *Daemon) awaitRepository(ctx context.Context) {
	opened := make(chan struct{})
	d.executor.active.Go(func() {
		d.observing.Lock()
		defer d.observing.Unlock()
		d.open(ctx)
		close(opened)
	})
	patience := time.After(startPatience)
	for {
		select {
		case <-opened:
			return
		case <-patience:
			return
		case <-ctx.Done():
			return
		case <-d.wake: // everything else waits for the loop
			d.messages.saveDelivered()
		}
	}
}

func (d *Daemon) close() {
	d.messages.close()
	d.jobs.close()
	d.checks.Close()
}
