package drifts

import (
	"context"
	"encoding/json"
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
	var all []report.Drifted
	add := func(environment string, c *comparison, err error) {
		x := report.Drifted{Environment: environment}
		if err != nil {
			x.Error, x.ExitCode = printable.Line(err.Error()), exit.Code(ctx, err)
			sess.Damage.Add(err)
			sess.Out.Messagef("%s: %s", environment, printable.Error(err))
		} else {
			defer c.close()
			x = c.drifted()
			x.Environment = environment
		}
		all = append(all, x)
	}
	if d.Host == "" {
		c, err := o.live(ctx, sess, d.Environment, "")
		add(d.Environment, c, err)
	} else if err := o.others(ctx, sess, d, add); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(errors.New("the comparison was stopped"), context.Cause(ctx))
	}
	for _, x := range all {
		if report.Severity(x.ExitCode) > report.Severity(sess.Out.Code) {
			sess.Out.Code = x.ExitCode
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return sess.Out.Result(map[string]any{"type": "result", "drifts": json.RawMessage(b)})
}

// others compares the newest snapshot of each environment of other hosts that an entry
// matches with its newest known-good one.
func (o *options) others(ctx context.Context, sess *session.Session, d *configs.DrillEntry, add func(string, *comparison, error)) error {
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return err
	}
	hosts, err := r.AllHosts(ctx)
	if err != nil {
		return err
	}
	none := true
	for _, h := range hosts {
		envs, err := r.Environments(ctx, h)
		if err != nil {
			return err
		}
		for _, e := range envs {
			if name := h + "/" + e; sess.Config.DriftOf(h, e) == d && ctx.Err() == nil {
				none = false
				c, err := between(ctx, sess, name+"@known-good", name+"@latest")
				add(name, c, err)
			}
		}
	}
	if none {
		return fmt.Errorf("no enrolled host has snapshots of %s (knowngood list --all shows what there is)", d.Name())
	}
	return nil
}

// drifted is a comparison as the daemon keeps it.
func (c *comparison) drifted() report.Drifted {
	rows, more := c.set.Rows()
	x := report.Drifted{From: c.From, To: c.To, Paths: len(rows) + more, Problems: int(c.problems.Count()), ExitCode: c.code()}
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
