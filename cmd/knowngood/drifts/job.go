package drifts

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
)

// Jobs returns how a daemon has its comparisons made: by a process of its own.
func Jobs(sess *session.Session, log *zap.Logger) func(ctx context.Context, job string) ([]byte, error) {
	return func(ctx context.Context, job string) ([]byte, error) {
		return drills.Child(ctx, sess, log, []string{"drift", "--json", "--quiet", "--job", job})
	}
}

// runJob compares what a job of the daemon is about, past what fails. Its result has each.
func (o *options) runJob(ctx context.Context, sess *session.Session) error {
	var d *configs.DrillEntry
	for _, e := range sess.Config.AllDrifts() {
		if e.Name() == o.job {
			d = e
		}
	}
	if d == nil {
		return usage.Errorf("the configuration has no drift of %s", o.job)
	}
	o.content = d.Drift.Content
	names := []string{d.Environment}
	if d.Host != "" {
		var err error
		if names, err = others(ctx, sess, d); err != nil {
			return err
		}
	}
	var all []report.Drifted
	for _, name := range names {
		x := o.drifted(ctx, sess, d, name)
		if ctx.Err() != nil {
			return errors.Join(errors.New("the comparison was stopped"), context.Cause(ctx))
		}
		if all = append(all, x); report.Severity(x.ExitCode) > report.Severity(sess.Out.Code) {
			sess.Out.Code = x.ExitCode
		}
	}
	return sess.Out.Result(map[string]any{"type": "result", "drifts": all})
}

// others are the environments of other hosts that an entry matches.
func others(ctx context.Context, sess *session.Session, d *configs.DrillEntry) (names []string, err error) {
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := r.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		envs, err := r.Environments(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, e := range envs {
			if sess.Config.DriftOf(h, e) == d {
				names = append(names, h+"/"+e)
			}
		}
	}
	if len(names) == 0 {
		err = fmt.Errorf("no enrolled host has snapshots of %s (knowngood list --all shows what there is)", d.Name())
	}
	return names, err
}

// drifted compares an environment as an entry has it, and returns what the daemon keeps: its
// live tree, or the newest snapshot of another host's with its newest known-good one.
func (o *options) drifted(ctx context.Context, sess *session.Session, d *configs.DrillEntry, name string) report.Drifted {
	c := newComparison(sess)
	defer c.close()
	var err error
	if d.Host == "" {
		err = c.live(ctx, o, name, "")
	} else {
		err = c.between(ctx, name+"@known-good", name+"@latest")
	}
	if err != nil {
		sess.Damage.Add(err)
		sess.Out.Messagef("%s: %s", name, printable.Error(err))
		return report.Drifted{Environment: name, Error: printable.Line(err.Error()), ExitCode: exit.Code(ctx, err)}
	}
	rows, more := c.set.Rows()
	x := report.Drifted{Environment: name, From: c.From, To: c.To, Paths: len(rows) + more, Problems: int(c.problems.Count()), ExitCode: c.code()}
	for pass := range 2 { // what is always reported comes first
		for _, r := range rows {
			if why := r.Why; len(x.First) < report.MaxDrifted && (why != "") == (pass == 0) {
				text := string(r.Change) + " " + printable.Name("/"+r.Path)
				if why != "" {
					text += " (" + why + ")"
				}
				x.First = append(x.First, text)
			}
		}
	}
	return x
}
