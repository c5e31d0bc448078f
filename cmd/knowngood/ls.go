package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

func lsCommand(sess *session.Session) *cobra.Command {
	var recursive, long bool
	cmd := &cobra.Command{
		Use:   "ls REF[:PATH]",
		Short: "List the files of a snapshot",
		Long: `List the files of a snapshot, or those in one of its directories. What is below
directories is listed with --recursive.

--json prints one result: the snapshot, the path, and the list entries.`,
		Example: `  knowngood ls web@latest
  knowngood ls -l web@42:/srv/web
  knowngood ls -R web-7/web@2026-11-20:/etc --json`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tree, sub, err := sess.Tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer tree.Reader.Close()
			listed := tree.Children
			if recursive {
				listed = tree.Entries
			}
			found, list := false, present.NewEntries(sess.Out, long)
			for e, lerr := range listed(cmd.Context(), sub) {
				found = true
				if err = lerr; err == nil && (e.Path != sub || e.Type != manifest.Dir) {
					err = list.Add("", e)
				}
				if err != nil {
					break
				}
			}
			if err == nil && !found {
				return fmt.Errorf("%w: %q in %s", restore.ErrNoPath, "/"+sub, tree.Snapshot.Ref())
			}
			return list.End(present.ListedJSON{Snapshot: present.Snapshot(sess.Repo, tree.Snapshot), PathJSON: console.JSONPath(sub)}, err)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list what is below, too")
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time")
	return cmd
}

// entries calls f for each entry below a path; damage is an error.
func entries(ctx context.Context, t *snapshot.Tree, under string, f func(*manifest.Entry) error) error {
	for e, err := range t.Entries(ctx, under) {
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
