package generations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/restore/generation"
)

// print prints how a switch ended.
func (w *switching) print(was, now *generation.Generation, out *generation.Outcome, err error) error {
	if out == nil {
		return err
	}
	result := map[string]any{"type": "result", "environment": w.name, "root": w.env.Root, "from": was.Name, "to": now.Name, "live": out.Live, "committed": out.Committed, "waiting": !out.Until.IsZero(), "way": now.Way, "proof": now.Proof, "probes": w.asked(), "seconds": out.Took.Seconds()}
	if err != nil {
		result["reason"] = out.Why
	}
	if jerr := w.sess.Out.Result(result); jerr != nil {
		return jerr
	}
	asked := "no probe was asked: drill.probes of the environment has none of kind http, tcp, command or file"
	if names := w.asked(); len(names) > 0 {
		asked = fmt.Sprintf("probes passed: %s", strings.Join(names, ", "))
	}
	of := ""
	if was.Snapshot != "" {
		of = " (" + was.Snapshot + ")"
	}
	switch {
	case errors.Is(err, generation.ErrBack):
		return &backError{fmt.Sprintf("%s: generation %s%s is live again, and %s is bad: %s", w.env.Root, out.Live, of, now.Name, out.Why)}
	case err != nil:
		return fmt.Errorf("%s: generation %s is live, and %s is bad: %w", w.env.Root, out.Live, now.Name, err)
	case !out.Until.IsZero():
		w.sess.Out.Printf("%s is live at %s, on trial until %s (%s).\nTo keep it:  knowngood commit %s\nElse it goes back to generation %s%s then.\n", now.Snapshot, w.env.Root, out.Until.Local().Format(time.DateTime), asked, w.name, was.Name, of)
	default:
		w.sess.Out.Printf("%s is live at %s, after %s (%s).\nTo go back:  knowngood rollback %s\n", now.Snapshot, w.env.Root, human.Duration(out.Took), asked, w.name)
	}
	for _, h := range w.set.Holders(was.Name) {
		w.sess.Out.Printf("%s still uses generation %s.\n", printable.Line(h), was.Name)
	}
	return nil
}

// Commit commits the generation on trial.
func Commit(ctx context.Context, sess *session.Session, name string) error {
	if hasInstances(sess, name) {
		return usage.Errorf("environment %s has instances: a switch of them ends once their probes passed, and nothing is on trial", name)
	}
	o, err := Options(sess, name)
	if err != nil {
		return err
	}
	set, err := generation.Open(ctx, o)
	if err != nil {
		return err
	}
	defer set.Close()
	committed, err := set.Commit()
	if err != nil {
		return err
	}
	sess.Out.Printf("generation %s of %s is committed\n", committed, name)
	return sess.Out.Result(map[string]any{"type": "result", "environment": name, "live": committed, "committed": true})
}

// Rollback makes the generation before the live one live.
func Rollback(ctx context.Context, sess *session.Session, name string, anyway bool) error {
	if hasInstances(sess, name) {
		return rollBack(ctx, sess, name)
	}
	o, err := Options(sess, name)
	if err != nil {
		return err
	}
	set, err := generation.Open(ctx, o)
	if err != nil {
		return err
	}
	defer set.Close()
	was, err := set.Live()
	if err != nil {
		return err
	}
	out, err := set.Rollback(ctx, anyway)
	if err != nil {
		return err
	}
	sess.Out.Printf("generation %s of %s is live again; %s is bad\n", out.Live, name, was.Name)
	return sess.Out.Result(map[string]any{"type": "result", "environment": name, "live": out.Live, "bad": was.Name})
}

// ListOptions are the flags of generations.
type ListOptions struct {
	Adopt, Release, DryRun, Recover, Boot bool
}

// List shows the generations of an environment, or does what the flags ask for.
func List(ctx context.Context, sess *session.Session, f *ListOptions, name string) error {
	if f.Recover {
		return recoverAll(ctx, sess, f, name)
	}
	if name == "" {
		return sess.WhichEnvironment()
	}
	if hasInstances(sess, name) && *f == (ListOptions{}) {
		return listInstances(sess, sess.Config.Environments[name].Scale.Dir)
	}
	o, err := Options(sess, name)
	if err != nil {
		return err
	}
	switch {
	case (f.Adopt || f.Release) && o.InPlace != nil:
		_, err := withRoot(sess, name)
		return err
	case f.Adopt && f.Release, f.DryRun && !f.Adopt, f.Boot:
		return usage.Errorf("give one of --adopt (with --dry-run) and --release; --boot goes with --recover")
	case f.Adopt && hasInstances(sess, name):
		return usage.Errorf("environment %s has instances: a switch is about them, and %s stays as it is", name, o.Config.Root)
	case f.Adopt:
		return adopt(ctx, sess, o, f.DryRun)
	case f.Release:
		if err := generation.Release(ctx, o); err != nil {
			return err
		}
		sess.Out.Printf("%s is a plain directory again; its other generations are removed\n", o.Config.Root)
		return sess.Out.Result(map[string]any{"type": "result", "environment": name, "root": o.Config.Root, "released": true})
	}
	v, err := generation.Look(ctx, o)
	if v == nil {
		return err
	}
	printView(sess, name, v)
	v.Data = present.List(v.Data)
	return errors.Join(err, sess.Out.Result(struct {
		Type        string `json:"type"`
		Environment string `json:"environment"`
		*generation.View
	}{"result", name, v}))
}

func adopt(ctx context.Context, sess *session.Session, o *generation.Options, dry bool) error {
	p, err := generation.Adopt(ctx, o, dry)
	if err != nil {
		return err
	}
	did, moved := "is", "moved"
	if dry {
		did, moved = "would become", "to be moved"
	}
	sess.Out.Printf("%s %s generation %s in %s\n", o.Config.Root, did, p.Name, p.Dir)
	for _, d := range p.Data {
		sess.Out.Printf("  data %s: %s beside the generations, and linked\n", printable.Name(d), moved)
	}
	return sess.Out.Result(map[string]any{"type": "result", "environment": o.Environment, "root": p.Root, "directory": p.Dir, "generation": p.Name, "data": p.Data, "dry_run": dry})
}

// recoverAll finishes what is under way, of one environment or of all that have generations.
func recoverAll(ctx context.Context, sess *session.Session, f *ListOptions, name string) error {
	names := sess.Config.EnvironmentNames()
	if name != "" {
		names = []string{name}
	}
	var whole []string
	var errs []error
	for _, n := range names {
		o, err := Options(sess, n)
		if err != nil {
			return err
		}
		o.Boot = f.Boot
		s, err := generation.Open(ctx, o)
		switch {
		case err == nil:
			s.Close()
			whole = append(whole, n)
		case errors.Is(err, generation.ErrNotAdopted), errors.Is(err, generation.ErrBusy):
		default:
			errs = append(errs, fmt.Errorf("environment %s: %w", n, err))
		}
	}
	return errors.Join(append(errs, sess.Out.Result(map[string]any{"type": "result", "environments": whole}))...)
}

func printView(sess *session.Session, name string, v *generation.View) {
	if sess.Out.JSON {
		return
	}
	w := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	if len(v.Generations) > 0 {
		fmt.Fprintln(w, "  GENERATION\tSNAPSHOT\tBUILT\tWAY\tPROOF\tSTATE")
	}
	for _, g := range v.Generations {
		mark, what := " ", string(g.Status)
		if g.Name == v.Live {
			mark = "*"
		}
		if g.Name == v.Trial {
			what += " until " + v.Deadline.Local().Format(time.DateTime)
		}
		if g.Left != "" {
			what += ", changed while it was live"
		}
		if g.Why != "" {
			what += ": " + g.Why
		}
		way := g.Way
		if g.Sealed != "" {
			way += ", sealed: " + g.Sealed
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\t%s\n", mark, g.Name, cmp.Or(g.Snapshot, "-"), g.Built.Local().Format(time.DateTime), way, g.Proof, printable.Line(what))
	}
	w.Flush()
	for _, g := range v.Generations {
		for _, h := range v.Held[g.Name] {
			sess.Out.Printf("%s still uses %s\n", printable.Line(h), g.Name)
		}
	}
	if len(v.Data) > 0 {
		sess.Out.Printf("carried data, which no proof covers: %s\n", printable.Line(strings.Join(v.Data, ", ")))
	}
	if v.Confirm {
		sess.Out.Printf("%s goes back when its trial ends. To keep it:  knowngood commit %s\n", v.Trial, name)
	}
	if v.Busy {
		sess.Out.Printf("another process is changing them now\n")
	}
	if v.Problem != "" {
		sess.Out.Printf("the last rollback had a problem, which is not tried again: %s\n", printable.Line(v.Problem))
	}
}
