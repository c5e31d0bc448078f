package generations

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/proof"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/report"
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
	if ref == "" && (f.Count != 0 || f.Overlay) {
		return usage.Errorf("of which snapshot? Name one, such as web@known-good")
	}
	if ref == "" && f.Remove {
		return removeInstances(ctx, sess, o)
	}
	if ref == "" {
		return listInstances(sess, dir)
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
	now := set.View()
	if now.Current != nil && now.Current.Name != t.Name {
		return usage.Errorf("the instances in %s are of %s: remove them first (--remove), or choose another directory", dir, now.Current.Snapshot)
	}
	if f.Count < len(now.Instances) {
		return usage.Errorf("%s has %s, and spawn takes none away: --remove removes all", dir, human.Counted(len(now.Instances), "instance"))
	}
	if t, err = set.Tree(ctx, t, w.filled(s)); err != nil {
		return err
	}
	if _, err := set.Spawn(ctx, t, f.Count); err != nil {
		return err
	}
	return printInstances(sess, set.View(), began, len(now.Instances), nil)
}

func removeInstances(ctx context.Context, sess *session.Session, o *instance.Options) error {
	set, err := instance.Open(ctx, o, false)
	if err != nil {
		return err
	}
	defer set.Close()
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
		w.sess.Out.Notef("%s is being restored once, into %s", s.Ref(), dir)
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

// printInstances prints the instances of a directory, with what else is known as JSON. Nothing
// began where they are only listed.
func printInstances(sess *session.Session, v *instance.View, began time.Time, before int, more map[string]any) error {
	result := map[string]any{"type": "result", "environment": v.Environment, "directory": v.Dir, "tree": v.Current, "previous": v.Previous, "instances": v.Instances, "ready": v.Ready, "not_probed": v.NotProbed, "failed": v.Failed, "busy": v.Busy, "problem": v.Problem}
	maps.Copy(result, more)
	if !v.CheckedAt.IsZero() {
		result["checked_at"] = v.CheckedAt
	}
	if began.IsZero() {
		result["wanted"] = v.Wanted
	} else {
		result["before"], result["seconds"] = before, time.Since(began).Seconds()
	}
	if sess.Out.JSON {
		return sess.Out.Result(result)
	}
	out := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	if len(v.Instances) > 0 {
		fmt.Fprintln(out, "INSTANCE\tSTATE\tTREE\tWAY\tMADE\tPROBES\tREASON")
	}
	for _, in := range v.Instances {
		probed := "-"
		if !in.Probed.IsZero() {
			probed = "passed " + in.Probed.Local().Format(time.DateTime)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable.Name(filepath.Join(v.Dir, strconv.Itoa(in.Number))), in.Status, in.Tree, in.Way, in.Made.Local().Format(time.DateTime), probed, printable.Line(in.Why))
	}
	out.Flush()
	text := human.Counted(len(v.Instances), "instance") + ", and no snapshot yet to make them of"
	if v.Current != nil {
		text = human.Counted(len(v.Instances), "instance") + " of " + v.Current.Snapshot
	}
	if _, scaled := more["wanted"]; scaled && v.NotProbed == 0 || v.Ready+v.Failed > 0 {
		text += fmt.Sprintf(", %d ready", v.Ready)
	}
	if v.NotProbed > 0 {
		text += fmt.Sprintf(", %d not probed", v.NotProbed)
	}
	if v.Failed > 0 {
		text += fmt.Sprintf(", %d failed", v.Failed)
	}
	if began.IsZero() && !v.CheckedAt.IsZero() {
		text += ", checked " + report.Span(max(0, time.Since(v.CheckedAt))) + " ago"
	} else if !began.IsZero() {
		text += fmt.Sprintf(" (before: %d), after %s", before, human.Duration(time.Since(began)))
	}
	sess.Out.Printf("%s\n", text)
	if v.Busy && began.IsZero() {
		sess.Out.Printf("another process is changing them now\n")
	}
	if v.Problem != "" {
		sess.Out.Printf("the last switch had a problem when it went back, which is not tried again: %s\n", printable.Line(v.Problem))
	}
	return nil
}
