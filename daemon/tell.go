package daemon

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/storage/repository"
)

// watch is what was told, kept over restarts; it belongs to Daemon.mu.
type watch struct {
	notify.Watch
	slots *slots
}

func openWatch(stateDir string) (*watch, error) {
	w := &watch{}
	dir := filepath.Join(stateDir, "daemon")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return w, err
	}
	var err error
	w.slots, err = openSlots(filepath.Join(dir, "told.state"), toldSize, &w.State)
	return w, err
}

func (w *watch) close() {
	if w.slots != nil {
		w.slots.close()
	}
}

// toldSize is the room for what was told of some thousand environments.
const toldSize = 1 << 20

// teller delivers messages by one configuration.
type teller struct {
	*notify.Notifier
	cancel context.CancelFunc
	done   chan struct{}
}

// startTeller makes a teller of a configuration. It delivers until stopped.
func (d *Daemon) startTeller(c *configs.Config) (*teller, error) {
	n, err := notify.New(c.Notify, notify.Options{Log: d.Log, Host: c.Host, Repository: redact(c.Repository.URL), Version: d.Version})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &teller{Notifier: n, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		n.Run(ctx)
	}()
	return t, nil
}

// stop delivers what is queued, for some seconds at most.
func (t *teller) stop() {
	t.cancel()
	<-t.done
}

// tell sends what decide finds worth telling, and remembers that it was told.
// decide is called with mu held.
func (d *Daemon) tell(decide func(w *watch) []notify.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	messages := decide(d.watch)
	if len(messages) == 0 {
		return
	}
	for _, m := range messages {
		d.teller.Tell(m)
	}
	if d.watch.slots != nil {
		if err := d.watch.slots.write(&d.watch.State); err != nil {
			d.warn("what was told may be told again after a restart: "+err.Error(), false)
		}
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
	if name != "" {
		event := notify.Succeeded
		if !run.Result.Good() {
			event = notify.Failing
		}
		d.ping(event, name, run)
	}
	d.tell(func(w *watch) []notify.Message {
		if name == "" {
			return w.Pruned(*run, failures)
		}
		return w.Ran(name, *run, failures)
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
	if err != nil && repository.Damaged(err) {
		found = append(found, err)
	}
	for _, w := range found {
		var tampered *repository.TamperError
		warning := report.Warning{Time: d.Now(), Text: w.Error(), Tampering: errors.As(w, &tampered) || repository.Damaged(w)}
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
