package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand is for those who build packages.
func manCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:         "man DIR",
		Short:       "Write the manual pages into a directory",
		Example:     "  knowngood man /usr/share/man/man1",
		Hidden:      true,
		Args:        usage.Takes(1, 1),
		Annotations: map[string]string{"config": "none"},
		RunE: func(cmd *cobra.Command, args []string) error {
			built := time.Now()
			if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
				seconds, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return usage.Errorf("SOURCE_DATE_EPOCH: %q is no number of seconds", text)
				}
				built = time.Unix(seconds, 0).UTC()
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "1", Source: "knowngood " + version, Manual: "knowngood", Date: &built}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("manual pages in %s: %w", args[0], err)
			}
			return nil
		},
	}
}
