package main

import (
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func generationsCommand(sess *session.Session) *cobra.Command {
	var f generations.ListOptions
	cmd := &cobra.Command{
		Use:   "generations [ENVIRONMENT]",
		Short: "Show the versions of an environment on this machine; adopt a directory",
		Long: `Show the generations of an environment: which is live (*), where each comes from,
how it was built, why it may go live, and its state. What another command left under
way is finished, or taken back, first. Of an environment with scale: its instances, which
are ready, and why others failed; that changes nothing.

--adopt makes the existing directory root the first generation, and moves carried data
out of it; --release makes it a plain directory again. See docs/GENERATIONS.md.`,
		Example: `  knowngood generations web
  knowngood generations web --adopt --dry-run`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.Configured(sess),
		RunE: func(cmd *cobra.Command, args []string) error {
			return generations.List(cmd.Context(), sess, &f, strings.Join(args, ""))
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.Adopt, "adopt", false, "make the existing directory the first generation")
	fl.BoolVar(&f.DryRun, "dry-run", false, "with --adopt: only find out whether it can be done")
	fl.BoolVar(&f.Release, "release", false, "make the live generation a plain directory again, and remove the others")
	fl.BoolVar(&f.Recover, "recover", false, "only finish or take back what was left under way, of all environments where none is named")
	fl.BoolVar(&f.Boot, "boot", false, "with --recover: run no start and stop commands, and take back trials that the boot interrupted")
	return cmd
}

func commitCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:               "commit ENVIRONMENT",
		Short:             "Keep the generation that is on trial",
		Long:              "Commit the generation of an environment that is on trial, or what a patch changed in place.",
		Example:           "  knowngood commit web",
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.Configured(sess),
		RunE:              func(cmd *cobra.Command, args []string) error { return generations.Commit(cmd.Context(), sess, args[0]) },
	}
}

func rollbackCommand(sess *session.Session) *cobra.Command {
	var anyway bool
	cmd := &cobra.Command{
		Use:   "rollback ENVIRONMENT",
		Short: "Go back to the generation before, at once",
		Long: `Make the generation before the live one live again, and the live one bad. It takes
neither the repository nor an identity. A generation on trial is taken back. With scale,
all instances become ones of the snapshot before, one by one; that works once.`,
		Example:           "  knowngood rollback web",
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.Configured(sess),
		RunE: func(cmd *cobra.Command, args []string) error {
			return generations.Rollback(cmd.Context(), sess, args[0], anyway)
		},
	}
	cmd.Flags().BoolVar(&anyway, "anyway", false, "also to a generation in which something was changed since it was live")
	return cmd
}
