package main

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"knowngood/snapshot/manifest"
)

func findCommand(a *app) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "find REF[:PATH] PATTERN...",
		Short: "Find files of a snapshot by name",
		Long: `Find files of a snapshot whose name matches a pattern (*, ?, [a-z], {a,b}); a
pattern with a slash is matched with the whole path, and ** crosses directories.`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range args[1:] {
				if !doublestar.ValidatePattern(p) {
					return usagef("pattern %q is not valid", p)
				}
			}
			tree, sub, err := a.tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer tree.Reader.Close()
			found := 0
			err = a.entries(cmd.Context(), tree, sub, func(e *manifest.Entry) error {
				for _, p := range args[1:] {
					subject := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
					if strings.Contains(p, "/") {
						subject = "/" + e.Path
					}
					if ok, _ := doublestar.Match(p, subject); ok {
						found++
						return a.entry(e, long)
					}
				}
				return nil
			})
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
