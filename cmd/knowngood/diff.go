package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/diff"
	"knowngood/snapshot/manifest"
)

func diffCommand(sess *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff REF[:PATH] [REF]",
		Short: "Show what differs between two snapshots, or from a snapshot to now",
		Long: `Show what differs from the first snapshot to the second. With one snapshot: what
differs on this machine from it, by content, not by time stamps; of what is new,
what neither the rules of the snapshot nor those of the configuration leave out.

+ added, - removed, M modified, m metadata (owner, mode, times, attributes),
? could not be captured whole in one of the two, which makes the exit code 3`,
		Example: `  knowngood diff web@latest                 from the snapshot to this machine now
  knowngood diff web@41 web@42              from one snapshot to another
  knowngood diff web@41:/etc/nginx web@42   in one directory`,
		Args:              usage.Takes(1, 2),
		ValidArgsFunction: completion.References(sess, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			from, sub, err := sess.Tree(ctx, args[0])
			if err != nil {
				return err
			}
			defer from.Reader.Close()
			if len(args) == 1 {
				return drift(ctx, sess, from, sub)
			}
			s, _, err := sess.Resolve(ctx, sess.Repo, args[1])
			if err != nil {
				return err
			}
			to, err := snapshot.OpenTree(ctx, sess.Repo, s)
			if err != nil {
				return err
			}
			defer to.Reader.Close()
			counts := map[diff.Change]int{}
			for d, err := range diff.Between(ctx, from, to, sub) {
				if err != nil {
					return err
				}
				counts[d.Change]++
				if err := printDifference(sess.Out, d.Change, d.Path); err != nil {
					return err
				}
			}
			if n := counts[diff.Unread]; n > 0 {
				sess.Out.Code = exit.Incomplete
				sess.Out.Messagef("%s could not be compared: one of the snapshots does not have %s whole", human.Counted(n, "path"), english.PluralWord(n, "it", "them"))
			}
			return printDifferences(sess.Out, counts)
		},
	}
	return cmd
}

var changeMarks = map[diff.Change]string{diff.Added: "+", diff.Removed: "-", diff.Modified: "M", diff.Metadata: "m", diff.Unread: "?"}

// differenceJSON is a path that differs, as --json prints it.
type differenceJSON struct {
	Type   string      `json:"type"`
	Change diff.Change `json:"change"`
	console.PathJSON
}

func printDifference(out *console.Console, c diff.Change, path string) error {
	if out.JSON {
		return out.Result(differenceJSON{"difference", c, console.JSONPath(path)})
	}
	_, err := fmt.Fprintf(out.Stdout, "%s %s\n", changeMarks[c], printable.Name("/"+path))
	return err
}

func printDifferences(out *console.Console, counts map[diff.Change]int) error {
	out.Printf("%d added, %d removed, %d modified, %d with other metadata\n", counts[diff.Added], counts[diff.Removed], counts[diff.Modified], counts[diff.Metadata])
	return out.Result(map[string]any{"type": "result", "unread": counts[diff.Unread], "added": counts[diff.Added], "removed": counts[diff.Removed], "modified": counts[diff.Modified], "metadata": counts[diff.Metadata]})
}

// drift compares the machine with a snapshot: what a restore in place would
// do, seen from the other side, and what a capture would add.
func drift(ctx context.Context, sess *session.Session, tree *snapshot.Tree, sub string) error {
	today, err := sess.Today(tree.Snapshot.Environment)
	if err != nil {
		return err
	}
	kinds := map[string]diff.Change{"create": diff.Removed, "change": diff.Modified, "metadata": diff.Metadata, "delete": diff.Added}
	counts := map[diff.Change]int{}
	changes := make(chan func() error, 256)
	printed := make(chan error, 1)
	go func() {
		var first error
		for f := range changes {
			if err := f(); first == nil {
				first = err
			}
		}
		printed <- first
	}()
	unseen := sess.Out.Problems()
	defer unseen.End()
	p := &restore.Progress{
		Change: func(action, path string) {
			if c, ok := kinds[action]; ok && !ofCommand(tree, path) {
				changes <- func() error { counts[c]++; return printDifference(sess.Out, c, path) }
			}
		},
		Problem: unseen.Add,
	}
	// Delete: a directory in the place of a file is a change, and nothing in the
	// way; and what a restore would delete is what is new.
	result, err := restore.Run(ctx, restore.Options{Tree: tree, Under: sub, Target: "/" + sub, InPlace: true, Delete: true, DryRun: true, Today: today, Spare: sess.OwnPlaces(), Progress: p})
	close(changes)
	if perr := <-printed; err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	unseen.End()
	counts[diff.Unread] = int(unseen.Count())
	if err := printDifferences(sess.Out, counts); err != nil {
		return err
	}
	for _, p := range result.Problems {
		sess.Damage.Add(p.Err)
	}
	switch {
	case result.Damaged:
		return fmt.Errorf("%w: see above for what could not be compared; knowngood check shows more", exit.ErrDamage)
	case unseen.Count() > 0:
		sess.Out.Code = exit.Incomplete
		sess.Out.Messagef("%s could not be compared: see above", human.Counted(unseen.Count(), "path"))
	}
	return nil
}

// ofCommand reports whether a path is that of a command's output, which is no
// file of the machine, or leads there.
func ofCommand(tree *snapshot.Tree, path string) bool {
	return slices.ContainsFunc(tree.Table.Sources, func(s manifest.Source) bool { return len(s.Command) > 0 && manifest.Within(s.Path, path) })
}
