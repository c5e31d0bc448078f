package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/internal/userdir"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

// watch is what was told, kept over restarts; it belongs to Daemon.mu.
type watch struct {
	notify.Watch
	slots *jobfiles.Slots
}

// told is what is kept of it, in one piece with what is not delivered yet: so
// no crash lies between the two.
type told struct {
	notify.State
	Waiting notify.Waiting `json:"waiting,omitempty"`
}

// toldSize is the room for what was told of some thousand environments, and for
// some hundred messages that wait.
const toldSize = 1 << 20

// openWatch reads what was told, and what of it waits. The watch is good with
// every error.
func openWatch(stateDir string) (*watch, notify.Waiting, error) {
	var t told
	s, err := jobfiles.OpenSlots(userdir.At(stateDir).In("daemon"), "told.state", toldSize, &t)
	return &watch{notify.Watch{State: t.State}, s}, t.Waiting, err
}

// keepTold writes what was told and what of it waits. When that is more than
// there is room for, the older half of it waits in memory alone; mu is held.
func (d *Daemon) keepTold() {
	t := told{d.watch.State, d.teller.waiting()}
	for !d.watch.slots.Fits(t) && t.Waiting.Halve() {
	}
	d.keep(d.watch.slots, t)
}

// teller delivers messages by one configuration.
type teller struct {
	*notify.Notifier
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	before *teller // of the configuration before, while it still delivers
}

// newTeller makes a teller of a configuration, which delivers when it is
// started.
func (d *Daemon) newTeller(c *configs.Config) (*teller, error) {
	t := tellingOf(c)
	n, err := notify.New(t.Notify, notify.Options{Log: d.Log, Host: t.Host, Repository: redact(t.URL), Version: d.Version, Pings: t.Pings, Done: d.delivered})
	if err != nil {
		return nil, err
	}
	return &teller{Notifier: n, done: make(chan struct{})}, nil
}

// telling is what a teller is made of.
type telling struct {
	Notify    configs.Notify
	Pings     map[string]string
	Host, URL string
}

func tellingOf(c *configs.Config) telling {
	t := telling{c.Notify, map[string]string{}, c.Host, c.Repository.URL}
	for name, env := range c.Environments {
		if env.Ping != "" {
			t.Pings[name] = env.Ping
		}
	}
	return t
}

// start delivers until stopped. It takes over what the teller of the
// configuration before could not deliver, if there is one.
func (t *teller) start(before *teller, now time.Time) {
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel, t.before = cancel, before
	go func() {
		defer close(t.done)
		if before != nil {
			before.stop() // it may have to wait for a server
			t.mu.Lock()
			t.Restore(before.Waiting(), now)
			t.before = nil
			t.mu.Unlock()
		}
		t.Run(ctx)
	}()
}

// stop delivers what is queued, for some seconds at most.
func (t *teller) stop() {
	t.cancel()
	<-t.done
}

// waiting is what is not delivered yet.
func (t *teller) waiting() notify.Waiting {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.Waiting()
	if t.before != nil {
		before, _ := t.TakeOver(t.before.waiting())
		for channel, list := range before {
			w[channel] = slices.Concat(list, w[channel])
		}
	}
	return w
}

// delivered has it taken down that less waits. To forget that, by a crash, is
// to tell something twice.
func (d *Daemon) delivered() {
	d.lessWaits.Store(true)
	d.look()
}

// keepDelivered takes that down; mu is held.
func (d *Daemon) keepDelivered() {
	if d.lessWaits.Swap(false) {
		d.keepTold()
	}
}

// tell sends what decide finds worth telling, and remembers that it was told.
// decide is called with mu held.
func (d *Daemon) tell(decide func(w *watch) []notify.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.watch.State.Size()
	messages := decide(d.watch)
	for _, m := range messages {
		d.teller.Tell(m)
	}
	if len(messages) > 0 || d.watch.State.Size() != before {
		d.keepTold()
	}
}

// ping tells the monitor of a run.
func (d *Daemon) ping(e notify.Event, env string, run *report.Run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.teller.Ping(e, env, run)
}

// tellRun tells of a run that ended.
func (d *Daemon) tellRun(name string, run *report.Run, failures int) {
	if isEnvironment(name) && run.Result != report.Interrupted {
		event := notify.Succeeded
		if !run.Result.Good() {
			event = notify.Failing
		}
		d.ping(event, name, run)
	}
	d.tell(func(w *watch) []notify.Message { return w.ended(name, run, failures) })
}

// ended is what to tell of a run.
func (w *watch) ended(name string, run *report.Run, failures int) []notify.Message {
	switch name {
	case pruneJob:
		return w.Pruned(*run, failures)
	case checkJob:
		return nil // tellAges tells how the check stands
	}
	return w.Ran(name, *run, failures)
}

// tellLast tells how the last runs ended where that is not told yet: a crash
// came in between, or somebody captured by hand.
func (d *Daemon) tellLast() {
	d.tell(func(w *watch) (m []notify.Message) {
		for name, j := range d.jobs {
			if j.state.Last != nil {
				m = append(m, w.ended(name, j.state.Last, j.state.Failures)...)
			}
		}
		return m
	})
}

// tellAges tells of broken RPOs, and of a repository that cannot be used. One
// that is only just being opened is neither told of nor taken for well.
func (d *Daemon) tellAges(r *report.Report) {
	d.tell(func(w *watch) (m []notify.Message) {
		for i := range r.Environments {
			e := &r.Environments[i]
			if j := d.jobs[e.Name]; j != nil && e.Newest.IsZero() && r.Now.Sub(j.state.Since).Abs() < e.RPO() {
				continue // there was no time yet for the first one
			}
			m = append(m, w.Checked(r.Now, e)...)
		}
		if r.Check != nil {
			m = append(m, w.Verified(r.Now, r.Check)...)
		}
		if d.repo.settling(r.Now) {
			return m
		}
		return append(m, w.Degraded(r.Now, r.Degraded)...)
	})
}

// takeWarnings tells of what the repository got round, and of damage that a
// run met.
func (d *Daemon) takeWarnings(repo *repository.Repository, err error) {
	found := repo.Warnings()
	if err != nil && authentic.Damaged(err) {
		found = append(found, err)
	}
	for _, w := range found {
		var tampered *authentic.TamperError
		warning := report.Warning{Time: d.Now(), Text: w.Error(), Tampering: errors.As(w, &tampered) || authentic.Damaged(w)}
		d.mu.Lock()
		d.warn(warning.Text, warning.Tampering)
		d.mu.Unlock()
		d.tell(func(w *watch) []notify.Message { return w.Found(warning) })
	}
}

// watchOver makes the watch that of a configuration; mu is held.
func (d *Daemon) watchOver(c *configs.Config) {
	d.watch.Host, d.watch.Repeat = c.Host, time.Duration(c.Notify.Repeat)
	d.watch.Keep(slices.Collect(maps.Keys(c.Environments)))
}
