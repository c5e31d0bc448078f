package daemon

import (
	"context"
	"errors"

	"knowngood/daemon/report"
	"knowngood/daemon/web"
)

// Report is the state now.
func (d *Daemon) Report() report.Report { return d.report(true) }

// Problems are those of the last run of an environment; ok is false when there
// is no such environment.
func (d *Daemon) Problems(env string) (p report.Problems, ok bool) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	j := d.jobs.byName[env]
	if j == nil || j.gone || !isEnvironment(env) {
		return p, false
	}
	p = report.Problems{Environment: env, Snapshot: j.problems.snapshot, Problems: []report.Problem{}}
	for _, x := range j.problems.list {
		p.Problems = append(p.Problems, report.MakeProblem(x.Path, x.Reason))
	}
	return p, true
}

// Start begins a run by hand; see web.Control.
func (d *Daemon) Start(_ context.Context, env string) error {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	j := d.jobs.byName[env]
	switch {
	case j == nil || j.gone || !isEnvironment(env):
		return web.ErrUnknown
	case j.running != nil:
		return web.ErrRunning
	case d.ctx == nil || d.ctx.Err() != nil:
		return errors.New("the daemon is stopping")
	}
	d.executor.begin(d.ctx, j, report.Run{Trigger: "hand"})
	return nil
}

// Ready returns why the daemon cannot do its work; nil when it can.
func (d *Daemon) Ready() error {
	repo, err := d.repo.current()
	if err == nil && repo == nil {
		err = errNotOpen
	}
	return err
}

var errNotOpen = errors.New("the repository is not open yet")
