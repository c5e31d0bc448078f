package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
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

func forgetCommand(sess *session.Session) *cobra.Command {
	f := &forgetFlags{}
	cmd := &cobra.Command{
		Use:   "forget {REF... | --policy | --keep-RULE N...}",
		Short: "Forget snapshots: by name, or by what a policy keeps",
		Long: `Forget snapshots, by name or by a retention policy. A forgotten snapshot is no
longer listed, and neither a time nor @latest finds it, but nothing is deleted:
--undo takes it back, until knowngood prune has deleted what only it needs, which
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
		ValidArgsFunction: completion.References(sess, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			if err := f.check(refs, f.keep.Given(cmd.Flags())); err != nil {
				return err
			}
			r, err := sess.Open(cmd.Context())
			if err != nil {
				return err
			}
			if len(refs) > 0 {
				return forgetNamed(cmd.Context(), sess, r, f, refs)
			}
			return forgetByPolicy(cmd.Context(), sess, r, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.env, "env", "", "the `environment` that a policy is applied to")
	flags.BoolVar(&f.policy, "policy", false, "apply the keep rules of the configuration")
	flags.BoolVar(&f.undo, "undo", false, "take back that the snapshots named were forgotten")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "show what would be done")
	flags.StringVar(&f.reason, "reason", "", "`text` that is kept with what is forgotten, and shown by list --all and show")
	f.keep.Add(flags)
	cmd.RegisterFlagCompletionFunc("env", completion.Environments(sess, -1))
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

func forgetNamed(ctx context.Context, sess *session.Session, r *repository.Repository, f *forgetFlags, refs []string) error {
	type place struct{ host, env string }
	numbers := map[place][]uint64{}
	var order []place
	out := []present.ForgottenJSON{}
	deleted := map[place]statement.Numbers{}
	for _, text := range refs {
		s, sub, err := sess.Resolve(ctx, r, text)
		if s != nil && errors.Is(err, history.ErrPruned) && !f.undo {
			p := place{s.Host, s.Environment}
			deleted[p], err = deleted[p].With(statement.NumbersOf(s.Number)), nil
		} else if authentic.Damaged(err) && !f.undo {
			s, sub, err = lost(ctx, sess, r, text, err)
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
		j := present.ForgottenJSON{Ref: fmt.Sprintf("%s@%d", s.Environment, s.Number), Host: s.Host, Kept: f.undo, Reasons: []string{}}
		if s.Root != nil {
			j.Time = present.Snapshot(sess.Repo, s).Time
		}
		out = append(out, j)
	}
	verb := "forgotten"
	if f.undo {
		verb = "kept again"
	}

	var lines []string
	takenBack := 0 // how many can be
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
			case deleted[p].Has(n):
				done = "forgotten before, and its content is deleted already"
			case !before.Has(n):
				done = "is not forgotten: there is nothing to take back"
			case f.dryRun:
				done = "would be " + verb
			default:
				takenBack++
			}
			lines = append(lines, fmt.Sprintf("%s@%d of host %s: %s", p.env, n, p.host, done))
		}
	}

	for _, l := range lines {
		sess.Out.Printf("%s\n", l)
	}
	if !f.undo && takenBack > 0 {
		sess.Out.Printf("%s\n", present.TakenBack(takenBack))
	}
	return sess.Out.Result(map[string]any{"type": "result", "dry_run": f.dryRun, "status": present.PlannedOr(f.dryRun, verb), "snapshots": out})
}

// lost is a snapshot that is named by its number and does not verify: what is
// lost, or never was one, can be forgotten all the same.
func lost(ctx context.Context, sess *session.Session, r *repository.Repository, text string, damage error) (*history.Snapshot, string, error) {
	ref, sub, err := sess.Ref(text)
	if err != nil || ref.Selector != history.ByNumber {
		return nil, "", damage
	}
	host, err := r.HostOf(ctx, ref, sess.Host)
	if err != nil {
		return nil, "", errors.Join(damage, err)
	}
	sess.Out.Messagef("warning: %s: %v", text, damage)
	return &history.Snapshot{Host: host, Environment: ref.Environment, Number: ref.Number}, sub, nil
}

func forgetByPolicy(ctx context.Context, sess *session.Session, r *repository.Repository, f *forgetFlags) error {
	envs := sess.Config.EnvironmentNames()
	if f.env != "" {
		if envs = []string{f.env}; f.policy && sess.Config.Environments[f.env] == nil {
			return sess.NoEnvironment(f.env)
		}
	}
	if len(envs) == 0 {
		return usage.Errorf("the configuration has no environments: name one with --env, and give --keep rules")
	}
	have, err := r.Environments(ctx, sess.Host)
	if err != nil {
		return err
	}
	out := []present.ForgottenJSON{}
	for _, env := range envs {
		if !slices.Contains(have, env) {
			if f.env != "" {
				return history.NoEnvironment("host "+sess.Host, env, have)
			}
			continue
		}
		policy, zone := f.keep.Policy, time.Local
		if e := sess.Config.Environments[env]; e != nil {
			if zone, err = time.LoadLocation(e.TimeZone); err != nil {
				return usage.Errorf("environment %s: %w", env, err)
			}
			if f.policy {
				policy = e.Keep.Policy()
			}
		}
		proof, err := sess.Policy(sess.Host, env)
		if err != nil {
			return err
		}
		judged, damaged, err := prune.Judge(ctx, r, sess.Host, env, policy, proof, time.Now(), zone)
		if err != nil {
			return err
		}
		console.PrintErrors(sess.Out, "knowngood: warning: ", damaged)
		if len(judged) > 0 && judged[0].Suspect {
			sess.Out.Notef("%s is suspect: nothing of %s is forgotten until the source is back, or knowngood accept %s", judged[0].Ref(), env, judged[0].Ref())
		}
		unkept := prune.Unkept(judged)
		if !f.dryRun && unkept.Count() > 0 {
			if _, err := r.Forget(ctx, sess.Host, env, history.Change{Forget: unkept, Reason: f.reason, Now: time.Now()}); err != nil {
				return err
			}
		}
		slices.Reverse(judged)
		for _, j := range judged {
			out = append(out, present.ForgottenJSON{Ref: j.Ref(), Host: j.Host, Time: present.Snapshot(sess.Repo, j.Snapshot).Time, Kept: len(j.Reasons) > 0, Reasons: present.List(j.Reasons)})
		}
	}
	return present.Forgotten(sess.Out, out, f.dryRun)
}
