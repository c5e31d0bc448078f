package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"knowngood/restore"
	"knowngood/snapshot"
)

func diffCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff REF[:PATH] [REF]",
		Short: "Show what differs between two snapshots, or from a snapshot to now",
		Long: `Show what differs from the first snapshot to the second. With one snapshot: what
differs on this machine from it, by content, not by time stamps.

+ added, - removed, M modified, m metadata (owner, mode, times, attributes)`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			from, sub, err := a.tree(ctx, args[0])
			if err != nil {
				return err
			}
			defer from.Reader.Close()
			if len(args) == 1 {
				return a.drift(ctx, from, sub)
			}
			s, _, err := a.resolve(ctx, a.repo, args[1])
			if err != nil {
				return err
			}
			to, err := snapshot.OpenTree(ctx, a.repo, s)
			if err != nil {
				return err
			}
			defer to.Reader.Close()
			counts := map[snapshot.Change]int{}
			for d, err := range snapshot.Diff(ctx, from, to, sub) {
				if err != nil {
					return err
				}
				counts[d.Change]++
				if err := a.difference(d.Change, d.Path); err != nil {
					return err
				}
			}
			return a.differences(counts)
		},
	}
	return cmd
}

var changeMarks = map[snapshot.Change]string{snapshot.Added: "+", snapshot.Removed: "-", snapshot.Modified: "M", snapshot.Metadata: "m"}

func (a *app) difference(c snapshot.Change, path string) error {
	if a.json {
		return a.result(map[string]any{"type": "difference", "change": c, "path": "/" + path})
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s\n", changeMarks[c], printable("/"+path))
	return err
}

func (a *app) differences(counts map[snapshot.Change]int) error {
	a.printf("%d added, %d removed, %d modified, %d with other metadata\n", counts[snapshot.Added], counts[snapshot.Removed], counts[snapshot.Modified], counts[snapshot.Metadata])
	return a.result(map[string]any{"type": "result", "added": counts[snapshot.Added], "removed": counts[snapshot.Removed], "modified": counts[snapshot.Modified], "metadata": counts[snapshot.Metadata]})
}

// drift compares the machine with a snapshot: what a restore in place would
// do, seen from the other side.
func (a *app) drift(ctx context.Context, tree *snapshot.Tree, sub string) error {
	kinds := map[string]snapshot.Change{"create": snapshot.Removed, "change": snapshot.Modified, "metadata": snapshot.Metadata, "delete": snapshot.Added}
	counts := map[snapshot.Change]int{}
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
	p := &restore.Progress{Change: func(action, path string) {
		if c, ok := kinds[action]; ok {
			changes <- func() error { counts[c]++; return a.difference(c, path) }
		}
	}}
	_, err := restore.Run(ctx, restore.Options{Tree: tree, Under: sub, Target: "/" + sub, InPlace: true, Delete: true, DryRun: true, Progress: p})
	close(changes)
	if perr := <-printed; err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	return a.differences(counts)
}
