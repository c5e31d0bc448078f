package generation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/durable"
)

// Outcome is how a switch ended.
type Outcome struct {
	Live      string // generation that is live now
	Committed bool
	Until     time.Time // waits for a commit from outside; zero where it does not
	Why       string    // it went back
	Took      time.Duration
}

// ErrBack is about a switch that went back: the old generation is live again. ErrProbe is about
// one that was not begun, because a probe failed before.
var (
	ErrBack  = errors.New("the old generation is live again")
	ErrProbe = errors.New("the live generation stays")
)

// Switch makes a staged generation live: stop, flip, start, after_switch; then probe is
// asked until it has passed for the time to watch. Where anything of it fails, or ctx ends,
// what was done is taken back in reverse, and the error is ErrBack with the reason. With
// external confirmation it returns while the generation is on trial.
func (s *Set) Switch(ctx context.Context, name string, probe func(context.Context) error) (out *Outcome, err error) {
	x, to := &trial{s, s.Now(), probe}, s.state.find(name)
	if err := s.idle(); err != nil {
		return nil, err
	}
	was, err := s.Live()
	if err != nil {
		return nil, err
	}
	if to == nil || to.Status == Bad || name == was.Name {
		return nil, fmt.Errorf("generation %s cannot go live: it is not staged", name)
	}
	if err := s.verify(ctx, to); err != nil {
		return nil, err
	}
	if s.watch, err = HoldFile(s.path("watch.lock")); err != nil {
		return nil, fmt.Errorf("%s: a trial is being watched by another process: %w", s.what(), ErrBusy)
	}
	c := s.Config.Switch
	s.state.Transaction = &transaction{Kind: "switch", From: was.Name, To: name, Steps: steps(c), Deadline: x.began.Add(time.Duration(c.Trial)), External: c.Confirm == "external", Boot: BootID()}
	if s.InPlace != nil {
		s.state.Transaction.InPlace = &s.InPlace.scope
	}
	to.Status, to.Left, to.LiveAt = Trial, "", x.began
	_, err = s.advance(ctx)
	if err == nil {
		err = s.left(ctx, was)
	}
	if err == nil {
		s.state.Transaction.Watching = true
		err = s.save("watching")
	}
	if err != nil {
		return x.back(ctx, s.why(ctx, err))
	}
	return x.observe(ctx)
}

// why is the reason for which a switch goes back that failed with err.
func (j *journal) why(ctx context.Context, err error) string {
	t := j.state.Transaction
	switch {
	case ctx.Err() == nil:
		return err.Error()
	case t.Watching:
		return "interrupted while it was watched"
	case j.InPlace != nil && t.Begun > 0 && t.Steps[t.Begun-1].Name == stepFlip:
		return "interrupted while the command ran"
	}
	return "interrupted before it was watched"
}

// steps of a switch.
func steps(c *configs.Switch) []step {
	return []step{{stepStop, c.Stop}, {stepFlip, nil}, {stepStart, c.Start}, {stepAfter, c.AfterSwitch}}
}

// advance does the steps that are left, each announced before it is begun. A step that was
// begun is done again. A rollback goes on after what fails, which is in failed.
func (j *journal) advance(ctx context.Context) (failed, err error) {
	t := j.state.Transaction
	for i := max(0, t.Begun-1); i < len(t.Steps); i++ {
		x := t.Steps[i]
		t.Begun = i + 1
		if err := j.save(t.Kind + " " + x.Name); err != nil {
			return failed, err
		}
		if ctx.Err() != nil {
			return failed, context.Cause(ctx)
		}
		differs := (*differsError)(nil)
		switch {
		case x.Name == stepFlip:
			err = j.flip(ctx, t)
		case j.Boot:
		case t.Kind == "rollback":
			failed = errors.Join(failed, j.run(ctx, "rollback: "+x.Name, x.Commands, true))
		default:
			err = j.run(ctx, x.Name, x.Commands, false)
		}
		if errors.As(err, &differs) { // which is not tried again
			failed, err = errors.Join(failed, err), nil
		}
		if err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// left records a generation as it was when it was live last.
func (j *journal) left(ctx context.Context, g *Generation) (err error) {
	if j.InPlace != nil {
		return nil
	}
	t := j.state.Transaction // the lock is held, so nobody else ends the trial
	ctx, cancel := context.WithTimeoutCause(ctx, max(0, t.Deadline.Sub(j.Now())), errTrialOver)
	defer cancel()
	if g.Left, _, err = j.record(ctx, j.topOf(g.Name), g.Name, true); err != nil {
		return fmt.Errorf("record generation %s: %w", g.Name, err)
	}
	if g.LeftAt = j.Now(); g.Left == g.Digest {
		g.Left = ""
	}
	return nil
}

// pollEvery is how often a trial is looked at, and settle how long probes may fail before
// they pass first, while a service starts, however short it is watched.
const (
	pollEvery = 500 * time.Millisecond
	settle    = 10 * time.Second
)

// trial is about a generation that this process made live: whether it stays.
type trial struct {
	*Set
	began time.Time
	probe func(context.Context) error
}

// observe asks the probe for as long as a generation that is live is to be watched. The lock
// is free meanwhile: others may commit or roll back.
func (s *trial) observe(ctx context.Context) (*Outcome, error) {
	t := s.state.Transaction
	until := s.Now().Add(time.Duration(s.Config.Switch.Watch))
	early := s.Now()
	if s.Config.Switch.Watch > 0 {
		early = early.Add(settle)
	}
	s.lock.Close()
	var failed error
	for passed := false; ; {
		failed = within(ctx, t.Deadline.Sub(s.Now()), s.probe)
		passed = passed || failed == nil
		starting := failed != nil && !passed && ctx.Err() == nil && s.Now().Before(early)
		if !starting && (failed != nil || !s.Now().Before(until)) {
			break
		}
		if now, err := readState(s.dir); err != nil || now == nil || now.Transaction == nil || now.Transaction.To != t.To {
			break
		}
		wait := pollEvery
		if passed {
			wait = min(wait, max(0, until.Sub(s.Now())))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	s.point("after watching")
	if err := s.relock(); err != nil {
		return nil, err
	}
	if s.state == nil { // it was released, after a rollback
		return nil, s.notAdopted()
	}
	now := s.state.Transaction
	switch {
	case now == nil || now.To != t.To: // somebody else decided
		return s.decided(ctx, t.To)
	case failed != nil:
		return s.back(ctx, s.why(ctx, failed))
	case !s.Now().Before(t.Deadline):
		return s.back(ctx, "its trial took longer than "+time.Duration(s.Config.Switch.Trial).String())
	case t.External:
		return &Outcome{Live: t.To, Until: t.Deadline, Took: s.Now().Sub(s.began)}, nil
	}
	if err := s.commit(); err != nil {
		return nil, err
	}
	return &Outcome{Live: t.To, Committed: true, Took: s.Now().Sub(s.began)}, nil
}

var errTrialOver = errors.New("the trial is over")

// within asks the probe, for at most a time.
func within(ctx context.Context, left time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(0, left), errTrialOver)
	defer cancel()
	if err := probe(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// decided is how a trial ended that another process ended.
func (s *trial) decided(ctx context.Context, name string) (*Outcome, error) {
	if s.state.Transaction != nil { // by a rollback, and died
		if err := s.rollForward(ctx); err != nil {
			return nil, err
		}
	}
	out := &Outcome{Live: s.liveName(), Took: s.Now().Sub(s.began)}
	if g := s.state.find(name); g != nil && g.Status == Committed {
		out.Committed = true
		return out, nil
	} else if g != nil {
		out.Why = g.Why
	}
	return out, fmt.Errorf("%w: %s", ErrBack, out.Why)
}

// back takes a switch back. It is not stopped by the end of ctx.
func (s *trial) back(ctx context.Context, why string) (*Outcome, error) {
	err := s.undo(ctx, why)
	out := &Outcome{Live: s.liveName(), Why: why, Took: s.Now().Sub(s.began)}
	switch {
	case err != nil && s.state.Transaction != nil:
		return out, fmt.Errorf("%s; and going back failed: the next command goes on with that: %w", why, err)
	case err != nil:
		return out, fmt.Errorf("%s; and going back failed, which is not tried again: %w", why, err)
	}
	return out, fmt.Errorf("%w: %s", ErrBack, why)
}

// undo takes a switch back by a rollback: what it started is stopped, and what it stopped is
// started. What it did not begin is left out.
func (j *journal) undo(ctx context.Context, why string) error {
	t := j.state.Transaction
	begun := map[string]bool{}
	for _, x := range t.Steps[:t.Begun] {
		begun[x.Name] = true
	}
	goesBack := map[string]bool{stepStop: begun[stepStart], stepFlip: begun[stepFlip], stepStart: begun[stepStop], stepAfter: begun[stepAfter] || j.InPlace != nil && begun[stepFlip]}
	steps := slices.DeleteFunc(t.Steps, func(x step) bool { return !goesBack[x.Name] })
	j.state.Transaction = &transaction{Kind: "rollback", From: t.To, To: t.From, Steps: steps, Why: durable.Text(why, durable.MaxText), Deadline: j.Now(), Boot: t.Boot, InPlace: t.InPlace}
	return j.rollForward(ctx)
}

// end ends the transaction. What failed stays in the state.
func (j *journal) end(failed error, at string) error {
	j.state.Transaction, j.state.Problem = nil, ""
	if failed != nil {
		j.state.Problem = durable.Text(failed.Error(), durable.MaxText)
	}
	if g := j.state.find(j.liveName()); g != nil {
		g.Left, g.LeftAt, g.LiveAt = "", time.Time{}, j.Now()
	}
	return errors.Join(failed, j.save(at))
}

// Commit ends the trial of the live generation: it stays.
func (s *Set) Commit() (string, error) {
	t := s.state.Transaction
	if t == nil {
		return "", fmt.Errorf("no generation of %s is on trial", s.Environment)
	}
	return t.To, s.commit()
}

func (j *journal) commit() error {
	t := j.state.Transaction
	g := j.state.find(t.To)
	g.Status = Committed
	j.state.Transaction, j.state.Problem = nil, ""
	if j.InPlace != nil { // the copy of the other one goes
		j.state.Generations = []*Generation{g}
	}
	if err := j.save("commit"); err != nil {
		return err
	}
	if j.InPlace != nil {
		j.point("before removing")
		return j.tidy()
	}
	return j.prune()
}

// Rollback makes the generation before the live one live, and the live one bad. One on trial
// is taken back. With anyway it goes to a generation that is not as it was recorded.
func (s *Set) Rollback(ctx context.Context, anyway bool) (*Outcome, error) {
	if s.state.Transaction != nil {
		out, err := (&trial{Set: s, began: s.Now()}).back(ctx, "knowngood rollback")
		if errors.Is(err, ErrBack) {
			err = nil
		}
		return out, err
	}
	was, err := s.Live()
	if err != nil {
		return nil, err
	}
	to := s.state.before(s.liveName())
	if to == nil && s.InPlace != nil {
		return nil, fmt.Errorf("%s has nothing to go back to: what a command changed in place is committed, and its copy is gone. A snapshot from before is restored with knowngood restore REF --in-place (knowngood list has them)", s.Environment)
	}
	if to == nil {
		return nil, fmt.Errorf("%s has no good generation but the live one: knowngood switch %s REF builds one", s.Environment, s.Environment)
	}
	if err := s.verify(ctx, to); err != nil && !anyway {
		return nil, fmt.Errorf("%w (to go there all the same: knowngood rollback %s --anyway)", err, s.Environment)
	}
	s.state.Transaction = &transaction{Kind: "rollback", From: was.Name, To: to.Name, Steps: steps(s.Config.Switch), Why: "knowngood rollback", Deadline: s.Now(), Boot: BootID()}
	return &Outcome{Live: to.Name, Committed: true, Why: was.Name}, s.rollForward(ctx)
}

// rollForward does all steps of a rollback. It happens once: a command that fails does not end
// it, is reported, and stays in the state. It is not stopped by the end of ctx.
func (j *journal) rollForward(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	t := j.state.Transaction
	from := j.state.find(t.From)
	from.Status, from.Why = Bad, t.Why
	failed, err := j.advance(ctx)
	if err != nil { // the next command goes on with it
		return errors.Join(failed, err)
	}
	from.LeftAt = j.Now()
	if err := j.end(failed, "rolled back"); err != nil {
		return err
	}
	j.point("before removing")
	return j.tidy()
}

// recover finishes or takes back what another process left under way, or what went on for
// too long. Nothing is adopted after a release that it finished.
func (s *Set) recover(ctx context.Context) error {
	t := s.state.Transaction
	if t == nil {
		if err := s.ownNames(s.state); err != nil {
			return err
		}
		return s.tidy()
	}
	var err error
	switch t.Kind {
	case "adopt":
		err = s.recoverAdoption(ctx)
	case "release":
		s.Note("releasing %s was interrupted: it goes on", s.root)
		return s.release(ctx)
	case "rollback":
		s.Note("a rollback of %s was interrupted: it goes on", s.Environment)
		err = s.rollForward(ctx)
	case "switch":
		err = s.recoverSwitch(ctx)
	}
	if err == nil && s.state != nil && s.state.Transaction == nil {
		err = s.tidy()
	}
	return err
}

func (s *Set) recoverSwitch(ctx context.Context) error {
	t, why := s.state.Transaction, ""
	watched := true
	if f, err := HoldFile(s.path("watch.lock")); err == nil {
		watched = false
		f.Close()
	}
	switch {
	case !t.Watching:
		why = "the switch was interrupted"
	case !s.Now().Before(t.Deadline):
		why = "its trial ended at " + t.Deadline.Format(time.DateTime) + " without a commit"
	case s.Boot && t.Boot != BootID():
		why = "the machine was started anew during its trial"
	default:
		if !watched && !t.External {
			s.Note("the process that watched the trial of %s is gone: commit it (knowngood commit %s), or it goes back at %s", t.To, s.Environment, t.Deadline.Format(time.DateTime))
		}
		return nil
	}
	s.Note("%s goes back from generation %s to %s: %s", s.Environment, t.To, t.From, why)
	return s.undo(ctx, why)
}

// unsupported explains why a file system cannot exchange two names.
func unsupported(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: this file system cannot exchange two names (an overlay cannot); keep the environment on ext4, xfs, btrfs or tmpfs", err)
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
