package main

import (
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func spawnCommand(sess *session.Session) *cobra.Command {
	var f generations.SpawnOptions
	cmd := &cobra.Command{
		Use:   "spawn [REF[:PATH]] --dir DIR [--count N]",
		Short: "Make many equal trees of a snapshot, from one restore",
		Long: `Restore a snapshot once, verify it, and make N equal trees of it: DIR/1, DIR/2 and so
on, each with an own writable part. Of an environment with a root it is the content of
root, of REF:PATH that of PATH, and else all at its original path.

They are btrfs snapshots or reflinks of the first tree where the file system can, else
copies; --overlay mounts it below each of them, which takes root. With a greater N,
trees are added. Without REF it shows what DIR has; --remove removes it.
knowngood scale starts and retires instances. See docs/GENERATIONS.md.`,
		Example: `  knowngood spawn web@known-good --count 10 --dir /srv/instances
  knowngood spawn --dir /srv/instances --remove`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return generations.Spawn(cmd.Context(), sess, &f, strings.Join(args, ""))
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.Dir, "dir", "", "`directory` of the trees, for nothing else")
	fl.IntVar(&f.Count, "count", 0, "`number` of trees")
	fl.BoolVar(&f.Overlay, "overlay", false, "mount the first tree below each new one, as an overlay")
	fl.BoolVar(&f.Remove, "remove", false, "remove all trees that DIR has")
	return cmd
}

func scaleCommand(sess *session.Session) *cobra.Command {
	var f generations.ScaleOptions
	cmd := &cobra.Command{
		Use:   "scale ENVIRONMENT [--to N]",
		Short: "Start or retire equal instances of an environment",
		Long: `Bring the number of instances of an environment to what its scale.target asks for,
between min and max, or to N; without either the number stays. New ones are made of the
tree of the last switch, at first of the newest known-good snapshot; they are started,
and count once their probes pass (exit code 14 where one does not). Probes of all are
asked each time: one that fails is replaced once another one came up. Those that failed
are retired first, then the newest: before_retire drains an instance, then it is stopped
and removed. A target that cannot be read changes nothing and is an error. --to 0
retires all. See docs/GENERATIONS.md.`,
		Example: `  knowngood scale web
  knowngood scale web --to 4`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.Configured(sess),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch given := cmd.Flags().Changed("to"); {
			case !given:
				f.To = -1
			case f.To < 0:
				return usage.Errorf("--to takes a number from 0 on")
			}
			return generations.Scale(cmd.Context(), sess, &f, args[0])
		},
	}
	cmd.Flags().IntVar(&f.To, "to", 0, "`number` of instances, whatever the target asks for")
	cmd.Flags().BoolVar(&f.Unproven, "unproven", false, "make the first tree of the newest snapshot, without a proof; probes are asked all the same")
	return cmd
}
