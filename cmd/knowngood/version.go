package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Short:       "Print the version",
		Args:        args(cobra.NoArgs),
		Annotations: map[string]string{"config": "none"},
		RunE: func(*cobra.Command, []string) error {
			revision := ""
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						revision = " " + s.Value
					}
				}
			}
			a.printf("knowngood %s%s (%s, %s/%s), format 1\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return a.result(map[string]any{"type": "result", "version": version, "format": 1, "go": runtime.Version()})
		},
	}
}
