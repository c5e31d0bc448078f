// Package drifts is what the drift command does: it finds the two states that are compared,
// prints what differs, and puts it back.
package drifts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/runner"
	"knowngood/restore/drift"
	"knowngood/restore/drill"
	"knowngood/restore/generation"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/storage/history"
)

// options are the flags of drift.
type options struct {
	since                     string
	content, fix, dryRun, yes bool
	job                       string
}

// Command is the drift command.
func Command(sess *session.Session) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "drift ENV [REF] | drift REF1 REF2",
		Short: "Show what differs from the known-good state",
		Long: `Show what of the live tree of an environment is not as it should be: as the live
generation was recorded, where the environment has a root, which takes neither the
repository nor an identity; else as its newest known-good snapshot has it, or REF.
With two snapshots, what differs from the first to the second.

What was touched since is read (ctime); --content reads all files.
What packages of dpkg explain (a file is as the package database of the snapshot has it,
or came with a newer package) is one line a package, and so are paths below data and the
patterns of drift.ignore. Set-uid files, new programs and units of systemd are listed
whatever explains them.

A host that may be taken over can lie about itself: compare two of its snapshots on
another machine. --fix restores in place what is listed, after it has shown the plan.

+ added, - removed, M changed, m only owner, mode, attributes or times.
The exit code is 14 when something is listed, 3 when something could not be compared.`,
		Example: `  knowngood drift web
  knowngood drift web --since known-good --content
  knowngood drift web web@42 --fix --dry-run
  knowngood drift web-7/web@known-good web-7/web@latest`,
		Args:              usage.Takes(0, 2),
		ValidArgsFunction: completion.References(sess, 2),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), sess, args) },
	}
	fl := cmd.Flags()
	fl.StringVar(&o.since, "since", "", "compare with the newest snapshot that is `known-good`, also where there are generations")
	fl.BoolVar(&o.content, "content", false, "read all files, also those that were not touched since")
	fl.BoolVar(&o.fix, "fix", false, "restore in place what is listed, and compare again")
	fl.BoolVar(&o.dryRun, "dry-run", false, "with --fix: only show the plan")
	fl.BoolVar(&o.yes, "yes", false, "with --fix: do not ask")
	fl.StringVar(&o.job, "job", "", "`name` of a job of the daemon, which calls it so")
	_ = fl.MarkHidden("job")
	sess.Proof.Add(fl)
	return cmd
}

func (o *options) run(ctx context.Context, sess *session.Session, args []string) error {
	switch {
	case o.job != "":
		return o.runJob(ctx, sess)
	case len(args) == 0:
		return sess.WhichEnvironment()
	case o.since != "" && o.since != "known-good":
		return usage.Errorf("--since %s: only known-good; for a snapshot give its reference: knowngood drift %s %[2]s@42", o.since, args[0])
	case (o.dryRun || o.yes) && !o.fix:
		return usage.Errorf("--dry-run and --yes go with --fix")
	}
	second := strings.Join(args[1:], "")
	isPair := strings.ContainsAny(args[0], "@/") || second != "" && sess.Config.Environments[args[0]] == nil
	c := newComparison(sess)
	defer c.close()
	var err error
	switch {
	case isPair && (second == "" || o.fix || o.since != "" || o.content):
		return usage.Errorf("name an environment of this machine, or two snapshots, which take no --fix, --since and --content: knowngood drift web@known-good web@latest")
	case isPair:
		err = c.between(ctx, args[0], second)
	case o.since != "" && second != "":
		return usage.Errorf("give --since known-good or %s, not both", second)
	default:
		err = c.live(ctx, o, args[0], second)
	}
	if err != nil {
		return err
	}
	fixes := o.fix && c.code() == exit.ProbeFailed
	if err := c.print(sess.Out, !fixes || o.dryRun); err != nil || !fixes {
		return err
	}
	return o.repair(ctx, sess, c, args[0], second)
}

// comparison is one of two states.
type comparison struct {
	Environment, From, To string

	sess     *session.Session
	set      *drift.Set
	problems *console.Problems
	tree     *snapshot.Tree         // what it was compared with; nil for a record
	recorded *generation.Generation // of a comparison with a record
	top      string                 // where its tree is
}

func (c *comparison) close() {
	if c.tree != nil {
		c.tree.Reader.Close()
	}
}

func newComparison(sess *session.Session) *comparison {
	problems := sess.Out.Problems()
	return &comparison{sess: sess, problems: problems, set: &drift.Set{Problem: problems.Add}}
}

// of makes it one of an environment of a host.
func (c *comparison) of(host, environment string) error {
	own := cmp.Or(c.sess.OwnHost(), c.sess.Host)
	rules, err := filter.Compile("/", nil, c.sess.Config.IgnoredOf(own, host, environment))
	if err != nil {
		return usage.Errorf("drift.ignore: %w", err)
	}
	c.set.Ignore, c.Environment = rules, environment
	if host != own {
		c.Environment = host + "/" + environment
	}
	return nil
}

// live compares the live tree of an environment of this machine.
func (c *comparison) live(ctx context.Context, o *options, name, ref string) error {
	sess := c.sess
	env := sess.Config.Environments[name]
	if env == nil {
		return sess.NoEnvironment(name)
	}
	err := c.of(cmp.Or(sess.OwnHost(), sess.Host), name)
	if err != nil {
		return err
	}
	c.To = "this machine"
	if env.Root != "" && ref == "" && o.since == "" {
		c.recorded, c.top, err = drift.Generation(ctx, &generation.Options{Environment: name, Config: env}, o.content, c.set)
		if errors.Is(err, generation.ErrRecordedAgain) {
			c.set.Problem(strings.TrimPrefix(env.Root, "/"), fmt.Errorf("%w: knowngood drift %s --since known-good compares with a snapshot", err, name))
			err = nil
		}
		if err == nil {
			c.From = "generation " + c.recorded.Name
			return c.explainRecorded(ctx, env.Root)
		}
		if !errors.Is(err, generation.ErrNotAdopted) || sess.IdentityPath == "" {
			return err
		}
	}
	if sess.IdentityPath == "" {
		return fmt.Errorf("%w. Without one, an environment with a root is compared with its live generation, and on the machine that has one two snapshots are compared: knowngood drift %s@known-good %[2]s@latest", session.ErrIdentityMissing, name)
	}
	if c.tree, err = wholeTree(ctx, sess, cmp.Or(ref, name+"@known-good")); err != nil {
		return err
	}
	s := c.tree.Snapshot
	c.From = s.Ref()
	if s.Environment != name {
		return usage.Errorf("%s is not a snapshot of %s", s.Ref(), name)
	}
	if err := c.withTree(ctx, env, o.content); err != nil {
		return err
	}
	return c.explain(ctx, nil)
}

// withTree compares the live tree with a snapshot.
func (c *comparison) withTree(ctx context.Context, env *configs.Environment, content bool) error {
	today, err := runner.CaptureOptions(c.Environment, env)
	if err != nil {
		return err
	}
	runner.Omit(&today, c.sess.StateDir, c.sess.RepoURL)
	for _, d := range env.Data {
		c.set.Data = append(c.set.Data, strings.TrimPrefix(env.Root, "/")+"/"+d.Path)
	}
	return (&drift.Live{Tree: c.tree, Sources: today.Sources, Omit: today.Omit, Content: content}).Compare(ctx, c.set)
}

// wholeTree opens the snapshot that a reference names. The repository is opened once.
func wholeTree(ctx context.Context, sess *session.Session, ref string) (*snapshot.Tree, error) {
	if sess.Repo == nil {
		if _, err := sess.OpenForReading(ctx); err != nil {
			return nil, err
		}
	}
	s, sub, err := sess.Resolve(ctx, sess.Repo, ref)
	if err == nil && sub != "" {
		err = usage.Errorf("drift is about whole snapshots: %s without the path", s.Ref())
	}
	if err != nil {
		return nil, err
	}
	return snapshot.OpenTree(ctx, sess.Repo, s)
}

// oneOf opens one of two snapshots. Flags about what is known-good are not about it where
// only the other one is named so.
func oneOf(ctx context.Context, sess *session.Session, ref, other string) (*snapshot.Tree, error) {
	knownGood := func(text string) bool {
		r, _, err := history.ParseRef(text)
		return err == nil && r.Selector == history.KnownGood
	}
	if given := sess.Proof; !knownGood(ref) && knownGood(other) {
		defer func() { sess.Proof = given }()
		sess.Proof = session.Proof{}
	}
	return wholeTree(ctx, sess, ref)
}

// between compares two snapshots.
func (c *comparison) between(ctx context.Context, older, newer string) (err error) {
	if c.tree, err = oneOf(ctx, c.sess, older, newer); err != nil {
		return err
	}
	is, err := oneOf(ctx, c.sess, newer, older)
	if err != nil {
		return err
	}
	defer is.Reader.Close()
	if err := c.of(is.Snapshot.Host, is.Snapshot.Environment); err != nil {
		return err
	}
	c.From, c.To = full(c.tree.Snapshot), full(is.Snapshot)
	if err := drift.Between(ctx, c.tree, is, c.set); err != nil {
		return err
	}
	return c.explain(ctx, is)
}

func full(s *history.Snapshot) string { return s.Host + "/" + s.Ref() }

// explain finds what packages explain; is is nil for the live tree.
func (c *comparison) explain(ctx context.Context, is *snapshot.Tree) error {
	if rows, _ := c.set.Rows(); len(rows) == 0 {
		return nil
	}
	space, err := drill.Scratch(c.sess.StateDir)
	if err != nil {
		return err
	}
	found, err := c.set.ExplainPackages(ctx, c.tree, is, space.Dir)
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), space.Remove())
	}
	if err != nil {
		c.set.Problem(drift.Database, fmt.Errorf("what packages explain is listed all the same: %w", err))
	} else if found == 0 {
		c.sess.Out.Notef("%s has no package database (/%s), so nothing is explained by packages", c.From, drift.Database)
	}
	return space.Remove()
}

// explainRecorded is explain for what differs from a record.
func (c *comparison) explainRecorded(ctx context.Context, root string) error {
	same, err := c.set.ExplainRecorded(ctx, root)
	switch {
	case same || err != nil:
	case c.recorded.Snapshot == "" || c.sess.IdentityPath == "":
		c.sess.Out.Notef("packages explain nothing: their database was changed, too, and as it was it is only in the snapshot of the generation, which an identity reads")
	default:
		if err = c.openRecorded(ctx); err == nil {
			return c.explain(ctx, nil)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		c.set.Problem(drift.Database, fmt.Errorf("what packages explain is listed all the same: %w", err))
	}
	return nil
}

// openRecorded opens the snapshot that the live generation was made of.
func (c *comparison) openRecorded(ctx context.Context) (err error) {
	if c.tree != nil {
		return nil
	}
	if c.tree, err = wholeTree(ctx, c.sess, c.recorded.Snapshot); err == nil && fmt.Sprintf("%x", c.tree.Snapshot.ID) != c.recorded.ID {
		err = fmt.Errorf("%s is not the snapshot that generation %s was made of", c.tree.Snapshot.Ref(), c.recorded.Name)
	}
	return err
}

// code is the exit code of a comparison.
func (c *comparison) code() int {
	rows, more := c.set.Rows()
	switch {
	case len(rows)+more > 0:
		return exit.ProbeFailed
	case c.problems.Count() > 0:
		return exit.Incomplete
	}
	return exit.Done
}
