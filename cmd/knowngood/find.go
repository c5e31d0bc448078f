package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

func findCommand(a *app) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "find {ENVIRONMENT | REF}[:PATH] PATTERN...",
		Short: "Find files by name, in one snapshot or in all of an environment",
		Long: `Find files whose name matches a pattern (*, ?, [a-z], {a,b}). A pattern with a
slash is matched with the whole path, and ** crosses directories.

A reference such as web@42 or web@latest searches that snapshot. The name of an
environment alone searches all its snapshots, the newest last, and shows which of
them have the file.`,
		Example: `  knowngood find web 'invoice-*.pdf'
  knowngood find web@latest:/srv '*.conf' '*.yaml'
  knowngood find -l web@2026-11-20 '/srv/**/cache/*'`,
		Args:              takes(2, -1),
		ValidArgsFunction: a.completeRefs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range args[1:] {
				if !doublestar.ValidatePattern(p) {
					return usagef("pattern %q is not valid", p)
				}
			}
			found, err := a.find(cmd.Context(), args[0], args[1:], long)
			if err == nil && found == 0 {
				fmt.Fprintln(a.stderr, "knowngood: nothing found")
				a.code = exitFailed
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time")
	return cmd
}

// find prints what matches in a snapshot, or in all of an environment.
func (a *app) find(ctx context.Context, text string, patterns []string, long bool) (found int, err error) {
	ref, sub, err := a.ref(text)
	if err != nil {
		return 0, err
	}
	if ref.ID != "" || strings.Contains(ref.String(), "@") {
		tree, sub, err := a.tree(ctx, text)
		if err != nil {
			return 0, err
		}
		defer tree.Reader.Close()
		return a.findIn(ctx, tree, sub, patterns, func(e *manifest.Entry) error { return a.entry("", e, long) })
	}

	r, err := a.openForReading(ctx)
	if err != nil {
		return 0, err
	}
	host, err := r.HostOf(ctx, ref, a.host)
	if err != nil {
		return 0, err
	}
	unusable := a.problems()
	snapshots, damaged, err := a.collectOf(ctx, r, host, ref.Environment, false, unusable)
	if err == nil && len(snapshots) == 0 && damaged == nil {
		_, err = r.Resolve(ctx, ref, host) // which says what there is
	}
	for _, s := range snapshots {
		var n int
		if err == nil {
			n, err = a.findInSnapshot(ctx, r, s.Snapshot, sub, patterns, long)
			found += n
		}
		if authentic.Damaged(err) {
			a.foundDamage(err)
			unusable.addError(fmt.Errorf("%s: %w", s.Ref(), err))
			damaged, err = fmt.Errorf("%w: what is named above could not be searched; knowngood check shows more", errDamage), nil
		}
	}
	unusable.end()
	if err == nil {
		err = damaged
	}
	return found, err
}

func (a *app) findInSnapshot(ctx context.Context, r *repository.Repository, s *history.Snapshot, sub string, patterns []string, long bool) (int, error) {
	tree, err := snapshot.OpenTree(ctx, r, s)
	if err != nil {
		return 0, err
	}
	defer tree.Reader.Close()
	return a.findIn(ctx, tree, sub, patterns, func(e *manifest.Entry) error { return a.entry(s.Ref(), e, long) })
}

// findIn calls f for each entry of a tree that matches a pattern.
func (a *app) findIn(ctx context.Context, tree *snapshot.Tree, sub string, patterns []string, f func(*manifest.Entry) error) (found int, err error) {
	err = a.entries(ctx, tree, sub, func(e *manifest.Entry) error {
		matches := func(p string) bool {
			subject := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
			if strings.Contains(p, "/") {
				subject = "/" + e.Path
			}
			ok, _ := doublestar.Match(p, subject)
			return ok
		}
		if !slices.ContainsFunc(patterns, matches) {
			return nil
		}
		found++
		return f(e)
	})
	return found, err
}
