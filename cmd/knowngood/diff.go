package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"knowngood/configs"
	"knowngood/daemon"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

func diffCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff REF[:PATH] [REF]",
		Short: "Show what differs between two snapshots, or from a snapshot to now",
		Long: `Show what differs from the first snapshot to the second. With one snapshot: what
differs on this machine from it, by content, not by time stamps; of what is new,
what a capture would take: as the configuration has the environment, or where it
does not have it, without what the snapshot's exclude patterns leave out.

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
// do, seen from the other side, and what a capture would add.
func (a *app) drift(ctx context.Context, tree *snapshot.Tree, sub string) error {
	extra, err := a.extra(tree, sub)
	if err != nil {
		return err
	}
	kinds := map[string]snapshot.Change{"create": snapshot.Removed, "change": snapshot.Modified, "metadata": snapshot.Metadata}
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
	unseen := 0
	p := &restore.Progress{
		Change: func(action, path string) {
			if c, ok := kinds[action]; ok && !ofCommand(tree, path) {
				changes <- func() error { counts[c]++; return a.difference(c, path) }
			}
		},
		Problem: func(path string, err error) {
			changes <- func() error { unseen++; a.unseen(path, err); return nil }
		},
	}
	// Delete: a directory in the place of a file is a change, and nothing in the way.
	result, err := restore.Run(ctx, restore.Options{Tree: tree, Under: sub, Target: "/" + sub, InPlace: true, Delete: true, DryRun: true, Progress: p})
	close(changes)
	if perr := <-printed; err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	err = extra(ctx, func(path string, _ bool) error {
		counts[snapshot.Added]++
		return a.difference(snapshot.Added, path)
	}, func(path string, err error) { unseen++; a.unseen(path, err) })
	if err != nil {
		return err
	}
	if err := a.differences(counts); err != nil {
		return err
	}
	switch {
	case result.Damaged:
		return fmt.Errorf("%w: see above for what could not be compared; knowngood check tells more", errDamage)
	case unseen > 0:
		a.code = exitIncomplete
		fmt.Fprintf(a.stderr, "knowngood: %d paths could not be compared: see above\n", unseen)
	}
	return nil
}

func (a *app) unseen(path string, err error) {
	fmt.Fprintf(a.stderr, "knowngood: %s: %v\n", printable("/"+path), err)
}

// commandSource is what the manifest has before the path of a command's output.
const commandSource = "command "

// ofCommand tells whether a path is that of a command's output, which is no file
// of the machine, or leads there.
func ofCommand(tree *snapshot.Tree, path string) bool {
	return slices.ContainsFunc(tree.Table.Sources, func(source string) bool {
		output, ok := strings.CutPrefix(source, commandSource)
		return ok && manifest.Within(output, path)
	})
}

// captureOf is how the environment of a snapshot would be captured now: as the
// configuration has it, where that has all its sources, or as the snapshot
// tells, which knows its sources and the patterns of all of them together.
func (a *app) captureOf(tree *snapshot.Tree) (snapshot.Options, error) {
	s := tree.Snapshot
	env := a.config.Environments[s.Environment]
	if env == nil || s.Host != a.host || slices.ContainsFunc(tree.Table.Sources, func(path string) bool {
		return !strings.HasPrefix(path, commandSource) && !slices.ContainsFunc(env.Sources, func(x configs.Source) bool { return x.Path == path })
	}) {
		env = &configs.Environment{}
		for _, path := range tree.Table.Sources {
			if strings.HasPrefix(path, commandSource) {
				continue
			}
			source := configs.Source{Path: path}
			for _, p := range tree.Table.Exclusions {
				if _, err := filter.Compile(path, nil, []string{p}); err == nil { // else it is another source's
					source.Exclude = append(source.Exclude, p)
				}
			}
			env.Sources = append(env.Sources, source)
		}
	}
	o, err := daemon.CaptureOptions(s.Environment, env)
	if err != nil {
		return o, &usageError{err}
	}
	daemon.Omit(&o, a.stateDir, a.repoURL)
	return o, nil
}
