package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/storage/history"
	"knowngood/storage/statement"
)

func showCommand(sess *session.Session) *cobra.Command {
	var problems bool
	cmd := &cobra.Command{
		Use:   "show REF",
		Short: "Show what is known of a snapshot",
		Long: `Show what is known of a snapshot: when and by which host it was taken, how much it
holds, and how it is verified. With an identity also its sources with their
rules, and with --problems what could not be captured as it should.

A snapshot that is forgotten is marked, with the reason that was given, and with
whether it can still be restored.`,
		Example: `  knowngood show web@latest
  knowngood show web@42 --problems --identity ~/knowngood.identity
  knowngood show web-7/web@2026-11-20T10:00 --json`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE:              func(cmd *cobra.Command, args []string) error { return show(cmd.Context(), sess, args[0], problems) },
	}
	cmd.Flags().BoolVar(&problems, "problems", false, "list what could not be captured as it should")
	return cmd
}

func show(ctx context.Context, sess *session.Session, text string, problems bool) error {
	r, err := sess.Open(ctx)
	if err != nil {
		return err
	}
	ref, _, err := sess.Ref(text)
	if err != nil {
		return err
	}
	s, err := r.Resolve(ctx, ref, sess.Host)
	pruned := errors.Is(err, history.ErrPruned) && s != nil
	if err != nil && !pruned {
		return err
	}
	forgotten, reason, err := catalog.Forgotten(ctx, r, s)
	if err != nil {
		return err
	}
	stored, err := catalog.StoredAt(ctx, r, s)
	if err != nil {
		return err
	}
	suspect, err := r.Suspect(ctx, s)
	if err != nil {
		return err
	}
	proofs, err := catalog.Proofs(ctx, sess, r, []catalog.Snapshot{{Snapshot: s, Forgotten: forgotten || pruned}})
	if err != nil {
		return err
	}
	proof, judged := proofs[s]
	var tree *snapshot.Tree
	if r.Unlocked() && s.Body != nil && !pruned {
		if tree, err = snapshot.OpenTree(ctx, r, s); err != nil {
			return err
		}
		defer tree.Reader.Close()
	}
	var reasons []string
	if tree != nil {
		reasons = snapshot.Reasons(s, session.SourcePaths(tree))
	} else {
		reasons = sess.Reasons(ctx, r, s)
	}
	previous := ""
	if s.Root.Previous != [32]byte{} {
		previous = fmt.Sprintf("%x", s.Root.Previous)
	}
	if sess.Out.JSON {
		j := present.Snapshot(sess.Repo, s)
		if j.Forgotten, j.Reason, j.Stored = forgotten, reason, stored; suspect {
			j.Status = "suspect"
		}
		if judged {
			j.Prove(proof)
		}
		out := map[string]any{"type": "result", "snapshot": j, "previous": previous, "pruned": pruned}
		_, out["trusted_on_first_use"] = r.TrustedOnFirstUse()
		if len(reasons) > 0 {
			out["suspect"], out["accepted"] = reasons, !suspect
		}
		if tree != nil {
			out["sources"], out["problem_list"] = present.SourcesJSON(tree.Table.Sources), console.ProblemsJSON(tree.Table.Problems)
		}
		return sess.Out.Result(out)
	}
	sess.Out.Printf("snapshot    %s of host %s\nid          %x\nprevious    %s\ntrust       %s\n", s.Ref(), s.Host, s.ID, cmp.Or(previous, "none, it is the first"), present.Trust(r))
	switch {
	case pruned:
		sess.Out.Printf("forgotten   yes, and its content deleted: it cannot be restored\n")
	case forgotten:
		sess.Out.Printf("forgotten   yes, not yet deleted: knowngood forget --undo %s/%s takes it back\n", s.Host, s.Ref())
	}
	if reason != "" {
		sess.Out.Printf("reason      %s\n", printable.Name(reason))
	}
	if judged {
		sess.Out.Printf("known-good  %s\n", present.KnownGood(proof))
	}
	if proof.HostBad {
		sess.Out.Printf("marked bad  by its own host, which changes nothing: %s\n", printable.Name(proof.HostReason))
	}
	b := s.Body
	if b == nil {
		sess.Out.Printf("stored      %s, by the clock of the store\ncontents    sealed: give --identity FILE to see more\n", stored.Local().Format(time.RFC3339))
		return nil
	}
	status := b.Status.String()
	if suspect {
		status = "suspect, " + status
	}
	sess.Out.Printf("started     %s\nfinished    %s (%s)\nstatus      %s\n", b.Started.Local().Format(time.RFC3339), b.Finished.Local().Format(time.RFC3339), human.Duration(b.Finished.Sub(b.Started)), status)
	for _, why := range reasons {
		if suspect {
			sess.Out.Printf("suspect     %s: knowngood accept %s, where it is meant to be so\n", printable.Name(why), s.Ref())
		} else {
			sess.Out.Printf("accepted    %s\n", printable.Name(why))
		}
	}
	sess.Out.Printf("content     %s, %s, %s\nnew         %s, stored as %s\nprogram     %s\n", human.Counted(b.Files, "file"), human.Counted(b.Directories, "directory"), human.Bytes(b.ContentBytes), human.Bytes(b.NewContentBytes), human.Bytes(b.StoredBytes), printable.Name(b.Version))
	if until := r.ClaimedProtection(b); !until.IsZero() {
		sess.Out.Printf("protected   until %s, as the host claims: all that it needs is locked\n", until.Local().Format(time.RFC3339))
	}
	for _, t := range b.Tags {
		sess.Out.Printf("tag         %s\n", printable.Name(t))
	}
	if tree == nil {
		if b.Status == statement.Partial && !pruned {
			sess.Out.Printf("problems    %d (give --identity FILE to see which)\n", b.Problems)
		}
		return nil
	}
	for i := range tree.Table.Sources {
		for _, line := range present.RuleLines(&tree.Table.Sources[i]) {
			sess.Out.Printf("%-11s %s\n", line[0], line[1])
		}
	}
	listed := uint64(len(tree.Table.Problems))
	if !problems {
		if listed > 0 {
			sess.Out.Printf("problems    %s (knowngood show --problems %s lists %s)\n", human.Count(b.Problems), s.Ref(), human.Count(listed))
		}
		return nil
	}
	for _, p := range tree.Table.Problems {
		sess.Out.Printf("problem     %s: %s\n", printable.Name("/"+p.Path), printable.Name(p.Reason))
	}
	if listed < b.Problems {
		sess.Out.Printf("problems    %s, of which the snapshot has the paths of %s\n", human.Count(b.Problems), human.Count(listed))
	}
	return nil
}
