package generations

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/proof"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/internal/printable"
	"knowngood/restore/instance"
	"knowngood/snapshot/manifest"
	"knowngood/storage/history"
)

// SpawnOptions are the flags of spawn.
type SpawnOptions struct {
	Dir             string
	Count           int
	Overlay, Remove bool
}

// Spawn makes equal trees of a snapshot, or shows or removes what a directory has.
func Spawn(ctx context.Context, sess *session.Session, f *SpawnOptions, ref string) error {
	began := time.Now()
	if f.Dir == "" {
		return usage.Errorf("where to? Give --dir DIR, a directory of their own")
	}
	dir, err := filepath.Abs(f.Dir)
	if err != nil {
		return err
	}
	o := &instance.Options{Dir: dir, Overlay: f.Overlay, Now: time.Now, Note: noteOn(sess)}
	if ref == "" {
		return shown(ctx, sess, o, f, began)
	}
	if f.Remove || f.Count < 1 {
		return usage.Errorf("give --count N with a reference, from 1 on; --remove goes without one")
	}

	w := &switching{SwitchOptions: &SwitchOptions{}, sess: sess}
	if w.repo, err = sess.OpenForReading(ctx); err != nil {
		return err
	}
	s, under, err := sess.Resolve(ctx, w.repo, ref)
	if err == nil {
		err = proof.BeforeRestore(ctx, sess, s, false)
	}
	if err != nil {
		return err
	}
	o.Environment, w.env = s.Environment, &configs.Environment{Root: "/" + under}
	if env := sess.Config.Environments[s.Environment]; under == "" && env != nil {
		w.env.Root = env.Root
	}
	set, err := instance.Open(ctx, o, true)
	if err != nil {
		return err
	}
	defer set.Close()
	t := treeOf(s, w.env.Root)
	if now := set.View().Current; now != nil && now.Name != t.Name {
		return usage.Errorf("the instances in %s are of %s: remove them first (--remove), or choose another directory", dir, now.Snapshot)
	}
	if t, err = set.Tree(ctx, t, w.filled(s)); err != nil {
		return err
	}
	before := len(set.View().Instances)
	if _, err := set.Spawn(ctx, t, f.Count); err != nil {
		return err
	}
	return printInstances(sess, set, began, before, nil)
}

// shown prints what there is, or removes it.
func shown(ctx context.Context, sess *session.Session, o *instance.Options, f *SpawnOptions, began time.Time) error {
	if f.Count != 0 || f.Overlay {
		return usage.Errorf("of which snapshot? Name one, such as web@known-good")
	}
	set, err := instance.Open(ctx, o, false)
	if err != nil {
		return err
	}
	defer set.Close()
	if !f.Remove {
		return printInstances(sess, set, began, len(set.View().Instances), nil)
	}
	n := len(set.View().Instances)
	if err := set.Remove(); err != nil {
		return err
	}
	sess.Out.Printf("%s in %s removed\n", human.Counted(n, "instance"), o.Dir)
	return sess.Out.Result(map[string]any{"type": "result", "directory": o.Dir, "removed": n})
}

// treeOf describes the tree of a snapshot, or of a directory of it.
func treeOf(s *history.Snapshot, root string) *instance.Tree {
	under := manifest.EntryPath("/" + root)
	return &instance.Tree{Name: instance.TreeName(s.Number, s.ID, under), Snapshot: s.Ref(), ID: fmt.Sprintf("%x", s.ID), Under: under}
}

// filled makes a directory hold the root of a snapshot, or all of it.
func (w *switching) filled(s *history.Snapshot) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		w.sess.Out.Notef("%s is restored and verified once, into %s", s.Ref(), dir)
		if err := w.restore(ctx, s, dir, false); err != nil {
			return err
		}
		if manifest.EntryPath("/"+w.env.Root) == "" { // which no snapshot describes
			return os.Chmod(dir, 0o755)
		}
		return nil
	}
}

func noteOn(sess *session.Session) func(string, ...any) {
	return func(format string, args ...any) {
		sess.Out.Messagef("%s", printable.Line(fmt.Sprintf(format, args...)))
	}
}

// printInstances prints the instances of a directory, with what else is known as JSON.
func printInstances(sess *session.Session, set *instance.Set, began time.Time, before int, more map[string]any) error {
	v := set.View()
	result := map[string]any{"type": "result", "directory": v.Dir, "tree": v.Current, "instances": v.Instances, "ready": v.Ready, "before": before, "problem": v.Problem, "seconds": time.Since(began).Seconds()}
	for key, value := range more {
		result[key] = value
	}
	if sess.Out.JSON {
		return sess.Out.Result(result)
	}
	out := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	for _, in := range v.Instances {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", printable.Name(set.Path(in)), in.Status, in.Tree, in.Way, in.Made.Local().Format(time.DateTime))
	}
	out.Flush()
	of, ready := "no snapshot", ""
	if v.Current != nil {
		of = v.Current.Snapshot
	}
	if set.Config != nil {
		ready = fmt.Sprintf(", %d ready", v.Ready)
	}
	if set.Config != nil || before != len(v.Instances) { // no listing
		ready += fmt.Sprintf(" (before: %d), after %s", before, human.Duration(time.Since(began)))
	}
	sess.Out.Printf("%s of %s%s\n", human.Counted(len(v.Instances), "instance"), of, ready)
	if v.Problem != "" {
		sess.Out.Printf("the last switch had a problem when it went back, which is not tried again: %s\n", printable.Line(v.Problem))
	}
	return nil
}
