package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/snapshot/diff"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
)

func timelineCommand(sess *session.Session) *cobra.Command {
	last := 20
	cmd := &cobra.Command{
		Use:   "timeline ENVIRONMENT",
		Short: "Show how much changed from each snapshot to the next",
		Long: `Show for each snapshot of an environment, the newest last, what changed since the
one before:

  ADDED, REMOVED, MODIFIED, METADATA   paths, as diff shows them
  BYTES        content of the files that were added or modified, as a whole
  NEW          content that the repository did not have
  SET-UID      files with set-uid, set-gid or capabilities that came, went or
               differ in content or rights
  EXECUTABLE   files that may be executed, likewise
  DETAILS      the command that names the paths

Only the parts of the lists of files that differ are read; no content, unless the
host was enrolled again between two snapshots.`,
		Example: `  knowngood timeline web
  knowngood timeline web-7/web --last 100 --json`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.Environments(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 1 {
				return usage.Errorf("--last: at least 1 snapshot")
			}
			unusable := sess.Out.Problems()
			all, damaged, err := catalog.Named(cmd.Context(), sess, args[0], unusable.AddError)
			unusable.End()
			if err != nil {
				return err
			}
			var snapshots []*history.Snapshot
			for _, s := range all {
				snapshots = append(snapshots, s.Snapshot)
			}
			rows, err := diff.Timeline(cmd.Context(), sess.Repo, snapshots, last)
			for _, row := range rows {
				switch sess.Damage.Add(row.Err); {
				case authentic.Damaged(row.Err):
					damaged = fmt.Errorf("%w: see above; knowngood check shows more", exit.ErrDamage)
				case row.Err != nil:
					sess.Out.Code = exit.Incomplete
				}
			}
			if err == nil {
				err = present.Timeline(cmd.Context(), sess.Out, sess.Repo, sess.Host, rows)
			}
			if err == nil {
				err = damaged
			}
			return err
		},
	}
	cmd.Flags().Var(usage.Count{Value: &last}, "last", "show only the newest `N` snapshots")
	return cmd
}
