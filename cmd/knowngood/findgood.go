package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/findgood"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func findGoodCommand(sess *session.Session) *cobra.Command {
	var o findgood.Options
	cmd := &cobra.Command{
		Use:   "find-good ENVIRONMENT {--probe COMMAND | --drill | -- PROGRAM [ARGUMENT...]}",
		Short: "Find the newest snapshot that passes a test of yours",
		Long: `Find the newest good snapshot of an environment. Snapshots are restored one after
the other into the same scratch directory, each time only what differs, and the
probe judges each. It tests both ends first and then halves what lies between.
Where the answers contradict that snapshots were good up to one point and bad
from there on, each is tested, from the newest on. Snapshots of the same content
are tested once.

The probe is a command line for the shell, or a program with its arguments after
--. It runs in the restored tree, whose path is in KNOWNGOOD_TREE: /srv/web of the
snapshot is srv/web there. KNOWNGOOD_SNAPSHOT is the snapshot. Its exit code is the answer:

  0          good
  125        undecided: another snapshot is tested
  126, 127   the probe cannot be run: the search ends
  others     bad

The probe is NOT isolated: it runs as you, and what it starts of the tree may be
what an attacker left there. With --drill each snapshot is drilled instead, as the
configuration has it for the environment: its services and probes are isolated.
No result is signed.

Exit codes: 0 found; 14 no snapshot is good; 3 some could not be tested (damaged,
too slow, or undecided), and are named.`,
		Example: `  knowngood find-good web --probe '! grep -rq ransom srv/web'
  knowngood find-good web --since 30d --leave /restore/clean -- clamscan -ri .
  knowngood find-good web --drill
  knowngood find-good web-7/web --timeout 10m --probe /root/check-tree`,
		Args:              usage.Takes(1, -1),
		ValidArgsFunction: completion.Environments(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n > 1 || n < 0 && len(args) > 1 {
				return usage.Errorf("%q is one argument too many: put a probe with arguments in quotes, or put it after --", args[1])
			} else if n == 0 {
				return usage.Errorf("name the ENVIRONMENT before --")
			}
			o.Command = args[1:]
			return findgood.Run(cmd.Context(), sess, &o, args[0])
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Probe, "probe", "", "`command` line for the shell that judges a restored tree by its exit code")
	fl.BoolVar(&o.Drill, "drill", false, "drill each snapshot: the services and probes that the configuration has for the environment judge it")
	fl.DurationVar(&o.Timeout, "timeout", 0, "end a probe that takes longer than this `time`, such as 10m; then it is undecided (default: none)")
	fl.StringVar(&o.Since, "since", "", "search only snapshots begun since then: a `time` such as 2026-11-20T10:00, or a duration before now such as 7d")
	fl.StringVar(&o.Until, "until", "", "search only snapshots begun until then, a `time` as for --since")
	fl.StringVar(&o.Leave, "leave", "", "leave the tree of the answer as this `directory`, which must be new or empty; the trees lie beside it then")
	fl.StringVar(&o.Scratch, "scratch", "", "`directory` with room for one restored snapshot (default: the one for temporary files)")
	return cmd
}
