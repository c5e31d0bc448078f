package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knowngood/internal/durable"
	"knowngood/restore/generation"
)

// Check asks the probes of all instances that run. One whose probes do not pass within the
// timeout does not count any more, until they pass again; Scale replaces it. Where there are
// no probes all count.
func (s *Set) Check(ctx context.Context) error {
	running := s.state.in(Started, Ready, Failed)
	errs := make([]error, len(running))
	s.probeAll(ctx, running, errs)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, in := range running {
		if errs[i] == nil {
			in.Status, in.Why = s.up(), ""
			continue
		}
		in.setFailed(errs[i], len(running))
		s.Note("instance %d failed: %s", in.Number, in.Why)
	}
	s.checked()
	return s.save("checked")
}

// checked notes that the probes of all were asked, where there are some.
func (s *Set) checked() {
	if s.state.CheckedAt = s.Now(); len(s.Probes) == 0 {
		s.state.CheckedAt = time.Time{}
	}
}

// Scale brings the number of instances to a number: it makes and starts new ones, which
// count once their probes pass, or retires those that failed, then the newest. What was made
// and never started is started. A new instance that fails is removed again; others go on.
func (s *Set) Scale(ctx context.Context, to int) error {
	alive := s.state.alive()
	if len(alive) != to { // saved with the first step
		s.state.ChangedAt = s.Now()
	}
	if s.state.Wanted != to {
		s.state.Wanted = to
		if err := s.save("wanted"); err != nil {
			return err
		}
	}
	for _, in := range slices.Backward(alive[min(to, len(alive)):]) {
		if err := s.retire(ctx, in); err != nil {
			return err
		}
	}
	if _, err := s.add(ctx, s.state.tree(s.state.Current), to-len(alive)); err != nil {
		return err
	}
	return errors.Join(s.start(ctx, s.state.in(Made)...), s.replaceFailed(ctx), ctx.Err(), s.prune())
}

// replaceFailed replaces instances that failed, one by one: another one comes up first. Where
// it does not, what they failed of may be no fault of theirs, and they stay.
func (s *Set) replaceFailed(ctx context.Context) error {
	for _, in := range s.state.in(Failed) {
		if ctx.Err() != nil {
			return nil
		}
		if err := s.startOneMore(ctx, s.state.Current); err != nil {
			return fmt.Errorf("instance %d failed, and stays until another one comes up: %w", in.Number, err)
		}
		if err := s.retire(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

// startOneMore makes another instance of a tree, and starts it.
func (s *Set) startOneMore(ctx context.Context, tree string) error {
	added, err := s.add(ctx, s.state.tree(tree), 1)
	if err != nil {
		return err
	}
	return s.start(ctx, added...)
}

// Roll replaces all instances by ones of another tree: one is added and probed first, then
// each old one is retired and a new one takes its place, so that never fewer than before
// run; the new ones are asked again each time, and at the end. The first failure ends that,
// and it goes back to the old tree; the error is generation.ErrBack then.
func (s *Set) Roll(ctx context.Context, to *Tree) error {
	return s.roll(ctx, to, s.state.Current)
}

// Rollback rolls to the tree before the current one, and returns it.
func (s *Set) Rollback(ctx context.Context) (*Tree, error) {
	to := s.state.tree(s.state.Previous)
	if to == nil {
		return nil, fmt.Errorf("%s has no tree of the snapshot before: it is kept for one rollback after each switch. Choose a snapshot: knowngood switch %s REF", s.dir, s.Environment)
	}
	return to, s.roll(ctx, to, "")
}

// WentBack is why instances of a tree went back last; empty where they did not.
func (s *Set) WentBack(t *Tree) string {
	if b := s.state.Bad; b != nil && b.Tree == t.Name {
		return b.Why
	}
	return ""
}

func (s *Set) roll(ctx context.Context, to *Tree, previous string) error {
	from := s.state.Current
	if count := len(s.state.alive()); count > 0 && from != "" {
		s.state.Roll, s.state.Problem = &roll{From: from, To: to.Name, Count: count}, ""
		if err := s.save("roll"); err != nil {
			return err
		}
		if err := s.replace(ctx, to.Name, count); err != nil {
			why := err.Error()
			if ctx.Err() != nil {
				why = "interrupted"
			}
			return s.back(ctx, why)
		}
		s.state.ChangedAt = s.Now()
		s.checked()
	}
	if previous == "" && from != "" {
		s.state.Bad = &badTree{from, "knowngood rollback"}
	} else if s.state.Bad != nil && s.state.Bad.Tree == to.Name {
		s.state.Bad = nil
	}
	s.state.Current, s.state.Previous, s.state.Roll, s.state.Problem = to.Name, previous, nil, ""
	return errors.Join(s.save("current"), s.prune())
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
			if err := s.startOneMore(ctx, tree); err != nil {
				return err
			}
		}
		if len(old) > 0 {
			if last := old[len(old)-1]; last.Status == Failed {
				old[0] = last
			}
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
	r.Undoing, r.Why = true, durable.Text(why, durable.MaxText)
	s.state.Bad = &badTree{r.To, r.Why}
	err := s.save("undo")
	if err == nil {
		err = s.replace(context.WithoutCancel(ctx), r.From, r.Count)
	}
	s.state.Roll, s.state.Problem = nil, ""
	if err != nil {
		s.state.Problem = durable.Text(err.Error(), durable.MaxText)
		return errors.Join(fmt.Errorf("%s; and going back failed, which is not tried again: %w", why, err), s.save("not undone"))
	}
	return errors.Join(&backError{s.state.tree(r.From).Snapshot, why}, s.save("undone"), s.prune())
}

// backError is generation.ErrBack of instances.
type backError struct{ snapshot, why string }

func (e *backError) Error() string {
	return fmt.Sprintf("all instances are of %s again: %s", e.snapshot, e.why)
}

func (e *backError) Unwrap() error { return generation.ErrBack }

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
		if booted && (in.Status == Starting || in.Status == Started || in.Status == Ready || in.Status == Failed) {
			in.Status, in.Why, again = Made, "", append(again, in)
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
	again = slices.DeleteFunc(again, func(in *Instance) bool { return in.Status != Made || s.state.find(in.Number) != in })
	if err := s.start(ctx, again...); err != nil {
		s.Note("%v", err)
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
