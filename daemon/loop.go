package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

// checkEvery is how often the wall clock is read: timers do not notice that the
// machine was suspended or the clock stepped.
const checkEvery = time.Minute

// loop starts what is due until ctx ends.
func (d *Daemon) loop(ctx context.Context) {
	every := checkEvery
	if d.Watchdog > 0 {
		every = min(every, d.Watchdog/2)
	}
	for ctx.Err() == nil {
		next := d.tick(ctx)
		t := time.NewTimer(max(time.Second/100, min(every, next.Sub(d.Now()))))
		select {
		case <-t.C:
		case <-d.wake:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// tick does what is to be done now, and returns when something is due next.
func (d *Daemon) tick(ctx context.Context) time.Time {
	d.observe(ctx)
	d.findTrials(ctx)
	next, healthy := d.startDue(ctx)
	d.status()
	if healthy {
		d.Notify("WATCHDOG=1")
	}
	return next
}

// startDue starts the jobs that are due, and ends runs that are stuck. It is not
// healthy when one of these does not end.
func (d *Daemon) startDue(ctx context.Context) (next time.Time, healthy bool) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	now := d.Now()
	next, healthy = now.Add(checkEvery), true
	if d.jobs.retryWrites(now) {
		d.messages.retryWrite()
	}
	d.messages.saveDelivered()

	for _, j := range d.jobs.inOrder() {
		if j.running != nil {
			healthy = j.running.moving(now, isEnvironment(j.name)) && healthy
			continue
		}
		if j.timing == nil {
			continue
		}
		due := j.due(now)
		if isDrill(j.name) && !due.at.IsZero() && d.jobs.drillWaits(j) {
			continue // until a run ends, which wakes the loop
		}
		if !due.from.IsZero() {
			j.state.LastScheduled = due.from
			d.jobs.save(j)
		}
		if due.skipped > 0 {
			d.jobs.skipped(j, due, now)
		}
		if !due.at.IsZero() {
			trigger := "schedule"
			if due.late {
				trigger = "catch-up"
			}
			d.executor.begin(ctx, j, report.Run{Trigger: trigger, Scheduled: due.at, Missed: due.missed})
		} else if due.next.Before(next) {
			next = due.next
		}
	}
	d.jobs.makeRoom()
	return next, healthy
}

// observe opens the repository if it is not open, and looks for what was done by
// hand. It takes its time, and runs do not wait for it.
func (d *Daemon) observe(ctx context.Context) {
	if d.repo.waiting(d.Now()) || !d.observing.TryLock() {
		return
	}
	repo, _ := d.repo.current()
	d.executor.active.Go(func() {
		defer d.observing.Unlock()
		if repo == nil {
			d.open(ctx)
			return
		}
		d.executor.update(ctx, repo)
		d.executor.prove(ctx, repo)
		d.checks.AddByHand(d.Config.StateDir, repo.ID())
	})
}

// findTrials reads what is on trial, beside the loop: a file system may take its time.
func (d *Daemon) findTrials(ctx context.Context) {
	if d.Trial == nil || !d.trying.TryLock() {
		return
	}
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	envs := d.jobs.config.Environments
	d.executor.active.Go(func() {
		defer d.trying.Unlock()
		for name, env := range envs {
			trial, err := d.Trial(ctx, name, env)
			prefix := "generations of " + name + ": "
			if err != nil {
				d.warnings.Add(prefix+err.Error(), false)
				continue
			}
			d.warnings.Remove(prefix)
			d.jobs.mu.Lock()
			if j := d.jobs.byName[name]; j != nil {
				j.trial, j.tried = trial, true
			}
			d.jobs.mu.Unlock()
		}
	})
}

// open opens the repository, and reports how that went.
func (d *Daemon) open(ctx context.Context) {
	_, _, err := d.executor.repository(ctx)
	if err != nil && ctx.Err() == nil {
		d.Log.Error("the repository cannot be used; it is tried again each minute", zap.Error(err))
	}
	d.status()
}

// status publishes the state: to the service manager in a line, and to people when
// a promise is broken.
func (d *Daemon) status() {
	opening := d.repo.settling(d.Now()) // before: meanwhile it may be open
	r := d.report(false)
	d.notifyAges(&r, opening || d.repo.settling(r.Now))
	_, text := r.Verdict()
	running := 0
	for _, e := range r.Environments {
		if e.Running != nil {
			running++
		}
	}
	if running > 0 {
		text += fmt.Sprintf("; %d running", running)
	}
	if before := d.published.Swap(&text); before == nil || *before != text {
		d.Notify("STATUS=" + firstLine(text))
	}
}

// notifyAges sends, and logs, messages of broken RPOs, trials, instances, the check, and a
// repository that cannot be used. While that is opened for the first time, it is neither.
func (d *Daemon) notifyAges(r *report.Report, opening bool) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	messages := d.messages.notify(func(w *notify.Watch) (messages []notify.Message) {
		for i := range r.Environments {
			e := &r.Environments[i]
			messages = append(messages, w.Counted(r.Now, e)...)
			j := d.jobs.byName[e.Name]
			if j != nil && j.tried {
				messages = append(messages, w.Tried(r.Now, e)...)
			}
			if j != nil && e.Newest.IsZero() && r.Now.Sub(j.state.Since).Abs() < e.RPO() {
				continue // there was no time yet for the first one
			}
			messages = append(messages, w.Checked(r.Now, e)...)
		}
		for i := range r.Environments {
			e := &r.Environments[i]
			if j := d.jobs.byName[e.Name]; j != nil {
				messages = append(messages, w.Proven(r.Now, e, j.state.Since)...)
			}
		}
		if r.Check != nil {
			messages = append(messages, w.Verified(r.Now, r.Check)...)
		}
		if opening {
			return messages
		}
		return append(messages, w.Degraded(r.Now, r.Degraded)...)
	})
	for _, m := range messages {
		log := d.Log.Warn
		if m.Kind == notify.Recovery || m.Kind == notify.RPOMet {
			log = d.Log.Info
		}
		log(m.Text)
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
