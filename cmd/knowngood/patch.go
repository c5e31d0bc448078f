package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func patchCommand(sess *session.Session) *cobra.Command {
	var f generations.PatchOptions
	cmd := &cobra.Command{
		Use:   "patch ENVIRONMENT -- PROGRAM [ARGUMENT...]",
		Short: "Change an environment by a command, with a way back",
		Long: `Take a snapshot, run a command that changes the environment, ask the probes of its
drill, and keep what was changed, of which a snapshot is taken then; or go back.

With root, the command runs isolated in a clone of the live generation, which then goes
live as with switch: until then nothing is changed. Its programs are those of this
machine, it sees no carried data, and it has no network without --network.

Without root the command runs in place, as you. A copy of the sources is made before in
the state directory; what the command changed is put back from it when the command, or a
probe, fails: no identity is needed. What other programs change there meanwhile is put
back, too. It is refused before the command runs when there is no room for the copy, or
the package database lies outside of the sources. See docs/GENERATIONS.md.

Exit codes: 0 kept; 14 a probe failed and what was there before is back.`,
		Example: `  knowngood patch web --network -- pip install --upgrade --target /srv/app/lib flask
  knowngood patch host -- apt-get -y upgrade`,
		Args:              usage.Takes(1, -1),
		ValidArgsFunction: completion.Configured(sess),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return usage.Errorf("name one environment, then the command after --: knowngood patch ENVIRONMENT -- PROGRAM [ARGUMENT...]")
			}
			return generations.Patch(cmd.Context(), sess, &f, args[0], args[1:])
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.Network, "network", false, "with root: give the command the network of this machine")
	fl.BoolVar(&f.Unproven, "unproven", false, "with root: without a proof; the probes after the switch are asked all the same")
	fl.BoolVar(&f.NoPackages, "no-packages", false, "without root: the command changes no packages; go on although the package database lies outside")
	fl.BoolVar(&f.DryRun, "dry-run", false, "with root: run the command, and keep nothing. Without: only find out whether there is a way back")
	return cmd
}
