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
			Use:         "check [FILE]",
			Short:       "Check a configuration file",
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
				c, err := configs.Load(path)
				if err != nil {
					return &usageError{err}
				}
				warnings := c.Warnings()
				for _, w := range warnings {
					a.printf("warning: %s\n", w)
				}
				a.printf("%s is valid: %s\n", path, counted(len(c.Environments), "environment"))
				return a.result(map[string]any{"type": "result", "file": path, "environments": len(c.Environments), "warnings": listed(warnings)})
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
