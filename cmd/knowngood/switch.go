package main

import (
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func switchCommand(sess *session.Session) *cobra.Command {
	var f generations.SwitchOptions
	cmd := &cobra.Command{
		Use:   "switch ENVIRONMENT {REF | --from DIR}",
		Short: "Make a snapshot, or what was just built, the live version",
		Long: `Build the next generation of an environment beside the live one, verify it, and make
it live: stop services, flip, start them, run after_switch, and ask the probes for as
long as the configuration has it. Then it is committed. When anything of that fails,
what was done is taken back, once, and the old generation is live again (exit code 14).

--from copies DIR, takes a snapshot of it as the environment, and makes it live; with
--unproven no identity is needed for that.

A snapshot must be known-good, or its drill must pass here first; --unproven goes on
without. It is refused while the live generation has changes outside of its data that
no snapshot has; --discard goes on, and the next generation has none of them. With
confirm: external it is on trial: without knowngood commit it goes back when switch.trial
is over. See docs/GENERATIONS.md.`,
		Example: `  knowngood switch web web@known-good
  knowngood switch web web@42 --unproven
  knowngood switch web --from /srv/build/app --unproven`,
		Args:              usage.Takes(1, 2),
		ValidArgsFunction: completion.Configured(sess),
		RunE: func(cmd *cobra.Command, args []string) error {
			return generations.Switch(cmd.Context(), sess, &f, args[0], strings.Join(args[1:], ""))
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.From, "from", "", "`directory` with what was just built")
	fl.BoolVar(&f.Unproven, "unproven", false, "without a proof; the probes after the switch are asked all the same")
	fl.BoolVar(&f.Discard, "discard", false, "go on without the changes of the live generation that no snapshot has")
	return cmd
}
