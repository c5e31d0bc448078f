package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"

	"github.com/spf13/cobra"
)

// versionText is the version with what it was built from and for.
func versionText() string {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("knowngood %s%s (%s, %s/%s), format 1", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func versionCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  knowngood version
  knowngood version --json`,
		Args:        usage.Takes(0, 0),
		Annotations: map[string]string{"config": "none"},
		RunE: func(*cobra.Command, []string) error {
			sess.Out.Printf("%s\n", versionText())
			return sess.Out.Result(map[string]any{"type": "result", "version": version, "format": 1, "go": runtime.Version()})
		},
	}
}
