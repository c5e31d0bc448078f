package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"knowngood/configs"
)

func configCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration, and try its notifications",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		Annotations: map[string]string{"config": "none"},
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Check a configuration file",
			Long: `Check a configuration file as the daemon does when it starts and reloads: what
is taken here it takes, and what is refused here it refuses. The store is not
connected to. As root it also judges who else could change the file, or a program
that root runs by it.

Warnings do not refuse it. With one that is marked as degraded, a daemon takes
snapshots and calls itself degraded.`,
			Example: `  knowngood config check
  knowngood config check ./new.yaml --json`,
			Args:        args(cobra.MaximumNArgs(1)),
			Annotations: map[string]string{"config": "none"},
			RunE: func(_ *cobra.Command, args []string) error {
				path := a.configPath
				if len(args) == 1 {
					path = args[0]
				}
				if path == "" {
					path = configs.DefaultPath
				}
				a.advise = true
				c, err := a.loadConfig(path)
				if err != nil {
					return err
				}
				warnings, degraded := []string{}, false
				for _, p := range c.Findings {
					mark := ""
					if p.Degrades() {
						mark, degraded = " (degraded)", true
					}
					warnings = append(warnings, p.Error())
					a.printf("warning%s: %s\n", mark, p)
				}
				a.printf("%s is valid: %s\n", path, counted(len(c.Environments), "environment"))
				return a.result(map[string]any{"type": "result", "file": path, "environments": len(c.Environments), "warnings": warnings, "degraded": degraded})
			},
		},
		&cobra.Command{
			Use:   "show",
			Short: "Show the configuration in force, secrets left out",
			Args:  args(cobra.NoArgs),
			RunE: func(*cobra.Command, []string) error {
				text, err := a.config.YAML()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "%s", text)
				return err
			},
		},
		testNotifyCommand(a))
	return cmd
}
