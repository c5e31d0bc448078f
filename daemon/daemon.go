package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/notify"
	"knowngood/daemon/places"
	"knowngood/daemon/report"
	"knowngood/daemon/validation"
	"knowngood/daemon/web"
	"knowngood/snapshot"
	"knowngood/storage/repository"
)

// Options of a daemon.
type Options struct {
	Config *configs.Config
	// Load reads the configuration anew, and checks it.
	Load func() (*configs.Config, error)
	// Open opens the repository of a configuration. The daemon closes it.
	Open func(context.Context, *configs.Config) (*repository.Repository, error)
	// Unlocked opens it with the identity of the configuration, for repacking.
	Unlocked func(context.Context, *configs.Config) (*repository.Repository, error)
	Version  string
	// ConfigFile is where the configuration came from; empty: from flags alone.
	ConfigFile string
	Log        *zap.Logger
	// Notify tells the service manager a state, such as READY=1.
	Notify func(state string)
	// Watchdog is how often the service manager wants to hear; 0 is never.
	Watchdog time.Duration
	// Now is the wall clock.
	Now func() time.Time
	// Edit, when set, changes how environments are captured.
	Edit func(*snapshot.Options)
}

// Limits.
const (
	// stuck ends a run that has no timeout and did nothing for so long.
	stuck = 2 * time.Hour
	// stuckPrune does so to a prune, or a check, that read nothing and deleted
	// nothing for so long: listing shows nothing of what it does.
	stuckPrune = 24 * time.Hour
	// unresponsive is how long after that the daemon calls itself broken, for
	// the service manager to start it anew.
	unresponsive = 10 * time.Minute
	// reopenAfter is how soon a repository that could not be opened is tried
	// again without a run that needs it.
	reopenAfter = time.Minute
	// startPatience is how long the start waits for the repository.
	startPatience = 20 * time.Second
	maxWarnings   = 50
)

// Daemon is the service. Run runs it once.
type Daemon struct {
	Options
	ctx     context.Context // of Run
	started time.Time
	wake    chan struct{} // something changed: look again
	runs    sync.WaitGroup
	looking sync.Mutex // held by whoever looks into the repository between runs
	repo    repositoryHolder
	places  places.Places

	mu       sync.Mutex
	config   *configs.Config
	taken    time.Time // when config was taken
	jobs     map[string]*job
	busy     int // runs under way
	warnings []report.Warning
	storage  report.Storage
	checked  checked
	// checkedSlots is the file of that; nil while no check is configured.
	checkedSlots *jobfiles.Slots
	watch        *watch
	teller       *teller
	said         string // to the service manager
	// lessWaits to be told than is written down.
	lessWaits atomic.Bool
	// takenFailed is what was said last of writing down which configuration was taken.
	takenFailed string
	// keptAgain is when what could not be written was tried again.
	keptAgain time.Time
}

// New makes a daemon; its state is read by Run.
func New(o Options) *Daemon {
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Daemon{Options: o, config: o.Config, started: o.Now(), wake: make(chan struct{}, 1), jobs: map[string]*job{},
		repo: repositoryHolder{opening: make(chan struct{}, 1)}}
}

// Run runs the daemon until ctx ends, and then until its runs have. The error
// says why it could not begin.
func (d *Daemon) Run(ctx context.Context) error {
	lock, err := jobfiles.TryLock(jobfiles.Locks(d.config.StateDir), ".daemon", "daemon")
	var held *jobfiles.HeldError
	if errors.As(err, &held) {
		return fmt.Errorf("another daemon uses the state directory %s: %s; stop that one first, or give this one a state_dir of its own", d.config.StateDir, held.Holder)
	}
	if err != nil {
		return fmt.Errorf("state directory %s: %w", d.config.StateDir, err)
	}
	defer lock.Release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	for _, addr := range []string{d.config.Listen, d.config.ListenTCP} {
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
	if err := d.begun(ctx); err != nil {
		return err
	}
	defer d.close()
	d.tellLast()
	opened := make(chan struct{})
	d.runs.Go(func() {
		d.looking.Lock()
		defer d.looking.Unlock()
		d.open(ctx)
		close(opened)
	})
	patience := time.After(startPatience)
	for waiting := true; waiting; {
		select {
		case <-opened:
			waiting = false
		case <-patience: // the status says that it is not open yet
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-d.wake: // the loop has not begun; all but this it looks at first thing
			d.mu.Lock()
			d.keepDelivered()
			d.mu.Unlock()
		}
	}
	if err := d.settleDead(ctx); err != nil {
		d.Log.Error("whether runs died is not known", zap.Error(err))
	}
	d.status()
	d.Notify("READY=1")
	d.loop(ctx)
	d.Notify("STOPPING=1")
	d.stop()
	return nil
}

// begun reads what the daemon remembers, and begins to tell.
func (d *Daemon) begun(ctx context.Context) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
	d.repo.since = d.Now()
	if d.teller, err = d.newTeller(d.config); err != nil {
		return err
	}
	var waiting notify.Waiting
	d.watch, waiting, err = openWatch(d.config.StateDir)
	d.read(d.watch.slots, err)
	d.teller.Restore(waiting, d.Now())
	d.teller.start(nil, d.Now())
	d.apply(d.config)
	d.keepTold() // some may have been dropped
	d.Log.Info("daemon started", zap.String("version", d.Version), zap.String("config", d.ConfigFile), zap.String("host", d.config.Host),
		zap.String("repository", redact(d.config.Repository.URL)), zap.Int("environments", len(d.config.Environments)))
	return nil
}

// stop ends the runs under way; what they stored so far is kept, and the next
// one goes on from there.
func (d *Daemon) stop() {
	d.mu.Lock()
	for _, j := range d.jobs {
		if j.running != nil {
			j.running.cancel(errStopped)
		}
	}
	d.mu.Unlock()
	d.runs.Wait()
}

var errStopped = errors.New("the daemon was stopped")

func (d *Daemon) close() {
	d.mu.Lock()
	t := d.teller
	d.mu.Unlock()
	t.stop() // which takes its time
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keepTold()
	for _, j := range d.jobs {
		j.slots.Close()
	}
	d.watch.slots.Close()
	if d.checkedSlots != nil {
		d.checkedSlots.Close()
	}
	d.repo.close()
}

// apply makes the jobs those of a configuration; mu is held.
func (d *Daemon) apply(c *configs.Config) {
	want := map[string]bool{}
	for name, env := range c.Environments {
		want[name] = true
		j := d.job(name)
		j.env, j.gone = env, false
		d.schedule(j, c.Host, env.Schedule, env.TimeZone, time.Duration(env.Jitter), time.Duration(env.CatchUp))
	}
	if k := c.Check; k != nil {
		want[checkJob] = true
		d.openChecked()
		j := d.job(checkJob)
		j.gone = false
		expression := k.Schedule
		if k.Off() {
			expression = ""
		}
		d.schedule(j, c.Host, expression, k.TimeZone, time.Duration(k.Jitter), 24*time.Hour)
	}
	if c.Prune != nil {
		want[pruneJob] = true
		j := d.job(pruneJob)
		j.gone = false
		d.schedule(j, c.Host, c.Prune.Schedule, c.Prune.TimeZone, 0, 24*time.Hour)
	}
	for name, j := range d.jobs {
		if want[name] {
			continue
		}
		j.gone, j.timing = true, nil
		if j.running == nil {
			j.slots.Close()
			delete(d.jobs, name)
		}
	}
	d.config, d.taken = c, d.Now()
	for _, p := range c.Findings {
		d.Log.Warn(p.Error())
	}
	d.written(&d.takenFailed, validation.TakenFile(d.config.StateDir), validation.RememberTaken(d.config.StateDir, d.Version, c))
	d.places.Resize(int(c.MaxRuns))
	d.watchOver(c)
}

func (d *Daemon) schedule(j *job, host, expression, zone string, jitter, catchUp time.Duration) {
	if err := j.reschedule(host, expression, zone, jitter, catchUp, d.Now()); err != nil {
		d.warn(fmt.Sprintf("schedule of %q: %v", j.name, err), false) // which loading refuses
	}
}

// job is the job of a name, with its state; mu is held.
func (d *Daemon) job(name string) *job {
	if j := d.jobs[name]; j != nil {
		return j
	}
	j, state, runs := openJob(d.config.StateDir, name)
	d.read(j.slots, state)
	d.written(&j.history.Failed, j.history.Path(), runs)
	if j.state.Since.IsZero() {
		j.state.Since = d.Now()
		d.keep(j.slots, &j.state)
	}
	d.jobs[name] = j
	return j
}

// look makes the loop look again.
func (d *Daemon) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// warn remembers what a person should see; mu is held.
func (d *Daemon) warn(text string, tampering bool) {
	for i, w := range d.warnings {
		if w.Text == text {
			d.warnings = append(slices.Delete(d.warnings, i, i+1), report.Warning{Time: d.Now(), Text: text, Tampering: tampering})
			return
		}
	}
	d.Log.Warn(text)
	d.warnings = append(d.warnings, report.Warning{Time: d.Now(), Text: text, Tampering: tampering})
	if extra := len(d.warnings) - maxWarnings; extra > 0 {
		d.warnings = slices.Delete(d.warnings, 0, extra)
	}
}

// idle gives memory back to the system after a run; mu is not held.
func idle() { debug.FreeOSMemory() }
