package generations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/take"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/runner"
	"knowngood/internal/command"
	"knowngood/internal/posix"
	"knowngood/internal/scratch"
	"knowngood/restore/generation"
	"knowngood/restore/isolate"
	"knowngood/snapshot/walk"
	"knowngood/storage/history"
)

// PatchOptions are the flags of patch.
type PatchOptions struct {
	Network, Unproven, NoPackages, DryRun bool
}

// Patch changes an environment by a command, with a way back: in a clone of the live
// generation that then goes live, or without a root in place.
func Patch(ctx context.Context, sess *session.Session, f *PatchOptions, name string, argv []string) error {
	env := sess.Config.Environments[name]
	switch {
	case env == nil:
		return sess.NoEnvironment(name)
	case env.Scale != nil:
		return usage.Errorf("environment %s has instances, which are never changed: change a copy of the tree, then knowngood switch %[1]s --from DIR", name)
	case env.Root != "" && f.NoPackages:
		return usage.Errorf("--no-packages is about environments without a root: what is changed of %s can always be taken back", name)
	case env.Root != "":
		return Switch(ctx, sess, &SwitchOptions{Unproven: f.Unproven, patch: f, argv: argv}, name, "")
	case f.Network || f.Unproven:
		return usage.Errorf("--network and --unproven are about environments with a root: in place, the command has all that you have")
	}
	return patchInPlace(ctx, sess, f, name, argv)
}

// errDryRun ends a dry run that went well.
var errDryRun = errors.New("nothing is kept of a dry run")

// Limits of a command in a cell, as those of drills.
const (
	defaultMemory = 2 << 30
	defaultDisk   = 1 << 30
)

// fromCommand is the build of the live generation as a command changes it.
func (w *switching) fromCommand() (*generation.Build, error) {
	if !w.patch.DryRun {
		if err := w.provable("what the command makes"); err != nil {
			return nil, err
		}
	}
	l := cmp.Or(w.env.Drill, &configs.Drill{}).Limits
	b := w.set.Patched(&generation.Run{Argv: w.argv, Cell: []string{"knowngood", "cell", "run"}, Network: w.patch.Network, Line: logged(w.sess),
		Limits: isolate.Limits{Memory: int64(cmp.Or(l.Memory, defaultMemory)), CPUs: float64(l.CPUs), Processes: int(l.Processes), Disk: int64(cmp.Or(l.Disk, defaultDisk))}})
	w.named(b)
	if w.patch.DryRun {
		b.Name = func(context.Context, string) error { return errDryRun }
	}
	return b, nil
}

// logged prints the output of a command.
func logged(sess *session.Session) func(stream, line string) {
	return func(_, line string) {
		if !sess.Out.Quiet {
			sess.Out.Messagef("| %s", line)
		}
	}
}

// inPlace adds what an environment without a root needs.
func inPlace(sess *session.Session, o *generation.Options) {
	env := *o.Config
	env.Switch, o.Config = cmp.Or(env.Switch, configs.DefaultSwitch()), &env
	o.InPlace = &generation.InPlace{Dir: filepath.Join(scratch.Beside(sess.StateDir, "patches"), o.Environment)}
	for _, s := range env.Sources {
		if s.Path != "" {
			o.InPlace.Sources = append(o.InPlace.Sources, s)
		}
	}
	o.InPlace.Walk = func(sources []configs.Source) ([]walk.Source, []posix.DevIno, error) {
		c, err := runner.CaptureOptions(o.Environment, &configs.Environment{Sources: sources})
		runner.Omit(&c, sess.StateDir, sess.RepoURL)
		return c.Sources, c.Omit, err
	}
}

// patchInPlace runs a command on the sources where they are.
func patchInPlace(ctx context.Context, sess *session.Session, f *PatchOptions, name string, argv []string) (err error) {
	o, err := Options(sess, name)
	if err != nil {
		return err
	}
	unchanged := "the command was not run, and all is"
	defer func() { err = interrupted(ctx, err, unchanged) }()
	var failed error // of the command
	o.InPlace.Run = func(ctx context.Context) error {
		failed = (&command.Command{Argv: argv, Env: []string{"KNOWNGOOD_ENVIRONMENT=" + name}, Line: logged(sess)}).Run(ctx)
		return failed
	}
	if _, _, err = sess.OpenForWriting(ctx); err != nil {
		return err
	}
	w := &switching{SwitchOptions: &SwitchOptions{}, sess: sess, name: name, env: o.Config}
	if w.set, err = generation.Begin(ctx, o); err != nil {
		return err
	}
	defer w.set.Close()
	room, err := w.set.Room(ctx, !f.NoPackages)
	if err != nil {
		return err
	}
	if f.DryRun {
		sess.Out.Printf("the sources of %s can be put back: a copy takes %s of %s that are free in %s. The command is not run in a dry run.\n", name, human.Bytes(room.Bytes), human.Bytes(room.Free), o.InPlace.Dir)
		return sess.Out.Result(map[string]any{"type": "result", "environment": name, "dry_run": true, "bytes": room.Bytes, "free": room.Free, "shared": room.Shared})
	}

	before, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("the snapshot before it: %w", err)
	}
	sess.Out.Notef("the sources are copied, so that what the command changes can be put back: %s", human.Bytes(room.Bytes))
	to, err := w.set.StageInPlace(ctx, before.Number, before.ID, generation.Origin{Snapshot: before.Ref(), ID: fmt.Sprintf("%x", before.ID), Proof: "it was there before"})
	if err != nil {
		return err
	}
	out, err := w.set.Switch(ctx, to, w.probes)
	if out != nil {
		unchanged = ""
	}
	return w.patched(ctx, before, out, err, failed)
}

// take takes a snapshot of the environment.
func (w *switching) take(ctx context.Context) (*history.Snapshot, error) {
	r, err := take.Environment(ctx, w.sess, w.name, w.env, &take.Options{}, nil)
	if err != nil {
		return nil, err
	}
	return r.Snapshot, nil
}

// patched prints how a patch in place ended, of what a snapshot was taken before. One that
// is kept gets its own. Where it was taken back, the probes are asked once more.
func (w *switching) patched(ctx context.Context, before *history.Snapshot, out *generation.Outcome, err, failed error) error {
	if out == nil {
		return err
	}
	result := map[string]any{"type": "result", "environment": w.name, "before": before.Ref(), "kept": out.Committed, "waiting": !out.Until.IsZero(), "probes": w.asked(), "seconds": out.Took.Seconds()}
	text := ""
	switch {
	case err != nil:
		result["reason"] = out.Why
		switch {
		case !errors.Is(err, generation.ErrBack):
		case failed != nil && ctx.Err() == nil: // of which no probe is the judge
			err = fmt.Errorf("the command failed, and what it changed is put back: %w", failed)
		default:
			err = &backError{"what the command changed is put back: " + out.Why}
		}
		if again := w.settled(ctx); again != nil {
			err = fmt.Errorf("%w. After the way back a probe fails, too, which is not tried again: %w", err, again)
			result["problem"] = again.Error()
		}
	case !out.Until.IsZero():
		text = fmt.Sprintf("%s is changed, on trial until %s.\nTo keep it:  knowngood commit %s\nElse what was changed is put back then.\n", w.name, out.Until.Local().Format(time.DateTime), w.name)
	default:
		after, terr := w.take(ctx)
		if terr == nil {
			result["after"] = after.Ref()
			text = fmt.Sprintf("%s is changed and kept, after %s. Its snapshot is %s; what was there before is %s.\n", w.name, human.Duration(out.Took), after.Ref(), before.Ref())
			terr = w.set.SetSnapshot(after.Ref(), after.ID)
		}
		if err = terr; err != nil {
			err = fmt.Errorf("what the command changed is kept, and there is no snapshot of it yet: %w (knowngood snapshot %s)", err, w.name)
		}
	}
	w.sess.Out.Printf("%s", text)
	return errors.Join(err, w.sess.Out.Result(result))
}

// backError is generation.ErrBack in other words.
type backError struct{ text string }

func (e *backError) Error() string { return e.text }
func (e *backError) Unwrap() error { return generation.ErrBack }

// settled asks the probes until they pass, for a while. An interrupt ends that.
func (w *switching) settled(ctx context.Context) (err error) {
	for end := time.Now().Add(10 * time.Second); ctx.Err() == nil; {
		if err = w.probes(ctx); err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	w.sess.Out.Messagef("because of the interrupt it is not known whether the probes pass after the way back")
	return nil
}
