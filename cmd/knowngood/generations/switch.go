// Package generations is what the commands about generations and instances do: switch, patch,
// commit, rollback, generations, spawn and scale. It finds what may go live, has it built,
// and prints how it went.
package generations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/take"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/restore/drill"
	"knowngood/restore/generation"
	"knowngood/restore/owners"
	"knowngood/restore/probe"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/live"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"

	"golang.org/x/sys/unix"
)

// SwitchOptions are the flags of switch.
type SwitchOptions struct {
	From              string
	Unproven, Discard bool

	patch *PatchOptions // a command makes the next generation
	argv  []string
}

// switching is a switch under way.
type switching struct {
	*SwitchOptions
	sess *session.Session
	name string
	env  *configs.Environment
	repo *repository.Repository
	set  *generation.Set
	made *history.Snapshot // of what was built
}

// Options are those of the generations of an environment.
func Options(sess *session.Session, name string) (*generation.Options, error) {
	env := sess.Config.Environments[name]
	if env == nil {
		return nil, sess.NoEnvironment(name)
	}
	o := &generation.Options{Environment: name, Config: env, Now: time.Now, Note: noteOn(sess)}
	if env.Root == "" {
		inPlace(sess, o)
	}
	return o, nil
}

// withRoot are options of an environment that has a root.
func withRoot(sess *session.Session, name string) (*generation.Options, error) {
	o, err := Options(sess, name)
	if err == nil && o.InPlace != nil {
		err = usage.Errorf("environment %s has no root: generations need root: DIRECTORY in %s (docs/GENERATIONS.md)", name, sess.ConfigFile)
	}
	return o, err
}

// Switch makes a snapshot, or a directory, the live generation of an environment.
func Switch(ctx context.Context, sess *session.Session, f *SwitchOptions, name, ref string) (err error) {
	if hasInstances(sess, name) {
		return roll(ctx, sess, f, name, ref)
	}
	o, err := withRoot(sess, name)
	if err != nil {
		return err
	}
	if ref != "" && f.From != "" {
		return usage.Errorf("give %s or --from %s, not both", ref, f.From)
	}
	if f.patch == nil && ref == "" && f.From == "" {
		return usage.Errorf("what goes live? Name a snapshot, such as %s@known-good, or a directory with --from", name)
	}
	unchanged := o.Config.Root + " is"
	defer func() { err = interrupted(ctx, err, unchanged) }()
	w := &switching{SwitchOptions: f, sess: sess, name: name, env: o.Config}
	if ref == "" {
		w.repo, _, err = sess.OpenForWriting(ctx)
	} else {
		w.repo, err = sess.OpenForReading(ctx)
	}
	if err != nil {
		return err
	}
	if w.set, err = generation.Open(ctx, o); err != nil {
		return err
	}
	defer w.set.Close()
	if err := w.saved(ctx); err != nil {
		return err
	}

	var b *generation.Build
	switch {
	case f.patch != nil:
		b, err = w.fromCommand()
	case ref != "":
		b, err = w.fromSnapshot(ctx, ref)
	default:
		b, err = w.fromDirectory()
	}
	if err != nil {
		return err
	}
	was, err := w.set.Live()
	if err != nil {
		return err
	}
	g, err := w.set.Stage(ctx, b)
	if errors.Is(err, errDryRun) {
		sess.Out.Printf("the command succeeds in a clone of the live generation of %s; nothing is changed\n", name)
		return sess.Out.Result(map[string]any{"type": "result", "environment": name, "dry_run": true})
	}
	if errors.Is(err, generation.ErrLive) {
		return usage.Errorf("%w: there is nothing to switch", err)
	}
	if err != nil {
		return err
	}
	sess.Out.Notef("generation %s is built and verified (%s; %s); it goes live, and is watched for %v", g.Name, printable.Line(g.Way), printable.Line(g.Proof), w.env.Switch.Watch)
	out, err := w.set.Switch(ctx, g.Name, w.probes)
	if out != nil {
		unchanged = ""
	}
	if w.made != nil && errors.Is(err, generation.ErrBack) && ctx.Err() == nil {
		w.markBad(ctx, out.Why)
	}
	return w.print(was, g, out, err)
}

// saved takes a snapshot first where the configuration has it, and refuses where the live
// generation has what no snapshot has.
func (w *switching) saved(ctx context.Context) error {
	if w.patch != nil && w.patch.DryRun {
		return nil
	}
	if w.patch != nil || slices.ContainsFunc(w.env.Data, func(d configs.Data) bool { return d.Policy == "snapshot-first" }) {
		time.Sleep(generation.ClockTick) // so that what was changed just now is known to be in it
		if _, err := w.take(ctx); err != nil {
			return fmt.Errorf("the snapshot before it: %w", err)
		}
	}
	if w.Discard {
		return nil
	}
	since := time.Time{}
	newest, err := w.repo.Resolve(ctx, history.Ref{Environment: w.name}, w.sess.Host)
	switch {
	case err == nil && newest.Body != nil:
		since = newest.Body.Started
	case err != nil && !errors.Is(err, history.ErrNoSnapshot):
		return err
	}
	unsaved, err := w.set.Unsaved(ctx, since)
	if err != nil {
		return fmt.Errorf("what was changed in the live generation is not known: %w (take a snapshot, then give --discard)", err)
	}
	if unsaved.Count > 0 {
		return fmt.Errorf("the live generation has changes that no snapshot has: %s. Take a snapshot (knowngood snapshot %s), declare the paths below data, or give --discard", printable.Line(unsaved.String()), w.name)
	}
	return nil
}

// fromSnapshot is the build of a snapshot.
func (w *switching) fromSnapshot(ctx context.Context, ref string) (*generation.Build, error) {
	s, sub, err := w.sess.Resolve(ctx, w.repo, ref)
	if err == nil && sub != "" {
		err = usage.Errorf("a generation is made of a whole snapshot: %s without the path", s.Ref())
	}
	if err == nil {
		err = w.notAgain(ref, s, w.set.WentBack(s.Number, s.ID))
	}
	if err != nil {
		return nil, err
	}
	proof, err := w.prove(ctx, s)
	if err != nil {
		return nil, err
	}
	return &generation.Build{
		Number: s.Number, ID: s.ID, Clone: true, OnClone: "restored in place",
		Origin: generation.Origin{Snapshot: s.Ref(), ID: fmt.Sprintf("%x", s.ID), Way: "restored", Proof: proof},
		Fill:   func(ctx context.Context, dir string, cloned bool) error { return w.restore(ctx, s, dir, cloned) },
	}, nil
}

// notAgain refuses a snapshot that went back here, for a reason, unless it is named itself: what
// runs on a schedule would choose it each time.
func (w *switching) notAgain(text string, s *history.Snapshot, why string) error {
	ref, _, err := w.sess.Ref(text)
	if err != nil || why == "" || !ref.Chooses() {
		return err
	}
	return fmt.Errorf("%s, which %s chooses, was live here and went back: %s. It does not go live again by itself: knowngood switch %s %[1]s names it", s.Ref(), ref, printable.Line(why), w.name)
}

// restore makes a directory hold the root of a snapshot, and nothing else.
func (w *switching) restore(ctx context.Context, s *history.Snapshot, dir string, cloned bool) error {
	tree, err := snapshot.OpenTree(ctx, w.repo, s)
	if err != nil {
		return err
	}
	defer tree.Reader.Close()
	if w.name != "" && !covers(tree, w.env.Root) {
		return fmt.Errorf("%s was not taken of %s, so it may have a part of it only: knowngood switch %s takes another one", s.Ref(), w.env.Root, w.name)
	}
	o := restore.Options{Tree: tree, Under: manifest.EntryPath("/" + w.env.Root), Target: dir, InPlace: true, Delete: true, Exact: true, Progress: &restore.Progress{}}
	o.Owners = owners.Options{Keep: os.Geteuid() != 0}
	if carried := w.env.Carried(); len(carried) > 0 {
		scope := []walk.Source{{Path: w.env.Root}}
		for _, p := range carried {
			scope = append(scope, walk.Source{Path: filepath.Join(w.env.Root, p), Rules: filter.Nothing()})
		}
		o.Select = snapshot.NewScope(scope)
	}
	if !cloned {
		if err := o.CheckSpace(ctx, dir); err != nil {
			return err
		}
	}
	bar := w.sess.Out.Progress(func() console.State {
		return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Found: o.Progress.Found.Load(), Note: "building " + s.Ref()}
	})
	result, err := restore.Run(ctx, o)
	bar.End()
	if err != nil {
		return err
	}
	for _, p := range result.Problems {
		w.sess.Damage.Add(p.Err)
	}
	switch {
	case result.Damaged:
		return &authentic.DamageError{Key: "content of " + s.Ref(), What: "files", Err: fmt.Errorf("it cannot go live: %w", result.Problems[0].Err)}
	case !result.Complete() || result.Count > 0:
		return fmt.Errorf("%s cannot go live: %s not as captured, the first /%s: %w", s.Ref(), human.Counted(result.Count, "path"), printable.Name(result.Problems[0].Path), result.Problems[0].Err)
	}
	return nil
}

// covers reports whether a snapshot was taken of a directory, or of one that it lies in.
func covers(tree *snapshot.Tree, dir string) bool {
	return dir == "" || slices.ContainsFunc(tree.Table.Sources, func(s manifest.Source) bool {
		return len(s.Command) == 0 && manifest.Within(manifest.EntryPath(dir), manifest.EntryPath(s.Path))
	})
}

// prove returns why a snapshot may go live. Where it is not known-good, its drill must pass
// here.
func (w *switching) prove(ctx context.Context, s *history.Snapshot) (string, error) {
	policy, err := w.sess.Policy(s.Host, s.Environment)
	if err != nil {
		return "", err
	}
	proven, err := w.repo.Judge(ctx, s.Host, s.Environment, policy, time.Now())
	if err != nil {
		return "", err
	}
	why := "it is not among the snapshots that are kept"
	for _, j := range proven.Verdict.Snapshots {
		if j.Number != s.Number || j.ID != s.ID {
			continue
		}
		if j.Reason == "" { // these words are kept, so they have the time, and no age
			proof := fmt.Sprintf("known-good: %v %s on %s", j.Proof.Level, human.Time(j.Proof.Stored), printable.Name(j.Proof.Machine))
			if j.Proof.SelfAttested {
				proof += ", self-attested"
			}
			return proof, nil
		}
		if why = j.Reason; j.Bad {
			return "", fmt.Errorf("%s does not go live: %s (knowngood attest bad %[1]s --undo takes that back)", s.Ref(), printable.Line(why))
		}
	}
	if w.Unproven {
		return "unproven", nil
	}
	if w.sess.IdentityPath == "" {
		return "", usage.Errorf("%s is not known-good: %s; and this host cannot drill it without an identity. --unproven goes on with only the probes after the switch", s.Ref(), printable.Line(why))
	}
	return w.drill(ctx, s, policy, why)
}

func (w *switching) drill(ctx context.Context, s *history.Snapshot, policy attest.Policy, why string) (string, error) {
	w.sess.Out.Notef("%s is not known-good (%s): it is drilled first", s.Ref(), printable.Line(why))
	entry := &configs.DrillEntry{Drill: *cmp.Or(w.env.Drill, &configs.Drill{Snapshot: "latest"})}
	var rep *drill.Report
	var unsigned, err error
	if s.Host == w.sess.OwnHost() && s.Environment == w.name {
		rep, unsigned, err = drills.Signed(ctx, w.sess, w.repo, s, entry)
	} else { // these probes may be too few, or too many, for where it comes from
		unsigned = fmt.Errorf("it is of %s/%s, and was asked what %s is asked", s.Host, s.Environment, w.name)
		rep, err = drills.Unsigned(ctx, w.sess, s, entry, "")
	}
	if err != nil {
		return "", err
	}
	signed := "signed"
	if unsigned != nil {
		signed = "not signed"
		w.sess.Out.Messagef("the result of the drill is not signed, so it does not count later: %s", printable.Error(unsigned))
	}
	r := &rep.Result
	if r.Passed && r.Level >= policy.Require && len(drill.Untested(r)) == 0 {
		return fmt.Sprintf("its drill passed here: %v, %s", r.Level, signed), nil
	}
	what := fmt.Sprintf("level %v, and %v is required", r.Level, policy.Require)
	for i, p := range r.Probes {
		if p.Required && p.Status != attest.Passed {
			what = fmt.Sprintf("probe %s: %s (%s)", p.Name, p.Status, cmp.Or(p.Cause, rep.Answers[i].Detail))
			break
		}
	}
	err = fmt.Errorf("%s does not go live: its drill did not prove it: %s. Drill it by itself (knowngood drill %[1]s), or give --unproven", s.Ref(), printable.Line(what))
	switch {
	case len(rep.Damage) > 0:
		err = errors.Join(err, rep.Damage[0])
	case !r.Passed:
		err = errors.Join(err, generation.ErrProbe)
	}
	return "", err
}

// fromDirectory is the build of a directory: copied, captured, and named by its snapshot.
func (w *switching) fromDirectory() (*generation.Build, error) {
	from, err := w.directory()
	if err != nil {
		return nil, err
	}
	if err := w.provable(w.From); err != nil {
		return nil, err
	}
	b := &generation.Build{Origin: generation.Origin{From: from, Way: "copied"}, Fill: generation.Copy(from, w.env.Carried())}
	w.named(b)
	return b, nil
}

// directory is that of --from, free of links.
func (w *switching) directory() (string, error) {
	from, err := filepath.Abs(w.From)
	if err == nil {
		from, err = filepath.EvalSymlinks(from)
	}
	if err == nil {
		var info os.FileInfo
		if info, err = os.Stat(from); err == nil && !info.IsDir() {
			err = fmt.Errorf("%s: %w", w.From, unix.ENOTDIR)
		}
	}
	if err != nil {
		return "", usage.Errorf("--from: %w", err)
	}
	if owner := live.Owner(from); owner != "" {
		return "", usage.Errorf("--from %s lies in the generations of %s: name a directory that was built elsewhere", w.From, owner)
	}
	return from, nil
}

// provable refuses what could only go live unproven, unless that is wanted.
func (w *switching) provable(what string) error {
	if w.Unproven || w.sess.IdentityPath != "" {
		return nil
	}
	return usage.Errorf("nothing proves what is in %s, and this host cannot drill it without an identity: --unproven goes on with only the probes after the switch", what)
}

// named has a snapshot taken of what was built, which names it.
func (w *switching) named(b *generation.Build) {
	b.Name = func(ctx context.Context, dir string) error {
		s, err := w.capture(ctx, dir)
		if err != nil {
			return err
		}
		w.made = s
		b.Number, b.ID, b.Snapshot, b.Origin.ID, b.Proof = s.Number, s.ID, s.Ref(), fmt.Sprintf("%x", s.ID), "unproven"
		if w.Unproven {
			return nil
		}
		if w.repo, err = w.sess.OpenForReading(ctx); err != nil {
			return err
		}
		b.Proof, err = w.prove(ctx, s)
		return err
	}
}

// markBad marks the snapshot of what was built, and went back, as bad: by the owner where an
// identity is at hand, else by an attest key, else by the host, whose mark is only shown.
func (w *switching) markBad(ctx context.Context, why string) {
	marked := []statement.Marked{{Number: w.made.Number, ID: w.made.ID, Bad: true}}
	if _, err := w.repo.Attest.Mark(ctx, w.made.Host, w.name, marked, report.Shorten("it was live, and went back: "+why, report.MaxError), time.Now()); err != nil {
		w.sess.Out.Messagef("%s went back and is not marked bad (knowngood attest bad %[1]s --reason TEXT): %s", w.made.Ref(), printable.Error(err))
	}
}

// capture takes a snapshot of the environment, with a directory as its root.
func (w *switching) capture(ctx context.Context, dir string) (*history.Snapshot, error) {
	result, err := take.Environment(ctx, w.sess, w.name, w.env, &take.Options{}, func(o *snapshot.Options) {
		for i := range o.Sources {
			if o.Sources[i].Path == w.env.Root {
				o.Sources[i].At = dir
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("the snapshot of what was built: %w", err)
	}
	return result.Snapshot, nil
}

// probes asks the live service.
func (w *switching) probes(ctx context.Context) error {
	if w.env.Drill == nil {
		return nil
	}
	return askLive(ctx, w.env.Drill.Probes)
}

// askLive asks probes of this machine. A required one that cannot be asked of it is not
// counted; one whose program or user is missing fails.
func askLive(ctx context.Context, probes []configs.Probe) error {
	for i := range probes {
		p := &probes[i]
		a := probe.Live(ctx, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		missing := a.Status == attest.NotTested && (a.Cause == probe.NoProgram || a.Cause == probe.NoUser || a.Cause == probe.NoRun)
		if *p.Required && (a.Status == attest.Failed || missing) {
			return fmt.Errorf("probe %s failed: %s", p.Name, strings.TrimSpace(printable.Line(cmp.Or(a.Cause, a.Detail))))
		}
	}
	return nil
}

// asked are the probes that can be asked of a live service.
func (w *switching) asked() []string {
	if w.env.Drill == nil {
		return nil
	}
	return names(configs.LiveProbes(w.env.Drill.Probes))
}

func names(probes []configs.Probe) (names []string) {
	for _, p := range probes {
		names = append(names, p.Name)
	}
	return names
}
