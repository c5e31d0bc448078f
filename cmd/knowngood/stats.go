package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/stats"
	"knowngood/cmd/knowngood/usage"
)

func statsCommand(sess *session.Session) *cobra.Command {
	var allHosts bool
	cmd := &cobra.Command{
		Use:   "stats [ENVIRONMENT]",
		Short: "Show how much snapshots hold, and what they take in the store",
		Long: `Show for each environment of this host, or for one, how many snapshots are kept,
how much they hold, and what they take in the store:

  FILES, SIZE   of the newest snapshot
  LOGICAL       the content of all kept snapshots, each as if it were alone
  STORED        the packs and manifests that they need, each once
  RATIO         LOGICAL divided by STORED
  ADDED         new content of the newest snapshot, and what was stored for it

All figures come from signed roots and from the lists of objects in manifests. No
content is read: whether it is whole, knowngood check finds out. Forgotten
snapshots do not count. Environments share content, so the total of STORED can be
less than the sum.`,
		Example: `  knowngood stats
  knowngood stats web
  knowngood stats --all-hosts --identity ~/knowngood.identity --json`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.Environments(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := sess.Open(cmd.Context())
			if err != nil {
				return err
			}
			env := ""
			if len(args) == 1 {
				env = args[0]
			}
			return stats.Print(cmd.Context(), sess, r, env, allHosts)
		},
	}
	cmd.Flags().BoolVar(&allHosts, "all-hosts", false, "show the environments of every host; it takes an identity")
	return cmd
}
