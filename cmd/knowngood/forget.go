package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/snapshot/prune"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// forgetFlags are those of forget.
type forgetFlags struct {
	env          string
	policy       bool
	undo, dryRun bool
	reason       string
	keep         usage.Keep
}

func forgetCommand(a *app) *cobra.Command {
	f := &forgetFlags{}
	cmd := &cobra.Command{
		Use:   "forget {REF... | --policy | --keep-RULE N...}",
		Short: "Forget snapshots: by name, or by what a policy keeps",
		Long: `Forget snapshots, by name or by a retention policy. A forgotten snapshot is no
longer listed, and neither a time nor @latest finds it, but nothing is deleted:
--undo takes it back, until knowngood prune has deleted what it alone needs, which
takes days.

By name: knowngood forget web@3 web@4.
By policy: --policy applies the keep rules of the configuration to each of its
environments, or to the one of --env. --keep-last and the like state a policy
here, for the environment of --env. A snapshot that any rule keeps is kept, and
with no rule all are. The newest is never forgotten, and while it is suspect (see
knowngood accept) no policy forgets anything of its environment.

--dry-run shows what would be kept, why, and what forgotten. What is written is
a tombstone, signed by this host; for another host it takes an identity.`,
		Example: `  knowngood forget --policy --dry-run
  knowngood forget --env web --keep-hourly 48 --keep-daily 30
  knowngood forget web@17 --reason "held a secret"
  knowngood forget --undo web@17`,
		Args:              usage.Takes(0, -1),
		ValidArgsFunction: a.completeRefs(-1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			if err := f.check(refs, f.keep.Given(cmd.Flags())); err != nil {
				return err
			}
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			if len(refs) > 0 {
				return a.forgetNamed(cmd.Context(), r, f, refs)
			}
			return a.forgetByPolicy(cmd.Context(), r, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.env, "env", "", "the `environment` that a policy is applied to")
	flags.BoolVar(&f.policy, "policy", false, "apply the keep rules of the configuration")
	flags.BoolVar(&f.undo, "undo", false, "take back that the snapshots named were forgotten")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "show what would be done")
	flags.StringVar(&f.reason, "reason", "", "`text` that is kept with what is forgotten, and shown by list --all and show")
	f.keep.Add(flags)
	cmd.RegisterFlagCompletionFunc("env", a.completeEnvironments(-1))
	return cmd
}

func (f *forgetFlags) check(refs []string, byRules bool) error {
	ways := 0
	for _, way := range []bool{len(refs) > 0, f.policy, byRules} {
		if way {
			ways++
		}
	}
	switch {
	case ways != 1:
		return usage.Errorf("name snapshots, or give --policy, or --keep rules: one of them")
	case f.undo && len(refs) == 0:
		return usage.Errorf("--undo takes the names of snapshots")
	case byRules && f.env == "":
		return usage.Errorf("--keep rules need --env NAME")
	case f.env != "" && len(refs) > 0:
		return usage.Errorf("--env goes with a policy, not with names of snapshots")
	}
	return f.keep.Read()
}

// forgotten is a snapshot or environment, as --json prints it.
type forgottenJSON struct {
	Ref     string     `json:"ref"`
	Host    string     `json:"host"`
	Time    *time.Time `json:"time,omitempty"`
	Kept    bool       `json:"kept"`
	Reasons []string   `json:"reasons"`
}

func (a *app) forgetNamed(ctx context.Context, r *repository.Repository, f *forgetFlags, refs []string) error {
	type place struct{ host, env string }
	numbers := map[place][]uint64{}
	var order []place
	out := []forgottenJSON{}
	for _, text := range refs {
		s, sub, err := a.resolve(ctx, r, text)
		if !f.undo && authentic.Damaged(err) {
			s, sub, err = a.lost(ctx, r, text, err)
		}
		if err != nil {
			return err
		}
		if sub != "" {
			return usage.Errorf("%s: a snapshot is forgotten as a whole, without a path", text)
		}
		p := place{s.Host, s.Environment}
		if numbers[p] == nil {
			order = append(order, p)
		}
		numbers[p] = append(numbers[p], s.Number)
		j := forgottenJSON{Ref: fmt.Sprintf("%s@%d", s.Environment, s.Number), Host: s.Host, Kept: f.undo, Reasons: []string{}}
		if s.Root != nil {
			j.Time = a.toJSON(s).Time
		}
		out = append(out, j)
	}
	verb := "forgotten"
	if f.undo {
		verb = "kept again"
	}

	var lines []string
	for _, p := range order {
		set := statement.NumbersOf(numbers[p]...)
		change := history.Change{Forget: set, Reason: f.reason, Now: time.Now()}
		before := set // of what is forgotten
		if f.undo {
			change.Forget, change.Undo = nil, set
			x, err := r.Tombstone(ctx, p.host, p.env)
			if err != nil {
				return err
			}
			if before = nil; x != nil {
				before = x.Forgotten
			}
		}
		if !f.dryRun {
			if _, err := r.Forget(ctx, p.host, p.env, change); err != nil {
				return err
			}
		}
		for _, n := range numbers[p] {
			done := verb
			switch {
			case !before.Has(n):
				done = "is not forgotten: there is nothing to take back"
			case f.dryRun:
				done = "would be " + verb
			}
			lines = append(lines, fmt.Sprintf("%s@%d of host %s: %s", p.env, n, p.host, done))
		}
	}

	for _, l := range lines {
		a.out.Printf("%s\n", l)
	}
	if !f.undo && !f.dryRun {
		a.out.Printf("%s\n", takenBack(len(out)))
	}
	return a.out.Result(map[string]any{"type": "result", "dry_run": f.dryRun, "status": plannedOr(f.dryRun, verb), "snapshots": out})
}

// takenBack is how so many snapshots are taken back that were forgotten.
func takenBack(n int) string {
	return "knowngood forget --undo takes that back, until knowngood prune has deleted what " + english.PluralWord(n, "it alone needs", "they alone need")
}

// plannedOr is the status that --json prints: nothing was done in a dry run.
func plannedOr(dryRun bool, done string) string {
	if dryRun {
		return "planned"
	}
	return done
}

// lost is a snapshot that is named by its number and does not verify: what is
// lost, or never was one, can be forgotten all the same.
func (a *app) lost(ctx context.Context, r *repository.Repository, text string, damage error) (*history.Snapshot, string, error) {
	ref, sub, err := a.ref(text)
	if err != nil || ref.Selector != history.ByNumber {
		return nil, "", damage
	}
	host, err := r.HostOf(ctx, ref, a.host)
	if err != nil {
		return nil, "", errors.Join(damage, err)
	}
	a.out.Messagef("warning: %s: %v", text, damage)
	return &history.Snapshot{Host: host, Environment: ref.Environment, Number: ref.Number}, sub, nil
}

func (a *app) forgetByPolicy(ctx context.Context, r *repository.Repository, f *forgetFlags) error {
	envs := a.config.EnvironmentNames()
	if f.env != "" {
		if envs = []string{f.env}; f.policy && a.config.Environments[f.env] == nil {
			return usage.Errorf("there is no environment %q in the configuration, %s", f.env, a.configured())
		}
	}
	if len(envs) == 0 {
		return usage.Errorf("the configuration has no environments: name one with --env, and give --keep rules")
	}
	have, err := r.Environments(ctx, a.host)
	if err != nil {
		return err
	}
	out := []forgottenJSON{}
	for _, env := range envs {
		if !slices.Contains(have, env) {
			if f.env != "" {
				return fmt.Errorf("%w: host %s has no snapshot of %s; it has %s", history.ErrNoSnapshot, a.host, env, cmp.Or(strings.Join(have, ", "), "none at all"))
			}
			continue
		}
		policy, zone := f.keep.Policy, time.Local
		if e := a.config.Environments[env]; e != nil {
			if zone, err = time.LoadLocation(e.TimeZone); err != nil {
				return usage.Errorf("environment %s: %w", env, err)
			}
			if f.policy {
				policy = e.Keep.Policy()
			}
		}
		judged, damaged, err := prune.Judge(ctx, r, a.host, env, policy, time.Now(), zone)
		if err != nil {
			return err
		}
		console.PrintErrors(a.out, "knowngood: warning: ", damaged)
		if len(judged) > 0 && judged[0].Suspect {
			a.out.Notef("%s is suspect: nothing of %s is forgotten until the source is back, or knowngood accept %s", judged[0].Ref(), env, judged[0].Ref())
		}
		unkept := prune.Unkept(judged)
		if !f.dryRun && unkept.Count() > 0 {
			if _, err := r.Forget(ctx, a.host, env, history.Change{Forget: unkept, Reason: f.reason, Now: time.Now()}); err != nil {
				return err
			}
		}
		slices.Reverse(judged)
		for _, j := range judged {
			out = append(out, forgottenJSON{Ref: j.Ref(), Host: j.Host, Time: a.toJSON(j.Snapshot).Time, Kept: len(j.Reasons) > 0, Reasons: listed(j.Reasons)})
		}
	}
	return a.tellForgotten(out, f.dryRun)
}

func (a *app) tellForgotten(out []forgottenJSON, dryRun bool) error {
	if a.out.JSON {
		return a.out.Result(map[string]any{"type": "result", "dry_run": dryRun, "status": plannedOr(dryRun, "forgotten"), "snapshots": out})
	}
	w := tabwriter.NewWriter(a.out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SNAPSHOT\tTIME\tKEPT\tWHY")
	gone := 0
	for _, o := range out {
		at, kept := "-", "yes"
		if o.Time != nil {
			at = o.Time.Local().Format("2006-01-02 15:04:05")
		}
		if !o.Kept {
			kept = "no"
			gone++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Ref, at, kept, strings.Join(o.Reasons, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	all := human.Counted(len(out), "snapshot")
	switch {
	case len(out) == 0:
		a.out.Printf("nothing is forgotten: there is no snapshot yet\n")
	case gone == 0:
		a.out.Printf("nothing is forgotten: %s kept\n", english.PluralWord(len(out), all+" is", "all "+all+" are"))
	case dryRun:
		a.out.Printf("%d of %s would be forgotten\n", gone, all)
	default:
		a.out.Printf("%d of %s forgotten; %s\n", gone, all, takenBack(gone))
	}
	return nil
}
