package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

func lsCommand(a *app) *cobra.Command {
	var recursive, long bool
	cmd := &cobra.Command{
		Use:   "ls REF[:PATH]",
		Short: "List the files of a snapshot",
		Long: `List the files of a snapshot, or those in one of its directories. What is below
directories is listed with --recursive.

--json prints one result: the snapshot, the path, and the list entries.`,
		Example: `  knowngood ls web@latest
  knowngood ls -l web@42:/srv/web
  knowngood ls -R web-7/web@2026-11-20:/etc --json`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: a.completeRefs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tree, sub, err := a.tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer tree.Reader.Close()
			found, list := false, a.entryList(long)
			err = a.entries(cmd.Context(), tree, sub, func(e *manifest.Entry) error {
				found = true
				rest := strings.TrimPrefix(strings.TrimPrefix(e.Path, sub), "/")
				if !recursive && strings.Contains(rest, "/") || rest == "" && e.Type == manifest.Dir {
					return nil
				}
				return list.add("", e)
			})
			if err == nil && !found {
				return fmt.Errorf("%w: %q in %s", restore.ErrNoPath, "/"+sub, tree.Snapshot.Ref())
			}
			return list.end(listedJSON{Snapshot: a.toJSON(tree.Snapshot), PathJSON: console.JSONPath(sub)}, err)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list what is below, too")
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time")
	return cmd
}

// tree opens the manifest that a reference names.
func (a *app) tree(ctx context.Context, ref string) (*snapshot.Tree, string, error) {
	r, err := a.openForReading(ctx)
	if err != nil {
		return nil, "", err
	}
	s, sub, err := a.resolve(ctx, r, ref)
	if err != nil {
		return nil, "", err
	}
	t, err := snapshot.OpenTree(ctx, r, s)
	return t, sub, err
}

// entries calls f for each entry below a path; damage is an error.
func (a *app) entries(ctx context.Context, t *snapshot.Tree, under string, f func(*manifest.Entry) error) error {
	for e, err := range t.Entries(ctx, under) {
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func ownerText(name string, id uint32) string {
	if name != "" {
		return printable.Name(name)
	}
	return fmt.Sprint(id)
}

// modeText is the mode as ls(1) prints it.
func modeText(e *manifest.Entry) string {
	kind := map[manifest.Type]byte{manifest.Dir: 'd', manifest.Symlink: 'l', manifest.Fifo: 'p', manifest.Socket: 's', manifest.CharDevice: 'c', manifest.BlockDevice: 'b'}
	text := []byte("-rwxrwxrwx")
	if k, ok := kind[e.Type]; ok {
		text[0] = k
	}
	for i := range 9 {
		if e.Mode&(0o400>>i) == 0 {
			text[1+i] = '-'
		}
	}
	for _, special := range []struct {
		bit    uint32
		at     int
		letter byte // in capitals where execution is not allowed
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if e.Mode&special.bit == 0 {
			continue
		}
		if text[special.at] == '-' {
			special.letter -= 'a' - 'A'
		}
		text[special.at] = special.letter
	}
	return string(text)
}
