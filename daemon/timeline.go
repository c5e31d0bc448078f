package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/snapshot/diff"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
)

const (
	// timelineSteps is how many snapshots a timeline has.
	timelineSteps = 20
	// timelineAgain is how soon one that could not be read is tried again.
	timelineAgain = time.Minute
)

// timeline is that of an environment, which is read when somebody looks at it, once
// for each new snapshot. It belongs to jobs.mu.
type timeline struct {
	steps   []report.TimelineStep
	err     error
	upTo    string // the newest snapshot when it was read
	tried   time.Time
	reading bool
}

// Timeline is how much changed from snapshot to snapshot, as far as it is read. It does
// not wait for the store.
func (d *Daemon) Timeline(env string) report.Timeline {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	j, config := d.jobs.byName[env], d.jobs.config
	switch {
	case j == nil || j.gone || !isEnvironment(env):
		return report.Timeline{}
	case config.Identity == "" || d.Unlocked == nil:
		return report.Timeline{Missing: "the daemon has no identity, which reading lists of files takes. On a machine that has one: knowngood timeline " + config.Host + "/" + env}
	}
	now, newest := d.Now(), ""
	for _, run := range j.history.Runs {
		if run.Snapshot != "" {
			newest = run.Snapshot
		}
	}

	t := d.timelines[env]
	if t == nil {
		t = &timeline{}
		d.timelines[env] = t
	}
	due := t.tried.IsZero() || t.upTo != newest || t.err != nil && now.Sub(t.tried) > timelineAgain
	if due && !t.reading && d.ctx != nil && d.ctx.Err() == nil {
		t.reading, t.upTo, t.tried = true, newest, now
		ctx := d.ctx
		d.executor.active.Go(func() {
			steps, err := d.readTimeline(ctx, config, env)
			d.jobs.mu.Lock()
			defer d.jobs.mu.Unlock()
			t.reading, t.err = false, err
			if err == nil {
				t.steps = steps
			}
		})
	}
	switch {
	case t.reading:
		return report.Timeline{Steps: t.steps, Missing: "the newest snapshots are being compared"}
	case t.err != nil:
		return report.Timeline{Steps: t.steps, Missing: "the newest snapshots could not be compared: " + t.err.Error()}
	}
	return report.Timeline{Steps: t.steps}
}

// readTimeline reads that of an environment.
func (d *Daemon) readTimeline(ctx context.Context, config *configs.Config, env string) (steps []report.TimelineStep, err error) {
	if d.Working != nil {
		defer d.Working()()
	}
	repo, err := d.Unlocked(ctx, config, &d.findings)
	if err != nil {
		return nil, fmt.Errorf("open the repository with the identity: %w", err)
	}
	var kept []*history.Snapshot // one more is what the first is compared with
	for s, err := range repo.Kept(ctx, config.Host, env) {
		if authentic.Damaged(err) {
			continue // what checks are for
		}
		if err != nil {
			return nil, err
		}
		if kept = append(kept, s); len(kept) > timelineSteps {
			break
		}
	}
	slices.Reverse(kept)
	rows, err := diff.Timeline(ctx, repo, kept, timelineSteps)
	for _, r := range rows {
		c := r.Churn
		step := report.TimelineStep{Snapshot: r.Snapshot.Ref(), Added: c.Added, Removed: c.Removed, Modified: c.Modified, Metadata: c.Metadata, Bytes: c.Bytes, Privileged: c.Privileged, Executable: c.Executable}
		if b := r.Snapshot.Body; b != nil {
			step.Time, step.NewBytes = b.Started, b.NewContentBytes
		}
		if r.Err != nil {
			step.Error = r.Err.Error()
		} else if r.Before != nil {
			step.Before = r.Before.Ref()
		}
		steps = append(steps, step)
	}
	return steps, err
}
