package main

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/checking"
)

func configCommand(sess *session.Session) *cobra.Command {
	return usage.Group(&cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration, and try its notifications",
		Example: `  knowngood config check
  knowngood config show --config new.yaml
  knowngood config test-notify`,
	},
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Check a configuration file",
			Long: `Check a configuration file as the daemon does when it starts and reloads: what
is taken here it takes, and what is refused here it refuses. The store is not
connected to. As root it also judges who else could change the file, or a program
that root runs by it.

All mistakes are reported at once, in the order of the lines, with the warnings
among them; of a text that is not YAML, the first one. What may only follow from
another mistake is left out.

It prints what the checks of the daemon (check) read from the store in a month, as
far as the daemon knows how much is stored.

Warnings do not refuse it. With one that is marked as degraded, a daemon takes
snapshots and calls itself degraded.`,
			Example: `  knowngood config check
  knowngood config check ./new.yaml --json`,
			Args:        usage.Takes(0, 1),
			Annotations: map[string]string{"config": "none"},
			RunE: func(_ *cobra.Command, args []string) error {
				path := sess.ConfigPath
				if len(args) == 1 {
					path = args[0]
				}
				path = cmp.Or(path, configs.DefaultPath)
				sess.Advise = true
				c, err := sess.LoadConfig(path)
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
					sess.Out.Printf("warning%s: %s\n", mark, p)
				}
				cost := checking.CostOf(c)
				sess.Out.Printf("check: %s\n", cost.Text)
				sess.Out.Printf("%s is valid: %s\n", path, human.Counted(len(c.Environments), "environment"))
				result := map[string]any{"type": "result", "file": path, "environments": len(c.Environments), "warnings": warnings, "degraded": degraded, "check": cost.Text}
				if cost.Known {
					result["check_bytes_a_month"] = cost.Bytes
				}
				return sess.Out.Result(result)
			},
		},
		&cobra.Command{
			Use:   "show",
			Short: "Show the configuration in force, secrets left out",
			Example: `  knowngood config show
  knowngood config show --config new.yaml --json`,
			Args: usage.Takes(0, 0),
			RunE: func(*cobra.Command, []string) error {
				text, err := sess.Config.YAML()
				if err != nil {
					return err
				}
				if sess.Out.JSON {
					shown, err := yaml.YAMLToJSON(text)
					if err != nil {
						return err
					}
					return sess.Out.Result(map[string]any{"type": "result", "file": sess.ConfigFile, "configuration": json.RawMessage(shown)})
				}
				_, err = fmt.Fprintf(sess.Out.Stdout, "%s", text)
				return err
			},
		},
		testNotifyCommand(sess))
}
