package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"knowngood/configs"
	"knowngood/restore/generation"
)

// Scale brings the number of instances to a number: it makes and starts new ones, which
// count once their probes pass, or retires the newest. What was made and never started is
// started. A new instance that fails is removed again; others go on.
func (s *Set) Scale(ctx context.Context, to int) error {
	alive := s.state.alive()
	if len(alive) != to { // saved with the first step
		s.state.ChangedAt = s.Now()
	}
	for _, in := range slices.Backward(alive[min(to, len(alive)):]) {
		if err := s.retire(ctx, in); err != nil {
			return err
		}
	}
	if _, err := s.add(ctx, s.state.tree(s.state.Current), to-len(alive)); err != nil {
		return err
	}
	var failed []error
	for _, in := range s.state.alive() {
		if in.Status == Made && ctx.Err() == nil {
			failed = append(failed, s.start(ctx, in))
		}
	}
	return errors.Join(errors.Join(failed...), ctx.Err(), s.prune())
}

// start starts an instance, and waits until its probes pass. One that fails is stopped and
// removed; the error is ErrProbe where a probe failed.
func (s *Set) start(ctx context.Context, in *Instance) error {
	if in.Way == overlay {
		if err := s.mount(in); err != nil {
			return err
		}
	}
	in.Status, in.Boot = Starting, generation.BootID()
	if err := s.save("starting"); err != nil {
		return err
	}
	err := s.run(ctx, "start", s.Config.Start, in, false)
	if err == nil {
		s.point("after start")
		err = s.probe(ctx, in)
	}
	if err == nil {
		in.Status = Ready
		return s.save("ready")
	}
	err = fmt.Errorf("instance %d did not come up: %w", in.Number, err)
	return errors.Join(err, s.stop(context.WithoutCancel(ctx), in))
}

// again asks the probes of an instance that came up, before another one is retired for it.
// One that fails is stopped and removed.
func (s *Set) again(ctx context.Context, in *Instance) error {
	err := s.probe(ctx, in)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("instance %d came up, and failed then: %w", in.Number, err)
	return errors.Join(err, s.stop(context.WithoutCancel(ctx), in))
}

// pollEvery is how often the probes of a new instance are asked.
const pollEvery = 500 * time.Millisecond

func (s *Set) probe(ctx context.Context, in *Instance) error {
	if s.Ask == nil || len(s.Probes) == 0 {
		return nil
	}
	var probes []configs.Probe
	for _, p := range s.Probes {
		probes = append(probes, p.Fill(s.placeholders(in)))
	}
	within, cancel := context.WithTimeout(ctx, time.Duration(s.Config.Timeout))
	defer cancel()
	var failed error
	for {
		err := s.Ask(within, probes)
		if err == nil {
			return nil
		}
		if failed == nil || within.Err() == nil { // not that the time is over
			failed = err
		}
		select {
		case <-within.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w within %v: %w", ErrProbe, time.Duration(s.Config.Timeout), failed)
		case <-time.After(pollEvery):
		}
	}
}

// retire drains an instance, stops it and removes it. One that cannot be drained stays.
func (s *Set) retire(ctx context.Context, in *Instance) error {
	if in.Status == Made {
		return s.discard(in)
	}
	in.Status = Draining
	if err := s.save("draining"); err != nil {
		return err
	}
	if err := s.run(ctx, "before_retire", s.Config.BeforeRetire, in, false); err != nil {
		in.Status = Ready
		return errors.Join(fmt.Errorf("instance %d was not retired: %w", in.Number, err), s.save("not drained"))
	}
	return s.stop(ctx, in)
}

// stop stops an instance and removes it. The next command goes on where it fails.
func (s *Set) stop(ctx context.Context, in *Instance) error {
	in.Status = Stopping
	if err := s.save("stopping"); err != nil {
		return err
	}
	if err := s.run(ctx, "stop", s.Config.Stop, in, true); err != nil {
		return fmt.Errorf("instance %d may still run: %w", in.Number, err)
	}
	return s.discard(in)
}

// run runs commands for an instance. It goes on after one that fails when all is set.
func (s *Set) run(ctx context.Context, what string, hooks []configs.Hook, in *Instance, all bool) error {
	env := []string{"KNOWNGOOD_ENVIRONMENT=" + s.Environment, "KNOWNGOOD_INSTANCE=" + strconv.Itoa(in.Number), "KNOWNGOOD_INSTANCE_PATH=" + s.Path(in), "KNOWNGOOD_INSTANCE_UNIT=" + s.Unit(in)}
	filled := slices.Clone(hooks)
	for i := range filled {
		filled[i] = filled[i].Fill(s.placeholders(in))
	}
	return generation.RunHooks(ctx, what, filled, env, all)
}

// Roll replaces all instances by ones of another tree: one is added and probed first, then
// each old one is retired and a new one takes its place, so that never fewer than before
// run; the new ones are asked again each time, and at the end. The first failure ends that, and it goes back to the old tree; the error is
// generation.ErrBack then.
func (s *Set) Roll(ctx context.Context, to *Tree) error {
	from := s.state.Current
	if from == "" || len(s.state.alive()) == 0 {
		s.state.Current, s.state.Problem = to.Name, ""
		return errors.Join(s.save("current"), s.prune())
	}
	s.state.Roll = &roll{From: from, To: to.Name, Count: len(s.state.alive())}
	s.state.Problem = ""
	if err := s.save("roll"); err != nil {
		return err
	}
	if err := s.replace(ctx, to.Name, s.state.Roll.Count); err != nil {
		why := err.Error()
		if ctx.Err() != nil {
			why = "interrupted"
		}
		return s.back(ctx, why)
	}
	s.state.Current, s.state.Roll, s.state.ChangedAt = to.Name, nil, s.Now()
	return errors.Join(s.save("rolled"), s.prune())
}

// replace makes all instances be of a tree, count of them, one by one.
func (s *Set) replace(ctx context.Context, tree string, count int) error {
	for {
		var old, now []*Instance
		for _, in := range s.state.alive() {
			if in.Tree == tree {
				now = append(now, in)
			} else {
				old = append(old, in)
			}
		}
		for _, in := range now {
			var err error
			if in.Status == Made {
				err = s.start(ctx, in)
			} else if !s.state.Roll.Undoing {
				err = s.again(ctx, in)
			}
			if err != nil {
				return err
			}
		}
		if len(now) < count {
			added, err := s.add(ctx, s.state.tree(tree), 1)
			if err == nil {
				err = s.start(ctx, added[0])
			}
			if err != nil {
				return err
			}
		}
		if len(old) > 0 {
			if err := s.retire(ctx, old[0]); err != nil {
				return err
			}
		} else if len(now) >= count {
			return nil
		}
	}
}

// back takes a roll back, once. It is not stopped by the end of ctx.
func (s *Set) back(ctx context.Context, why string) error {
	r := s.state.Roll
	r.Undoing, r.Why = true, why
	err := s.save("undo")
	if err == nil {
		err = s.replace(context.WithoutCancel(ctx), r.From, r.Count)
	}
	s.state.Roll, s.state.Problem = nil, ""
	if err != nil {
		s.state.Problem = err.Error()
		return errors.Join(fmt.Errorf("%s; and going back failed, which is not tried again: %w", why, err), s.save("not undone"))
	}
	return errors.Join(fmt.Errorf("%w: %s", generation.ErrBack, why), s.save("undone"), s.prune())
}

// recover finishes or removes what another process left under way. What cannot be removed
// yet is noted, and stays for the next command.
func (s *Set) recover(ctx context.Context) error {
	for _, t := range slices.Clone(s.state.Trees) {
		if t.Digest == "" {
			if err := s.removeTree(t); err != nil {
				return err
			}
		}
	}
	if err := s.tidy(s.state); err != nil {
		return err
	}
	again := []*Instance{} // ran before the machine was started again
	for _, in := range slices.Clone(s.state.Instances) {
		booted := in.Boot != generation.BootID()
		if booted && (in.Status == Draining || in.Status == Stopping) {
			in.Status = Removing // nothing of it runs any more
		}
		if booted && (in.Status == Starting || in.Status == Ready) {
			in.Status, again = Made, append(again, in)
		}
		var err error
		switch {
		case in.Status == Building || in.Status == Removing:
			err = s.discard(in)
		case in.Way == overlay:
			err = s.mount(in)
		}
		if err == nil && s.Config != nil {
			err = s.goOn(ctx, in)
		}
		if err != nil {
			s.Note("%v", err)
		}
	}
	if s.Config == nil {
		return nil
	}
	if s.state.Roll != nil {
		s.Note("a switch of %s was interrupted: it goes back", s.Environment)
		if err := s.back(ctx, "it was interrupted"); !errors.Is(err, generation.ErrBack) {
			return err
		}
	}
	for _, in := range again {
		if in.Status == Made && s.state.find(in.Number) == in {
			if err := s.start(ctx, in); err != nil {
				s.Note("%v", err)
			}
		}
	}
	return nil
}

// goOn goes on with an instance that was being started, which is given up, or retired.
func (s *Set) goOn(ctx context.Context, in *Instance) error {
	switch in.Status {
	case Starting, Stopping:
		s.Note("instance %d was left while it was %s: it is stopped and removed", in.Number, in.Status)
		return s.stop(ctx, in)
	case Draining:
		s.Note("instance %d was left while it was retired: that goes on", in.Number)
		return s.retire(ctx, in)
	}
	return nil
}
