package main

import (
	"context"
	"fmt"
	"strings"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/storage/history"
)

// warnOfSuspect prints that a snapshot to be restored is suspect, and which one is
// good.
func warnOfSuspect(ctx context.Context, sess *session.Session, s *history.Snapshot, paths []string) {
	suspect, err := sess.Repo.Suspect(ctx, s)
	if err != nil || !suspect {
		return // a warning must not stop a restore
	}
	for _, why := range snapshot.Reasons(s, paths) {
		sess.Out.Messagef("warning: %s is SUSPECT: %s", s.Ref(), printable.Name(why))
	}
	good, err := sess.Repo.NewestGood(ctx, s.Host, s.Environment)
	switch {
	case err != nil:
		sess.Out.Messagef("warning: which one before it is good is not known: %v", err)
	case good == nil:
		sess.Out.Messagef("warning: no snapshot of %s that is kept is good", s.Environment)
	default:
		sess.Out.Messagef("warning: the newest good one is %s/%s, of %s", s.Host, good.Ref(), human.Time(good.Body.Started))
	}
}

// refuseDeletion refuses to delete what a suspect snapshot lacks, unless the
// reference names that very snapshot: it is the source that collapsed, and what is
// there may be all that is left. text is the reference as it was given.
func refuseDeletion(ctx context.Context, sess *session.Session, t *snapshot.Tree, f *restoreFlags, text string) error {
	s := t.Snapshot
	ref, sub, err := sess.Ref(text)
	byID := ref.ID != "" && ref.Environment != s.Environment
	if err != nil || byID || ref.Selector == history.ByNumber {
		return err
	}
	suspect, err := sess.Repo.Suspect(ctx, s)
	if err != nil {
		return fmt.Errorf("whether %s is suspect is not known, so nothing is deleted: %w", s.Ref(), err)
	}
	if !suspect {
		return nil
	}

	command := func(ref string) string {
		ref = s.Host + "/" + ref
		if sub != "" {
			ref += ":/" + sub
		}
		argv := []string{"knowngood", "restore", ref, "--in-place", "--delete"}
		if f.target != "" {
			argv = append(argv, "--target", f.target)
		}
		return printable.Command(argv)
	}
	next := "no snapshot of " + s.Environment + " that is kept is good"
	good, err := sess.Repo.NewestGood(ctx, s.Host, s.Environment)
	switch {
	case err != nil:
		next = fmt.Sprintf("which one is good is not known: %v", err)
	case good != nil:
		next = fmt.Sprintf("the newest good one is %s, of %s: %s", good.Ref(), human.Time(good.Body.Started), command(good.Ref()))
	}
	return usage.Errorf("--delete: %s is SUSPECT: %s. Nothing was changed, because what it lacks would be deleted.\n  %s\n  To delete for the suspect one all the same, name it: %s",
		s.Ref(), printable.Name(strings.Join(snapshot.Reasons(s, session.SourcePaths(t)), "; ")), next, command(s.Ref()))
}
