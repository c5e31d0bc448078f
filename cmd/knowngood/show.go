package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"knowngood/snapshot"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

func showCommand(a *app) *cobra.Command {
	var problems bool
	cmd := &cobra.Command{
		Use:   "show REF",
		Short: "Show what is known of a snapshot",
		Long: `Show what is known of a snapshot: when, by whom, how much, how it is verified.
With an identity also its sources with their rules, and with --problems what
could not be captured as it should.
One that is forgotten says so, and whether it can still be restored.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), args[0], problems) },
	}
	cmd.Flags().BoolVar(&problems, "problems", false, "list what could not be captured as it should")
	return cmd
}

func (a *app) show(ctx context.Context, text string, problems bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	ref, _, err := repository.ParseRef(text)
	if err != nil {
		return &usageError{err}
	}
	s, err := r.Resolve(ctx, ref, a.host)
	pruned := errors.Is(err, repository.ErrPruned) && s != nil
	if err != nil && !pruned {
		return err
	}
	forgotten := pruned
	if !pruned {
		if forgotten, err = isForgotten(ctx, r, s); err != nil {
			return err
		}
	}
	var tree *snapshot.Tree
	if r.Unlocked() && s.Body != nil && !pruned {
		if tree, err = snapshot.OpenTree(ctx, r, s); err != nil {
			return err
		}
		defer tree.Reader.Close()
	}
	previous := ""
	if s.Root.Previous != [32]byte{} {
		previous = fmt.Sprintf("%x", s.Root.Previous)
	}
	if a.json {
		j := toJSON(s)
		j.Forgotten = forgotten
		out := map[string]any{"type": "result", "snapshot": j, "previous": previous, "pruned": pruned, "trusted_on_first_use": r.TrustedOnFirstUse()}
		if tree != nil {
			out["sources"], out["problem_list"] = sourcesJSON(tree.Table.Sources), problemsJSON(tree.Table.Problems)
		}
		return a.result(out)
	}
	a.printf("snapshot    %s of host %s\nid          %x\nprevious    %s\ntrust       %s\n", s.Ref(), s.Host, s.ID, cmp.Or(previous, "none, it is the first"), a.trust())
	switch {
	case pruned:
		a.printf("forgotten   yes, and its content deleted: it cannot be restored\n")
	case forgotten:
		a.printf("forgotten   yes, not yet deleted: knowngood forget --undo %s/%s takes it back\n", s.Host, s.Ref())
	}
	b := s.Body
	if b == nil {
		a.printf("contents    sealed: give --identity FILE to see more\n")
		return nil
	}
	a.printf("started     %s\nfinished    %s (%s)\nstatus      %s\n", b.Started.Local().Format(time.RFC3339), b.Finished.Local().Format(time.RFC3339), duration(b.Finished.Sub(b.Started)), b.Status)
	a.printf("content     %s, %s, %s\nnew         %s, stored as %s\nprogram     %s\n", counted(b.Files, "file"), counted(b.Directories, "directory"), bytesText(b.ContentBytes), bytesText(b.NewContentBytes), bytesText(b.StoredBytes), printable(b.Version))
	if !b.ProtectedUntil.IsZero() {
		a.printf("protected   until %s, by the locks of all that it needs\n", b.ProtectedUntil.Local().Format(time.RFC3339))
	}
	for _, t := range b.Tags {
		a.printf("tag         %s\n", printable(t))
	}
	if tree == nil {
		if b.Status == statement.Partial && !pruned {
			a.printf("problems    %d (give --identity FILE to see which)\n", b.Problems)
		}
		return nil
	}
	for i := range tree.Table.Sources {
		for _, line := range ruleLines(&tree.Table.Sources[i]) {
			a.printf("%-11s %s\n", line[0], line[1])
		}
	}
	listed := uint64(len(tree.Table.Problems))
	if !problems {
		if listed > 0 {
			a.printf("problems    %s (knowngood show --problems %s lists %s)\n", count(b.Problems), s.Ref(), count(listed))
		}
		return nil
	}
	for _, p := range tree.Table.Problems {
		a.printf("problem     %s: %s\n", printable("/"+p.Path), printable(p.Reason))
	}
	if listed < b.Problems {
		a.printf("problems    %s, of which the snapshot has the paths of %s\n", count(b.Problems), count(listed))
	}
	return nil
}

// isForgotten tells whether a snapshot is forgotten, which the newest never is.
func isForgotten(ctx context.Context, r *repository.Repository, s *repository.Snapshot) (bool, error) {
	x, err := r.Tombstone(ctx, s.Host, s.Environment)
	if err != nil || x == nil || !x.Forgotten.Has(s.Number) {
		return false, err
	}
	head, err := r.Head(ctx, s.Host, s.Environment)
	if repository.Damaged(err) {
		return true, nil
	}
	return err == nil && head.Number != s.Number, err
}
