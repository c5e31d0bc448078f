package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the newest snapshot of each environment",
		Long:  "Show the newest snapshot of each environment of this host and its age. No identity is needed for a host's own.",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			hosts, err := a.hosts(ctx, r, false)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
			if !a.json {
				fmt.Fprintln(w, "ENVIRONMENT\tHOST\tNEWEST\tAGE\tSTATUS\tFILES\tSIZE")
			}
			out := []map[string]any{}
			for _, h := range hosts {
				envs, err := r.Environments(ctx, h)
				if err != nil {
					return err
				}
				for _, env := range envs {
					s, err := r.Head(ctx, h, env)
					if err != nil {
						return err
					}
					if s == nil {
						continue
					}
					j, age := toJSON(s), "-"
					line := map[string]any{"environment": env, "host": h, "newest": j}
					if j.Time != nil {
						age = humanize.RelTime(*j.Time, time.Now(), "ago", "from now")
						line["age_seconds"] = time.Since(*j.Time).Seconds()
					}
					out = append(out, line)
					if !a.json {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", env, h, j.Ref, age, j.Status, count(j.Files), bytesText(j.Bytes))
					}
				}
			}
			if err := a.result(map[string]any{"type": "result", "environments": out}); err != nil {
				return err
			}
			return w.Flush()
		},
	}
}
