package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"knowngood/daemon/report"
	"knowngood/daemon/web"
)

// checkEvery is how often the wall clock is looked at: timers know nothing of
// suspended machines and stepped clocks.
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

// tick looks at everything once, and tells when something is due next.
func (d *Daemon) tick(ctx context.Context) (next time.Time) {
	d.reopen(ctx)
	d.mu.Lock()
	now := d.Now()
	next = now.Add(checkEvery)
	d.keepAgain(now)
	d.keepDelivered()
	healthy := true
	for _, j := range d.jobs {
		if j.running != nil {
			healthy = d.moving(j, now) && healthy
			continue
		}
		if j.timing == nil {
			continue
		}
		due := j.due(now)
		if !due.from.IsZero() {
			j.state.LastScheduled = due.from
			d.keep(j.slots, &j.state)
		}
		if due.skipped > 0 {
			d.skip(j, due, now)
		}
		if !due.at.IsZero() {
			trigger := "schedule"
			if due.late {
				trigger = "catch-up"
			}
			d.begin(ctx, j, report.Run{Trigger: trigger, Scheduled: due.at, Missed: due.missed})
		} else if due.next.Before(next) {
			next = due.next
		}
	}
	d.mu.Unlock()
	d.status()
	if healthy {
		d.Notify("WATCHDOG=1")
	}
	return next
}

// reopen tries the repository again, and looks for snapshots made by hand.
func (d *Daemon) reopen(ctx context.Context) {
	d.repo.mu.Lock()
	repo, wait := d.repo.repo, d.Now().Sub(d.repo.tried)
	d.repo.mu.Unlock()
	if repo == nil && wait >= 0 && wait < reopenAfter {
		return
	}
	if !d.looking.TryLock() {
		return // it takes its time; runs do not wait for it here
	}
	d.runs.Go(func() {
		defer d.looking.Unlock()
		if repo == nil {
			d.open(ctx)
		} else {
			d.reached(ctx, repo)
			d.takeByHand(repo)
		}
	})
}

// moving ends a run that does nothing, and tells whether it ends; mu is held.
func (d *Daemon) moving(j *job, now time.Time) bool {
	r := j.running
	phase, done := r.live.Phase(), r.done()
	limit := r.patience(phase)
	if limit == 0 || phase != r.phase || done != r.seen {
		r.phase, r.seen, r.moved = phase, done, now
		return true
	}
	still := now.Sub(r.moved)
	if still < limit {
		return true
	}
	if r.timeout == 0 { // else that has ended it, if anything can
		hint := "a source or the store hangs, and set a timeout"
		if !isEnvironment(j.name) {
			hint = "the store hangs"
		}
		r.cancel(fmt.Errorf("the run did nothing for %v, and was ended: see whether %s", limit, hint))
	}
	return still < limit+unresponsive
}

// patience is how long a run may do nothing in a phase; 0 is for ever, for
// phases that end by themselves.
func (r *running) patience(phase string) time.Duration {
	switch phase {
	case "capture", "retention":
		return max(stuck, r.timeout)
	case "prune", "check":
		return stuckPrune
	}
	return 0
}

// skip records scheduled times that will not be made up for; mu is held.
func (d *Daemon) skip(j *job, due dueNow, now time.Time) {
	run := report.Run{Trigger: "schedule", Scheduled: due.skippedAt, Started: now, Finished: now, Result: report.Skipped, Missed: due.skipped,
		Error: fmt.Sprintf("%d scheduled times up to %s were missed, longer ago than catch_up", due.skipped, due.skippedAt.Format(time.RFC3339))}
	d.Log.Warn("runs were missed and are not made up for", zap.String("environment", j.name), zap.Int("missed", due.skipped), zap.Time("newest", due.skippedAt))
	d.ended(j, run)
}

// Start begins a run by hand; see web.Control.
func (d *Daemon) Start(_ context.Context, env string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.jobs[env]
	switch {
	case j == nil || j.gone || !isEnvironment(env):
		return web.ErrUnknown
	case j.running != nil:
		return web.ErrRunning
	case d.ctx == nil || d.ctx.Err() != nil:
		return errors.New("the daemon is stopping")
	}
	d.begin(d.ctx, j, report.Run{Trigger: "hand"})
	return nil
}

// status tells how things stand: the service manager in a line, and people
// when a promise is broken.
func (d *Daemon) status() {
	r := d.report(false)
	d.tellAges(&r)
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
	d.mu.Lock()
	same := text == d.said
	d.said = text
	d.mu.Unlock()
	if !same {
		d.Notify("STATUS=" + firstLine(text))
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// monotonic is the time by which the service manager tells notifications of a
// reload apart.
func monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", ts.Nano()/1000)
}
