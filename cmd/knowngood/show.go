package main

import (
	"time"

	"github.com/spf13/cobra"

	"knowngood/snapshot"
	"knowngood/storage/statement"
)

func showCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show REF",
		Short: "Show what is known of a snapshot",
		Long: `Show what is known of a snapshot: when, by whom, how much, how it is verified.
With an identity also its sources, and what could not be captured as it should.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			s, _, err := a.resolve(ctx, r, args[0])
			if err != nil {
				return err
			}
			var tree *snapshot.Tree
			if r.Unlocked() && s.Body != nil {
				if tree, err = snapshot.OpenTree(ctx, r, s); err != nil {
					return err
				}
				defer tree.Reader.Close()
			}
			if a.json {
				out := map[string]any{"type": "result", "snapshot": toJSON(s)}
				if tree != nil {
					problems := []problemJSON{}
					for _, p := range tree.Table.Problems {
						problems = append(problems, problemJSON{"/" + p.Path, p.Reason})
					}
					out["sources"], out["exclusions"], out["problem_list"] = listed(tree.Table.Sources), listed(tree.Table.Exclusions), problems
				}
				return a.result(out)
			}
			trust := "signature verified; repository pinned"
			if r.TrustedOnFirstUse() {
				trust = "signature verified; repository trusted on first use"
			}
			a.printf("snapshot    %s of host %s\nid          %x\nprevious    %x\ntrust       %s\n", s.Ref(), s.Host, s.ID, s.Root.Previous, trust)
			b := s.Body
			if b == nil {
				a.printf("contents    sealed: give --identity FILE to see more\n")
				return nil
			}
			a.printf("started     %s\nfinished    %s (%s)\nstatus      %s\n", b.Started.Local().Format(time.RFC3339), b.Finished.Local().Format(time.RFC3339), duration(b.Finished.Sub(b.Started)), b.Status)
			a.printf("content     %s files, %s directories, %s\nnew         %s, stored as %s\nprogram     %s\n", count(b.Files), count(b.Directories), bytesText(b.ContentBytes), bytesText(b.NewContentBytes), bytesText(b.StoredBytes), b.Version)
			for _, t := range b.Tags {
				a.printf("tag         %s\n", t)
			}
			if tree == nil {
				if b.Status == statement.Partial {
					a.printf("problems    %d (give --identity FILE to see which)\n", b.Problems)
				}
				return nil
			}
			for _, src := range tree.Table.Sources {
				a.printf("source      %s\n", printable(src))
			}
			for _, x := range tree.Table.Exclusions {
				a.printf("exclude     %s\n", printable(x))
			}
			for _, p := range tree.Table.Problems {
				a.printf("problem     %s: %s\n", printable("/"+p.Path), p.Reason)
			}
			return nil
		},
	}
}
