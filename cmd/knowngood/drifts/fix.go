package drifts

import (
	"context"
	"fmt"
	"os"
	"slices"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/restore"
	"knowngood/restore/generation"
	"knowngood/restore/owners"
	"knowngood/snapshot/live"
	"knowngood/snapshot/manifest"
)

// repair puts back what is listed, after it has shown the plan, and compares again.
func (o *options) repair(ctx context.Context, sess *session.Session, c *comparison, name, ref string) error {
	rows, more := c.set.Rows()
	if more > 0 {
		return usage.Errorf("too much differs for --fix: restore the snapshot (knowngood restore %s --in-place --delete)", c.From)
	}
	plan, unlock, err := o.plan(ctx, sess, c, name)
	if err != nil {
		return err
	}
	defer unlock()
	paths, above := map[string]bool{}, map[string]bool{}
	for _, r := range rows {
		paths[r.Path] = true
		for i := range r.Path {
			if r.Path[i] == '/' {
				above[r.Path[:i]] = true
			}
		}
	}
	plan.Only = func(path string, below bool) bool { return paths[path] || below && above[path] }

	dry := *plan
	dry.DryRun, dry.Verify, dry.Progress = true, true, &restore.Progress{Change: func(action, path string) {
		if action == "unchanged" && paths[path] { // a directory, whose metadata is not compared
			action = "metadata"
		}
		if action != "unchanged" {
			present.Change(sess.Out, action, path)
		}
	}}
	sess.Out.Printf("\nplan: restore what is listed from %s\n", plan.Tree.Snapshot.Ref())
	result, err := restore.Run(ctx, dry)
	if err != nil || o.dryRun {
		return err
	}
	if len(result.Lacking) > 0 {
		return fmt.Errorf("%w: %s that it needs are missing or damaged, so nothing was changed (knowngood check)", exit.ErrDamage, human.Counted(len(result.Lacking), "object"))
	}
	if !o.yes {
		yes, err := console.Confirm(ctx, "Put back what the plan lists?")
		switch {
		case err != nil:
			return usage.Errorf("%w: give --yes, or --dry-run for the plan alone", err)
		case !yes:
			return usage.Errorf("it was not confirmed: nothing was changed")
		}
	}
	problems := sess.Out.Problems()
	plan.Progress = &restore.Progress{Problem: problems.Add}
	result, err = restore.Run(ctx, *plan)
	problems.End()
	if err != nil {
		return err
	}
	for _, p := range result.Problems {
		sess.Damage.Add(p.Err)
	}
	sess.Out.Notef("%s created, %s changed, %s deleted, %s given other metadata; comparing again", human.Count(result.Created), human.Count(result.Changed), human.Count(result.Deleted), human.Count(result.Metadata))
	again := newComparison(sess)
	defer again.close()
	if err := again.live(ctx, o, name, ref); err != nil {
		return err
	}
	return again.print(sess.Out, true)
}

// plan is the restore of all that a comparison is about. A generation is restored from its
// own snapshot, to what its record has; unlock releases it.
func (o *options) plan(ctx context.Context, sess *session.Session, c *comparison, name string) (plan *restore.Options, unlock func(), err error) {
	env := sess.Config.Environments[name]
	plan = &restore.Options{Tree: c.tree, Target: "/", InPlace: true, Delete: true, Spare: sess.OwnPlaces(), Owners: owners.Options{Keep: os.Geteuid() != 0}}
	if c.recorded == nil {
		if slices.ContainsFunc(session.SourcePaths(c.tree), func(p string) bool { return live.Owner(p) != "" }) {
			return nil, nil, usage.Errorf("a generation is only put back to what it was: knowngood drift %s --fix. For another version: knowngood switch %s REF", name, name)
		}
		plan.Today, err = sess.Today(name)
		return plan, func() {}, err
	}
	if c.recorded.Snapshot == "" {
		return nil, nil, usage.Errorf("generation %s was adopted, and no snapshot has what it was then: knowngood switch %s REF makes another one live", c.recorded.Name, name)
	}
	if sess.IdentityPath == "" {
		return nil, nil, fmt.Errorf("%w. Without one: knowngood rollback %s", session.ErrIdentityMissing, name)
	}
	of, err := generations.Options(sess, name)
	if err != nil {
		return nil, nil, err
	}
	set, err := generation.Open(ctx, of)
	if err != nil {
		return nil, nil, err
	}
	now, err := set.Live()
	if err == nil && now.Name != c.recorded.Name {
		err = fmt.Errorf("%s went live meanwhile: compare again", now.Name)
	}
	if err == nil {
		err = c.openRecorded(ctx)
	}
	if err != nil {
		set.Close()
		return nil, nil, err
	}
	plan.Tree, plan.Under, plan.Target, plan.Exact = c.tree, manifest.EntryPath(env.Root), c.top, true
	return plan, set.Close, nil
}
