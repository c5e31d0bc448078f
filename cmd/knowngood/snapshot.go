package main

import (
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/take"
	"knowngood/cmd/knowngood/usage"
)

func snapshotCommand(sess *session.Session) *cobra.Command {
	var f take.Options
	cmd := &cobra.Command{
		Use:   "snapshot --env NAME PATH... | snapshot NAME",
		Short: "Take a snapshot of paths, or of a configured environment",
		Long: `Take a snapshot of paths as environment NAME, or of an environment of the
configuration. Prints NAME@NUMBER when it is committed.

Patterns are like those of .gitignore: the last that matches decides, ! takes
back, * stays within a name, ** crosses directories, a slash anchors at the
source, a slash at the end means directories only.

What could not be captured as it should (unreadable, changed while read,
vanished) is named, recorded in the snapshot, and makes the exit code 3. So does
a source that collapsed, of which the snapshot is suspect.
A snapshot of which a source has less than half of what it had, or in which files
look encrypted that did not before, is suspect:
committed, and named loudly; knowngood accept --help tells what follows.
Interrupted, the next run goes on where this one was.

What the store lost is noticed within a day, or at once with --verify: its
content counts as new and is stored again, which makes older snapshots that need
it whole. --verify=data also reads every object that the host has in the store,
and compares it with its name; that takes no identity.`,
		Example: `  knowngood snapshot --env web /srv/web /etc/nginx --exclude '*.tmp'
  knowngood snapshot --env web /srv/web --dry-run
  knowngood snapshot web                    as the configuration has it
  knowngood snapshot web --tag before-upgrade --verify`,
		Args:              usage.Takes(0, -1),
		ValidArgsFunction: completion.Configured(sess),
		RunE:              func(cmd *cobra.Command, paths []string) error { return take.Run(cmd.Context(), sess, &f, paths) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.Env, "env", "", "`name` of the environment")
	cmd.RegisterFlagCompletionFunc("env", completion.Environments(sess, -1))
	fl.StringArrayVar(&f.Include, "include", nil, "capture only what matches this `pattern`; may be repeated")
	fl.StringArrayVar(&f.Exclude, "exclude", nil, "`pattern` to leave out (! takes back); may be repeated")
	fl.BoolVar(&f.ExcludeCaches, "exclude-caches", false, "leave out directories marked by a CACHEDIR.TAG")
	fl.StringArrayVar(&f.ExcludeIfPresent, "exclude-if-present", nil, "leave out directories that hold a file of this `name`")
	fl.BoolVar(&f.OneFileSystem, "one-file-system", false, "do not cross into other file systems")
	fl.StringVar(&f.MaxFileSize, "max-file-size", "", "leave out files larger than `size`")
	fl.BoolVar(&f.CachedAttributes, "cached-attributes", false, "on network and FUSE file systems, trust the attributes that the kernel has cached")
	fl.BoolVar(&f.DryRun, "dry-run", false, "show what would be read, store nothing")
	fl.BoolVar(&f.Reread, "reread", false, "read every file, even where its time stamps are unchanged, and check what the store has")
	fl.StringVar(&f.Verify, "verify", "", "check what the store has, and store again what it lost; `how`: listing, or data, which reads every object")
	usage.Optional(fl.Lookup("verify"), take.VerifyListing, take.VerifyListing, take.VerifyData)
	fl.StringVar(&f.Compression, "compression", "", "default, fastest or better")
	fl.StringArrayVar(&f.Tags, "tag", nil, "a `label` for the snapshot; may be repeated")
	return cmd
}
