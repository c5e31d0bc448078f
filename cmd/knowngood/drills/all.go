package drills

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/restore/drill"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

// unprovenAfter is how old a proof may be before its environment is called never
// proven.
const unprovenAfter = 30 * 24 * time.Hour

// many is a drill of all that the configuration has, or of one job of the daemon.
type many struct {
	all   bool
	job   string // as configs.DrillEntry.Name has it; empty for all
	sweep bool   // only remove what killed drills left
}

func (m *many) flags(f *pflag.FlagSet) {
	f.BoolVar(&m.all, "all", false, "drill each environment that the configuration has a drill of, on any host")
	f.StringVar(&m.job, "job", "", "`name` of a job of the daemon, which calls it so")
	f.BoolVar(&m.sweep, "sweep", false, "with --job, remove what a drill that was killed left, and no more")
	_ = f.MarkHidden("job")
	_ = f.MarkHidden("sweep")
}

// Arguments are those by which the daemon has this program do a job, or remove what
// a drill that was killed left.
func Arguments(job string, sweep bool) []string {
	argv := []string{"/proc/self/exe", "drill", "--json", "--quiet", "--job", job}
	if sweep {
		argv = append(argv, "--sweep")
	}
	return argv
}

// target is an environment to drill.
type target struct {
	host, env string
	drill     *configs.DrillEntry
}

func (t *target) name() string { return t.host + "/" + t.env }

// row is what a drill of one environment came to, as --json prints it.
type row struct {
	report.Drilled
	Result any `json:"result,omitempty"`
}

// run drills one environment after the other, past those that fail.
func (m *many) run(ctx context.Context, sess *session.Session, scratch string) error {
	if err := drill.Sweep(cmp.Or(scratch, drill.ScratchDir(sess.StateDir))); err != nil {
		return err
	}
	if m.sweep {
		return sess.Out.Result(map[string]string{"type": "result"})
	}
	if sess.IdentityPath == "" {
		return errWriteOnly
	}
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return err
	}
	enrolled, err := environments(ctx, sess, r)
	if err != nil {
		return err
	}
	targets := slices.DeleteFunc(slices.Clone(enrolled), func(t target) bool {
		return t.drill == nil || m.job != "" && t.drill.Name() != m.job
	})
	if len(targets) == 0 && m.job != "" {
		return fmt.Errorf("no enrolled host has snapshots of %s, of which the configuration has a drill (knowngood list --all shows what there is)", m.job)
	}
	if len(targets) == 0 {
		return usage.Errorf("the configuration has no drill of anything that is in the repository: see drill of an environment, and drills")
	}

	rows, worst := make([]row, len(targets)), exit.Done
	for i := range targets {
		rows[i] = m.one(ctx, sess, r, &targets[i], scratch)
		if err := ctx.Err(); err != nil {
			return errors.Join(drill.ErrStopped, context.Cause(ctx))
		}
		if report.Severity(rows[i].ExitCode) > report.Severity(worst) {
			worst = rows[i].ExitCode
		}
	}
	unproven := []string{}
	for i := range enrolled {
		_, reason, err := proof(ctx, sess, r, &enrolled[i], time.Now())
		if err != nil {
			return err
		}
		if reason != "" {
			unproven = append(unproven, enrolled[i].name()+": "+reason)
		}
	}
	sess.Out.Code = worst
	if err := sess.Out.Result(map[string]any{"type": "result", "drills": rows, "never_proven": unproven}); err != nil {
		return err
	}
	for _, u := range unproven {
		sess.Out.Printf("never proven: %s\n", printable.Line(u))
	}
	return nil
}

// one drills one environment. Its errors are in the row.
func (m *many) one(ctx context.Context, sess *session.Session, r *repository.Repository, t *target, scratch string) row {
	w := row{Drilled: report.Drilled{Environment: t.name(), RTOPromised: time.Duration(t.drill.RTO).Seconds()}}
	fail := func(err error) row {
		w.Error, w.ExitCode = printable.Line(err.Error()), exit.Code(ctx, err)
		sess.Damage.Add(err)
		sess.Out.Messagef("%s: %s", t.name(), printable.Error(err))
		return w
	}
	started := time.Now()
	s, err := r.Head(ctx, t.host, t.env)
	if err == nil && s == nil {
		err = errors.New("it has no snapshot")
	}
	if err == nil {
		s, err = chosen(ctx, r, s, t.drill.Snapshot)
	}
	if err != nil {
		return fail(err)
	}
	w.Snapshot = t.host + "/" + s.Ref()
	out, err := drillOf(ctx, sess, r, s, t.drill, scratch, started)
	if err != nil {
		return fail(err)
	}
	res := out.result
	w.Passed, w.Level, w.RTOSeconds, w.NotTested, w.ExitCode, w.Result = res.Passed, res.Level.String(), drill.WholeRTO(res).Seconds(), drill.Untested(res), out.code(), out.json()
	w.Error = printable.Line(out.trouble())
	if !sess.Out.JSON {
		if err := out.print(sess.Out); err != nil {
			sess.Out.Messagef("%s", printable.Error(err))
		}
	}
	return w
}

// trouble is why a drill did not come to all that was asked, in a line; empty where
// it did.
func (o *outcome) trouble() string {
	var all []string
	for _, d := range o.report.Damage {
		all = append(all, d.Error())
	}
	for i, p := range o.result.Probes {
		if p.Status == attest.Failed && p.Required {
			all = append(all, fmt.Sprintf("%s: %s", p.Name, o.report.Answers[i].Detail))
		}
	}
	if !o.result.Passed && len(all) == 0 {
		all = append(all, o.report.Notes...)
	}
	if o.unsigned != nil {
		all = append(all, "no attestation is stored: "+o.unsigned.Error())
	}
	return strings.Join(all, "; ")
}

// environments are all that the hosts of the repository captured, each with its drill,
// nil where the configuration has none.
func environments(ctx context.Context, sess *session.Session, r *repository.Repository) (all []target, err error) {
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
			t := target{host: h, env: e}
			if d, configured := sess.Config.DrillOf(own(sess), h, e); configured {
				t.drill = d
			}
			all = append(all, t)
		}
	}
	return all, nil
}

// proof is the newest one of an environment, at the level that its probes give; nil
// for none; and why the environment is never proven, empty where it is.
func proof(ctx context.Context, sess *session.Session, r *repository.Repository, t *target, now time.Time) (newest *attest.Attestation, reason string, err error) {
	all, err := r.Attest.All(ctx, t.host, t.env)
	if err != nil && !authentic.Damaged(err) {
		return nil, "", err
	}
	want := attest.Restored
	if t.drill != nil && len(t.drill.Probes) > 0 {
		want = attest.Probed
	}
	i := slices.IndexFunc(all, func(a *attest.Attestation) bool {
		return a.Err == nil && a.Passed && a.Level >= want && (!a.SelfAttested || t.host == own(sess))
	})
	if i >= 0 {
		newest = all[i]
	}
	switch {
	case t.drill == nil:
		reason = "the configuration has no drill of it"
	case newest == nil:
		reason = "no drill of it has passed at level " + want.String()
	case now.Sub(newest.Stored) > unprovenAfter:
		reason = "its newest proof is of " + newest.Stored.Format("2006-01-02")
	}
	return newest, reason, nil
}

// listAll lists how each enrolled environment is proven.
func listAll(ctx context.Context, sess *session.Session) error {
	r, err := sess.Open(ctx)
	if err != nil {
		return err
	}
	all, err := environments(ctx, sess, r)
	if err != nil {
		return err
	}
	type line struct {
		Environment string      `json:"environment"` // web-7/web
		Drill       string      `json:"drill,omitempty"`
		NeverProven string      `json:"never_proven,omitempty"` // why
		Newest      *resultJSON `json:"newest,omitempty"`
	}
	var lines []line
	w := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ENVIRONMENT\tDRILL\tNEWEST PROOF\tSTORED\tLEVEL\tRTO\tSTATE")
	for i := range all {
		t := &all[i]
		a, reason, err := proof(ctx, sess, r, t, time.Now())
		if err != nil {
			return err
		}
		l := line{Environment: t.name(), NeverProven: reason}
		if t.drill != nil {
			l.Drill = t.drill.Name()
		}
		snapshot, when, level, rto := "-", "-", "-", "-"
		if a != nil {
			l.Newest = new(past(a))
			snapshot, when, level, rto = l.Newest.Ref, human.Time(a.Stored), a.Level.String(), human.Duration(drill.WholeRTO(a.Result))
		}
		if reason != "" {
			reason = "never proven: " + reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable.Line(l.Environment), printable.Line(cmp.Or(l.Drill, "-")), printable.Line(snapshot), when, level, rto, cmp.Or(reason, "proven"))
		lines = append(lines, l)
	}
	if sess.Out.JSON {
		return sess.Out.Result(map[string]any{"type": "result", "environments": lines})
	}
	return w.Flush()
}
