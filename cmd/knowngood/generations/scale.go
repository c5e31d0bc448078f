package generations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/restore/generation"
	"knowngood/restore/instance"
	"knowngood/storage/history"
)

// ScaleOptions are the flags of scale.
type ScaleOptions struct {
	To       int // negative: what the target asks for
	Unproven bool
}

// scaling is a change of the instances of an environment.
type scaling struct {
	*switching
	set    *instance.Set
	probes []configs.Probe
}

func hasInstances(sess *session.Session, name string) bool {
	env := sess.Config.Environments[name]
	return env != nil && env.Scale != nil
}

// scaled opens the instances of an environment.
func scaled(ctx context.Context, sess *session.Session, name string) (*scaling, error) {
	env := sess.Config.Environments[name]
	switch {
	case env == nil:
		return nil, sess.NoEnvironment(name)
	case env.Scale == nil:
		return nil, usage.Errorf("environment %s has no instances: they need scale: {dir: DIRECTORY, …} in %s (docs/GENERATIONS.md)", name, sess.ConfigFile)
	}
	own := *env
	own.Data = nil // each instance has its own
	s := &scaling{switching: &switching{SwitchOptions: &SwitchOptions{}, sess: sess, name: name, env: &own}, probes: env.Scale.Probes}
	if s.probes == nil && env.Drill != nil {
		s.probes = configs.LiveProbes(env.Drill.Probes)
	}
	var err error
	s.set, err = instance.Open(ctx, &instance.Options{Dir: env.Scale.Dir, Environment: name, Config: env.Scale, Probes: s.probes, Ask: askLive, Overlay: env.Scale.Overlay, Now: time.Now, Note: noteOn(sess)}, true)
	return s, err
}

// tree is the tree of a snapshot, restored where it is not there yet.
func (s *scaling) tree(ctx context.Context, ref string) (*instance.Tree, error) {
	var err error
	if s.repo, err = s.sess.OpenForReading(ctx); err != nil {
		return nil, err
	}
	snap, sub, err := s.sess.Resolve(ctx, s.repo, ref)
	if err == nil && (sub != "" || snap.Environment != s.name) {
		err = usage.Errorf("instances of %s are made of a whole snapshot of it, such as %[1]s@42", s.name)
	}
	if err != nil {
		return nil, err
	}
	t := treeOf(snap, s.env.Root)
	if err := s.notAgain(ref, snap, s.set.WentBack(t)); err != nil {
		return nil, err
	}
	if t.Proof, err = s.prove(ctx, snap); err != nil {
		return nil, err
	}
	return s.set.Tree(ctx, t, s.filled(snap))
}

// Scale brings the instances of an environment to a number: that of the flag, or what its
// target asks for.
func Scale(ctx context.Context, sess *session.Session, f *ScaleOptions, name string) error {
	began := time.Now()
	s, err := scaled(ctx, sess, name)
	if err != nil {
		return err
	}
	defer s.set.Close()
	s.Unproven = f.Unproven
	c, to, why, wanted := s.env.Scale, f.To, "", f.To
	if err := s.set.Check(ctx); err != nil {
		return err
	}
	switch {
	case to > int(c.Max) || to > 0 && to < int(c.Min):
		return usage.Errorf("--to %d is not between scale.min, %d, and scale.max, %d", to, c.Min, c.Max)
	case to >= 0:
	case c.Target == nil && s.set.View().Current == nil:
		return usage.Errorf("how many? Environment %s has no scale.target: give --to N", name)
	case c.Target == nil: // as many as were asked for
		if to = s.set.View().Wanted; to > 0 {
			to = min(max(to, int(c.Min)), int(c.Max))
		}
		wanted = to
	default:
		if wanted, to, why, err = s.set.Decide(ctx); err != nil {
			return err
		}
	}
	before := s.set.View()
	if before.Current == nil && to > 0 {
		ref := name + "@known-good"
		if f.Unproven {
			ref = name + "@latest"
		}
		t, err := s.tree(ctx, ref)
		if err != nil {
			return s.noFirst(ctx, err)
		}
		if _, err := s.set.Spawn(ctx, t, 0); err != nil {
			return err
		}
	}
	scaleErr := s.set.Scale(ctx, to)
	switch {
	case why != "":
		sess.Out.Printf("the number stays: %s\n", why)
	case wanted != to:
		sess.Out.Printf("the target asks for %d: min, max, up and down of scale allow %d now\n", wanted, to)
	}
	return errors.Join(scaleErr, s.print(began, len(before.Instances), map[string]any{"wanted": wanted, "reason": why}))
}

// noFirst is why there are no first instances, with what to do where no snapshot was found.
func (s *scaling) noFirst(ctx context.Context, err error) error {
	if !errors.Is(err, history.ErrNoSnapshot) {
		return fmt.Errorf("the first instances are not made: %w", err)
	}
	err = fmt.Errorf("there is no snapshot to make the first instances of: %w", err)
	if _, _, newest := s.sess.Resolve(ctx, s.repo, s.name); newest != nil {
		return fmt.Errorf("%w. Take one: knowngood snapshot %s", err, s.name)
	}
	return fmt.Errorf("%w. With --unproven scale takes the newest one; knowngood switch %s REF chooses one", err, s.name)
}

// print prints the instances, and which probes they passed.
func (s *scaling) print(began time.Time, before int, more map[string]any) error {
	more["probes"] = names(s.probes)
	if err := printInstances(s.sess, s.set.View(), began, before, more); err != nil {
		return err
	}
	if len(s.probes) == 0 {
		s.sess.Out.Printf("no probe is asked of an instance: scale.probes is empty, and drill.probes has none of kind http, tcp, command or file\n")
	}
	return nil
}

// roll makes the instances of an environment ones of another snapshot.
func roll(ctx context.Context, sess *session.Session, f *SwitchOptions, name, ref string) error {
	began := time.Now()
	if (ref == "") == (f.From == "") {
		return usage.Errorf("of what are instances made? Name a snapshot, such as %s@known-good, or a directory with --from", name)
	}
	s, err := scaled(ctx, sess, name)
	if err != nil {
		return err
	}
	defer s.set.Close()
	s.SwitchOptions = f
	if f.From != "" {
		if ref, err = s.built(ctx); err != nil {
			return err
		}
	}
	t, err := s.tree(ctx, ref)
	if err != nil {
		return err
	}
	before := s.set.View()
	if before.Current != nil && before.Current.Name == t.Name {
		return usage.Errorf("%s: %w: there is nothing to switch", t.Snapshot, generation.ErrLive)
	}
	err = s.set.Roll(ctx, t)
	if s.made != nil && errors.Is(err, generation.ErrBack) && ctx.Err() == nil {
		s.markBad(ctx, s.set.WentBack(t))
	}
	return s.rolled(ctx, began, before, t, err)
}

// rolled prints how a switch, or a rollback, to a tree ended.
func (s *scaling) rolled(ctx context.Context, began time.Time, before *instance.View, to *instance.Tree, err error) error {
	perr := s.print(began, len(before.Instances), map[string]any{"committed": err == nil, "proof": to.Proof})
	if err == nil && len(before.Instances) == 0 {
		s.sess.Out.Printf("no instance runs yet: knowngood scale %s\n", s.name)
	}
	if errors.Is(err, generation.ErrBack) {
		err = interrupted(ctx, err, "")
	}
	return errors.Join(err, perr)
}

// built takes a snapshot of what was just built, and returns its reference.
func (s *scaling) built(ctx context.Context) (string, error) {
	dir, err := s.directory()
	switch {
	case err != nil:
		return "", err
	case s.env.Root == "":
		return "", usage.Errorf("--from is about the directory root, and environment %s has none", s.name)
	}
	if s.repo, err = s.sess.OpenForReading(ctx); err != nil { // the instances are made of the snapshot
		return "", err
	}
	taken, err := s.capture(ctx, dir)
	if err != nil {
		return "", err
	}
	s.made = taken
	return taken.Ref(), nil
}

// rollBack makes the instances ones of the snapshot before, whose tree is still there.
func rollBack(ctx context.Context, sess *session.Session, name string) error {
	began := time.Now()
	s, err := scaled(ctx, sess, name)
	if err != nil {
		return err
	}
	defer s.set.Close()
	before := s.set.View()
	to, err := s.set.Rollback(ctx)
	if to == nil {
		return err
	}
	return s.rolled(ctx, began, before, to, err)
}

// listInstances shows what a directory has; it changes nothing.
func listInstances(sess *session.Session, dir string) error {
	v, err := instance.Look(dir)
	if err != nil {
		return err
	}
	return printInstances(sess, v, time.Time{}, 0, nil)
}
