package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/proof"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/restore/owners"
	"knowngood/snapshot/selection"
)

// restoreFlags of the restore command.
type restoreFlags struct {
	target           string
	inPlace, delete  bool
	dryRun           bool
	include, exclude []string
	numeric, noOwner bool
	verbose          bool
	withIncomplete   bool
	anyway           bool
	load             loadFlags
}

func restoreCommand(sess *session.Session) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore REF[:PATH] --target PATH",
		Short: "Restore a snapshot, or a part of it",
		Long: `Restore a snapshot into a new directory: the tree appears below DIR at its
original path. REF:/sub/path puts that subtree's content into DIR itself.

Where REF:/path is a file, or anything else but a directory, --target FILE says
where it goes, as with cp: what exists as a directory takes it in under its own
name, and what exists otherwise is replaced with --in-place alone. --in-place
without a target puts it back where it was.

--in-place changes what is there (below /, or below DIR with --target):
unchanged files are left alone, changed ones replaced at once as a whole;
--delete also removes what has come since: what knowngood diff shows with a +. It
leaves what the rules of the snapshot leave out, or those of the configuration, or
the patterns given here; what is on file systems that the capture did not enter;
the repository, the state directory and the identity. For a snapshot that is
suspect it is refused, unless the snapshot is named by its number or ID. Look first
with --dry-run -v, which changes nothing.

REF@known-good is the newest snapshot that a drill proved to restore. Why newer ones
are passed over is printed first, with the level, age and measured time of the proof.
--require, --self-attested and --allow-partial change for this restore what counts.
A snapshot that is marked bad is restored with --anyway alone.

Patterns mean what they mean for knowngood snapshot. What could not be read whole
when the snapshot was taken is named, and nothing is written, replaced or deleted
in its name; --with-incomplete writes what was read of a file as NAME.incomplete, or
NAME.incomplete-2 and so on where something has that name, and says where.

Owners go by name: the number that this machine gives to the name, and where it
does not know the name, the number of the snapshot. A tree that brings its own
accounts (etc/passwd at its top, and not left out) keeps all numbers, which are
what that file says. It is said which, and who is not the same here.
--numeric-ids keeps all numbers.

After the restore, each restored output of a command source, such as a database
dump, is listed with the command that loads it. --load runs these commands: those
that the configuration names for the environment, in the order of the
configuration, each with the restored file, verified once more, on its standard
input. The first one that fails ends that, with exit code 1. A command that only
the snapshot names may have been written by an attacker who controlled that host: it is
marked and not run (exit code 3). --load=snapshot runs it too, after asking at the
terminal.

Every chunk is verified before it is written, and what is reported as restored
is durable. Interrupted, or stopped by what could not be restored, the same
command goes on where it stopped. What could not be restored as it should is
named, and makes the exit code 3; damage in the repository makes it 13. A further
name of a file that cannot be linked to the first one, because it lies on another
file system, becomes a file of its own and is named (exit code 3).

--dry-run also finds out whether the objects that it would read are there, in
full length, and ends with the exit code that this gives the restore.`,
		Example: `  knowngood restore web@latest --target /restore --dry-run
  knowngood restore web@latest --target /restore
  knowngood restore web@known-good --target /restore --require probed
  knowngood restore web@42:/srv/web/conf --target /tmp/conf
  knowngood restore web@42:/etc/fstab --target /tmp/fstab
  knowngood restore web@42 --in-place --dry-run -v`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRestore(cmd.Context(), sess, &f, args[0]) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.target, "target", "", "`path` to restore to: a directory, or for a single file its new path")
	fl.BoolVar(&f.inPlace, "in-place", false, "change what is there instead of demanding an empty directory")
	fl.BoolVar(&f.delete, "delete", false, "in place: remove what the snapshot does not have")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the plan, change nothing")
	fl.StringArrayVar(&f.include, "include", nil, "restore only what matches this `pattern`; may be repeated")
	fl.StringArrayVar(&f.exclude, "exclude", nil, "leave out what matches this `pattern`; may be repeated")
	fl.BoolVar(&f.withIncomplete, "with-incomplete", false, "write what was read of files that could not be read whole as NAME.incomplete")
	fl.BoolVar(&f.numeric, "numeric-ids", false, "keep the numbers of owners, whatever their names")
	fl.BoolVar(&f.noOwner, "no-owner", false, "leave all files to the user who restores (always so when not root)")
	fl.StringVar(&f.load.which, "load", "", "after the restore, load the restored outputs of command sources with the restore commands of the configuration; --load=snapshot also runs those that only the snapshot names, after asking")
	usage.Optional(fl.Lookup("load"), loadConfigured, loadConfigured, loadSnapshot)
	fl.StringVar(&f.load.timeout, "load-timeout", "", "end a restore command that takes longer than this `time`, such as 2h (default: none)")
	fl.BoolVar(&f.anyway, "anyway", false, "restore a snapshot that is marked bad")
	sess.Proof.Add(fl)
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "print each path that is created, changed or deleted")
	return cmd
}

func runRestore(ctx context.Context, sess *session.Session, f *restoreFlags, ref string) error {
	switch {
	case f.target == "" && !f.inPlace:
		return usage.Errorf("where to? Give --target DIR, or --in-place to change what is there")
	case f.delete && !f.inPlace:
		return usage.Errorf("--delete goes with --in-place")
	}
	if err := f.load.check(); err != nil {
		return err
	}
	tree, sub, err := sess.Tree(ctx, ref)
	if err != nil {
		return err
	}
	defer tree.Reader.Close()
	if f.inPlace {
		if err := generations.RefuseInPlace(tree, cmp.Or(f.target, "/"+sub), sub); err != nil {
			return err
		}
	}
	if f.delete {
		if err := refuseDeletion(ctx, sess, tree, f, ref); err != nil {
			return err
		}
	}
	if err := proof.BeforeRestore(ctx, sess, tree.Snapshot, f.anyway); err != nil {
		return err
	}
	warnOfSuspect(ctx, sess, tree.Snapshot, session.SourcePaths(tree))
	o := restore.Options{Tree: tree, Under: sub, Target: f.target, InPlace: f.inPlace, Delete: f.delete, DryRun: f.dryRun, Verify: f.dryRun, WithIncomplete: f.withIncomplete, Spare: sess.OwnPlaces()}
	o.Target = cmp.Or(o.Target, "/"+sub)
	if o.Select, err = selection.Of(tree.Table, f.include, f.exclude); err != nil {
		return usage.Errorf("%w", err)
	}
	if o.Today, err = sess.Today(tree.Snapshot.Environment); err != nil {
		return err
	}
	o.Owners = owners.Options{Numeric: f.numeric, Keep: f.noOwner || os.Geteuid() != 0} // setting them takes root
	problems := sess.Out.Problems()
	o.Progress = &restore.Progress{Problem: problems.Add}
	if f.verbose || f.dryRun && sess.Out.JSON {
		o.Progress.Change = func(action, path string) {
			if action == "unchanged" {
				return
			}
			present.Change(sess.Out, action, path)
		}
	}
	if f.dryRun {
		present.Plan(sess.Out, sess.Repo, tree, &o)
	}
	total := tree.Snapshot.Body.ContentBytes
	if sub != "" || o.Select != nil {
		total = 0
	}
	p := sess.Out.Progress(func() console.State {
		return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Found: o.Progress.Found.Load(), Total: total}
	})
	result, err := restore.Run(ctx, o)
	p.End()
	problems.End()
	if errors.Is(err, restore.ErrAmbiguous) {
		return usage.Errorf("%w", err)
	}
	if err != nil {
		return err
	}
	if o.Select != nil && result.Planned == (restore.Counts{}) && result.Unlisted == 0 {
		if len(f.include) == 0 {
			return usage.Errorf("nothing was restored: everything was left out by the patterns %s", printable.Command(f.exclude))
		}
		return usage.Errorf("nothing was restored: no path of %s matches the patterns %s (knowngood find searches it)", ref, printable.Command(append(slices.Clone(f.include), f.exclude...)))
	}
	for _, p := range result.Problems {
		sess.Damage.Add(p.Err)
	}
	outputs, loadErr := takeBack(ctx, sess, &f.load, tree, &o)
	_, firstUse := sess.Repo.TrustedOnFirstUse()
	return errors.Join(present.Restore(sess.Out, tree, &o, result, outputs, firstUse), loadErr)
}
