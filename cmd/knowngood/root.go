package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/captures"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/drifts"
	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/proof"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func newRoot(sess *session.Session) *cobra.Command {
	root := &cobra.Command{
		Use:   "knowngood",
		Short: "Disaster-recovery snapshots that are proven to restore",
		Long: `knowngood captures environments (files, dumps, configuration) as versioned,
immutable, encrypted, deduplicated snapshots in a directory or in S3-compatible
storage, and restores them.

A host that captures holds no key that reads what it captured: the identity
that restores can be kept elsewhere.

URLs: /path or file:///path for a directory,
s3://bucket/prefix?endpoint=https://host:port&region=… for a bucket, with
credentials from the standard AWS places (environment, ~/.aws, instance role).

References: web@42, web@latest, web@known-good (the newest that a drill proved to
restore), web@2026-11-20T10:00 (the newest not later), an ID, host/web@42; where a
path is taken, :/path follows.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but
incomplete (named); 10 no repository; 11 exists already; 12 no usable identity;
13 damage or tampering found; 14 a probe failed, or something drifted; 130 interrupted.`,
		Example: `  knowngood quickstart                                try it; writes to a folder of its own
  knowngood init --repo URL --identity FILE           make a repository
  knowngood snapshot --repo URL --env web /srv/web    take a snapshot
  knowngood list --repo URL                           see what there is
  knowngood restore --repo URL --identity FILE web@latest --target DIR`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{"config": "none"},
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Name() == cobra.ShellCompRequestCmd {
				return nil // the command that is completed reads what it needs
			}
			if err := usage.RefuseEmpty(cmd, args); err != nil {
				return err
			}
			return sess.Load(cmd)
		},
		Args: usage.UnknownCommand,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(sess.Out.Stdout)
	root.SetErr(sess.Out.Stderr)
	root.SetFlagErrorFunc(usage.FlagError)
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	sess.Flags.Add(f)
	f.BoolVar(&sess.Out.JSON, "json", false, "print progress as lines of JSON and the result as one object")
	f.BoolVarP(&sess.Out.Quiet, "quiet", "q", false, "print no progress")
	root.RegisterFlagCompletionFunc("host", completion.Hosts(sess))
	root.AddCommand(quickstartCommand(sess), initCommand(sess), snapshotCommand(sess), listCommand(sess), showCommand(sess), statsCommand(sess), lsCommand(sess), catCommand(sess),
		findCommand(sess), findGoodCommand(sess), diffCommand(sess), drifts.Command(sess), timelineCommand(sess), restoreCommand(sess), switchCommand(sess), patchCommand(sess), commitCommand(sess), rollbackCommand(sess), generationsCommand(sess), spawnCommand(sess), scaleCommand(sess), checkCommand(sess), forgetCommand(sess), acceptCommand(sess), proof.Command(sess), pruneCommand(sess), probeCommand(sess), daemonCommand(sess), statusCommand(sess), keysCommand(sess), configCommand(sess), versionCommand(sess), manCommand(sess), outsideCommand(sess), captures.Command(sess), drills.Command(sess), drills.Cell())
	return root
}
