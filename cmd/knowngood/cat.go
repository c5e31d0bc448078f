package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/restore"
	"knowngood/snapshot/manifest"
)

func catCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "cat REF:PATH",
		Short: "Write a file of a snapshot to the standard output",
		Long: `Write a file of a snapshot to the standard output. Every byte is verified before it
is written.`,
		Example: `  knowngood cat web@latest:/etc/nginx/nginx.conf
  knowngood cat web@42:/db/web.dump | pg_restore --list`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tree, sub, err := sess.Tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer tree.Reader.Close()
			if sub == "" {
				return usage.Errorf("which file? cat takes REF:PATH")
			}
			e, err := tree.Find(cmd.Context(), sub)
			if err != nil {
				return err
			}
			if e == nil {
				return fmt.Errorf("%w: %q in %s", restore.ErrNoPath, "/"+sub, tree.Snapshot.Ref())
			}
			if e.Type == manifest.Dir {
				return fmt.Errorf("/%s is a directory, and cat writes one file. See what is in it: knowngood ls %s:/%s", sub, tree.Snapshot.Ref(), sub)
			}
			return restore.Cat(cmd.Context(), tree, e, sess.Out.Stdout.Content())
		},
	}
}
