package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

func showCommand(a *app) *cobra.Command {
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
		ValidArgsFunction: a.completeRefs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), args[0], problems) },
	}
	cmd.Flags().BoolVar(&problems, "problems", false, "list what could not be captured as it should")
	return cmd
}

func (a *app) show(ctx context.Context, text string, problems bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	ref, _, err := a.ref(text)
	if err != nil {
		return err
	}
	s, err := r.Resolve(ctx, ref, a.host)
	pruned := errors.Is(err, history.ErrPruned) && s != nil
	if err != nil && !pruned {
		return err
	}
	forgotten, reason, err := isForgotten(ctx, r, s)
	if err != nil {
		return err
	}
	stored, err := storedAt(ctx, r, s)
	if err != nil {
		return err
	}
	suspect, err := r.Suspect(ctx, s)
	if err != nil {
		return err
	}
	var tree *snapshot.Tree
	if r.Unlocked() && s.Body != nil && !pruned {
		if tree, err = snapshot.OpenTree(ctx, r, s); err != nil {
			return err
		}
		defer tree.Reader.Close()
	}
	var reasons []string
	if tree != nil {
		reasons = snapshot.Reasons(s, pathsIn(tree))
	} else {
		reasons = a.reasonsOf(ctx, r, s)
	}
	previous := ""
	if s.Root.Previous != [32]byte{} {
		previous = fmt.Sprintf("%x", s.Root.Previous)
	}
	if a.out.JSON {
		j := a.toJSON(s)
		if j.Forgotten, j.Reason, j.Stored = forgotten, reason, stored; suspect {
			j.Status = "suspect"
		}
		out := map[string]any{"type": "result", "snapshot": j, "previous": previous, "pruned": pruned, "trusted_on_first_use": r.TrustedOnFirstUse()}
		if len(reasons) > 0 {
			out["suspect"], out["accepted"] = reasons, !suspect
		}
		if tree != nil {
			out["sources"], out["problem_list"] = sourcesJSON(tree.Table.Sources), console.ProblemsJSON(tree.Table.Problems)
		}
		return a.out.Result(out)
	}
	a.out.Printf("snapshot    %s of host %s\nid          %x\nprevious    %s\ntrust       %s\n", s.Ref(), s.Host, s.ID, cmp.Or(previous, "none, it is the first"), a.trust())
	switch {
	case pruned:
		a.out.Printf("forgotten   yes, and its content deleted: it cannot be restored\n")
	case forgotten:
		a.out.Printf("forgotten   yes, not yet deleted: knowngood forget --undo %s/%s takes it back\n", s.Host, s.Ref())
	}
	if reason != "" {
		a.out.Printf("reason      %s\n", printable.Name(reason))
	}
	b := s.Body
	if b == nil {
		a.out.Printf("stored      %s, by the clock of the store\ncontents    sealed: give --identity FILE to see more\n", stored.Local().Format(time.RFC3339))
		return nil
	}
	status := b.Status.String()
	if suspect {
		status = "suspect, " + status
	}
	a.out.Printf("started     %s\nfinished    %s (%s)\nstatus      %s\n", b.Started.Local().Format(time.RFC3339), b.Finished.Local().Format(time.RFC3339), human.Duration(b.Finished.Sub(b.Started)), status)
	for _, why := range reasons {
		if suspect {
			a.out.Printf("suspect     %s: knowngood accept %s, where it is meant to be so\n", printable.Name(why), s.Ref())
		} else {
			a.out.Printf("accepted    %s\n", printable.Name(why))
		}
	}
	a.out.Printf("content     %s, %s, %s\nnew         %s, stored as %s\nprogram     %s\n", human.Counted(b.Files, "file"), human.Counted(b.Directories, "directory"), human.Bytes(b.ContentBytes), human.Bytes(b.NewContentBytes), human.Bytes(b.StoredBytes), printable.Name(b.Version))
	if until := r.ClaimedProtection(b); !until.IsZero() {
		a.out.Printf("protected   the host says: until %s, by the locks of all that it needs\n", until.Local().Format(time.RFC3339))
	}
	for _, t := range b.Tags {
		a.out.Printf("tag         %s\n", printable.Name(t))
	}
	if tree == nil {
		if b.Status == statement.Partial && !pruned {
			a.out.Printf("problems    %d (give --identity FILE to see which)\n", b.Problems)
		}
		return nil
	}
	for i := range tree.Table.Sources {
		for _, line := range ruleLines(&tree.Table.Sources[i]) {
			a.out.Printf("%-11s %s\n", line[0], line[1])
		}
	}
	listed := uint64(len(tree.Table.Problems))
	if !problems {
		if listed > 0 {
			a.out.Printf("problems    %s (knowngood show --problems %s lists %s)\n", human.Count(b.Problems), s.Ref(), human.Count(listed))
		}
		return nil
	}
	for _, p := range tree.Table.Problems {
		a.out.Printf("problem     %s: %s\n", printable.Name("/"+p.Path), printable.Name(p.Reason))
	}
	if listed < b.Problems {
		a.out.Printf("problems    %s, of which the snapshot has the paths of %s\n", human.Count(b.Problems), human.Count(listed))
	}
	return nil
}

// isForgotten reports whether a snapshot is forgotten, which the newest never
// is, and why.
func isForgotten(ctx context.Context, r *repository.Repository, s *history.Snapshot) (forgotten bool, reason string, err error) {
	x, err := r.Tombstone(ctx, s.Host, s.Environment)
	if err != nil || x == nil || !x.Forgotten.Has(s.Number) {
		return false, "", err
	}
	head, err := r.Head(ctx, s.Host, s.Environment)
	switch {
	case err == nil && head.Number == s.Number:
		return false, "", nil
	case err != nil && !authentic.Damaged(err):
		return false, "", err
	}
	return true, x.ReasonOf(s.Number), nil
}

// storedAt is when the store took a snapshot that is sealed; zero for others,
// which tell their time themselves.
func storedAt(ctx context.Context, r *repository.Repository, s *history.Snapshot) (time.Time, error) {
	if s.Body != nil {
		return time.Time{}, nil
	}
	at, err := r.Written(ctx, s.Host, s.Environment)
	return at[s.Number].UTC(), err
}
