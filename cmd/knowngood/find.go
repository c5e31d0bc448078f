package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

func findCommand(sess *session.Session) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "find {ENVIRONMENT | REF}[:PATH] PATTERN...",
		Short: "Find files by name, in one snapshot or in all of an environment",
		Long: `Find files whose name matches a pattern (*, ?, [a-z], {a,b}). A pattern with a
slash is matched with the whole path, and ** crosses directories.

A reference such as web@42 or web@latest searches that snapshot. The name of an
environment alone searches all its snapshots, the newest last, and shows which of
them have the file.

--json prints one result: the snapshots that were searched, and the list entries,
each with the ref of its snapshot. That nothing matches is no failure: the list is
empty, standard error reports that, and the exit code is 0.`,
		Example: `  knowngood find web 'invoice-*.pdf'
  knowngood find web@latest:/srv '*.conf' '*.yaml'
  knowngood find -l web@2026-11-20 '/srv/**/cache/*'`,
		Args:              usage.Takes(2, -1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range args[1:] {
				if !doublestar.ValidatePattern(p) {
					return usage.Errorf("pattern %q is not valid", p)
				}
			}
			list := present.NewEntries(sess.Out, long)
			err := find(cmd.Context(), sess, args[0], args[1:], list)
			if err == nil && list.Count == 0 {
				sess.Out.Notef("nothing found")
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time")
	return cmd
}

// find prints what matches in a snapshot, or in all of an environment.
func find(ctx context.Context, sess *session.Session, text string, patterns []string, list *present.Entries) error {
	ref, sub, err := sess.Ref(text)
	if err != nil {
		return err
	}
	if ref.ID != "" || strings.Contains(ref.String(), "@") {
		return findInOne(ctx, sess, text, patterns, list)
	}

	unusable := sess.Out.Problems()
	snapshots, damaged, err := catalog.Named(ctx, sess, strings.SplitN(text, ":/", 2)[0], unusable.AddError)
	searched, unsearched := []present.SnapshotJSON{}, []error(nil)
	for _, s := range snapshots {
		if err != nil {
			break
		}
		err = findInSnapshot(ctx, sess.Repo, s.Snapshot, sub, patterns, list)
		switch {
		case err == nil:
			searched = append(searched, present.Snapshot(sess.Repo, s.Snapshot))
		case authentic.Damaged(err):
			unsearched, err = append(unsearched, fmt.Errorf("%s: %w", s.Ref(), err)), nil
		}
	}
	err = list.End(present.FoundJSON{Snapshots: searched}, err)

	for _, err := range unsearched {
		sess.Damage.Add(err)
		unusable.AddError(err)
		damaged = fmt.Errorf("%w: what is named above could not be searched; knowngood check shows more", exit.ErrDamage)
	}
	unusable.End()
	if err == nil {
		err = damaged
	}
	return err
}

func findInOne(ctx context.Context, sess *session.Session, text string, patterns []string, list *present.Entries) error {
	tree, sub, err := sess.Tree(ctx, text)
	if err != nil {
		return err
	}
	defer tree.Reader.Close()
	ref := ""
	if sess.Out.JSON {
		ref = tree.Snapshot.Ref()
	}
	err = findIn(ctx, tree, sub, patterns, func(e *manifest.Entry) error { return list.Add(ref, e) })
	return list.End(present.FoundJSON{Snapshots: []present.SnapshotJSON{present.Snapshot(sess.Repo, tree.Snapshot)}}, err)
}

func findInSnapshot(ctx context.Context, r *repository.Repository, s *history.Snapshot, sub string, patterns []string, list *present.Entries) error {
	tree, err := snapshot.OpenTree(ctx, r, s)
	if err != nil {
		return err
	}
	defer tree.Reader.Close()
	return findIn(ctx, tree, sub, patterns, func(e *manifest.Entry) error { return list.Add(s.Ref(), e) })
}

// findIn calls f for each entry of a tree that matches a pattern.
func findIn(ctx context.Context, tree *snapshot.Tree, sub string, patterns []string, f func(*manifest.Entry) error) error {
	return entries(ctx, tree, sub, func(e *manifest.Entry) error {
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
		return f(e)
	})
}
