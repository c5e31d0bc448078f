package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/quickstart"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func quickstartCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "quickstart [DIR]",
		Short: "Try it: capture a directory, restore it elsewhere, compare",
		Long: `Try it, without any configuration: makes a repository and an identity in a folder
of your state directory, captures DIR (the current directory by default) twice,
restores it to a temporary directory and compares every byte. Changes nothing
else. Run it again as often as you like.`,
		Example: `  knowngood quickstart
  knowngood quickstart /etc`,
		Args: usage.Takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source := "."
			if len(args) == 1 {
				source = args[0]
			}
			return quickstart.Run(cmd.Context(), sess, source)
		},
	}
}
