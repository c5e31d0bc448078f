package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"knowngood/internal/wire"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

func listCommand(a *app) *cobra.Command {
	var all, forgotten bool
	cmd := &cobra.Command{
		Use:   "list [ENVIRONMENT]",
		Short: "List snapshots, the newest last",
		Long: `List the snapshots of this host, the newest last, or those of one environment.
--all-hosts lists those of every host; --all those too that are forgotten. A host without an identity lists its own;
what only an identity opens is shown as sealed.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			env := ""
			if len(args) == 1 {
				env = args[0]
			}
			return a.list(cmd.Context(), r, env, all, forgotten)
		},
	}
	cmd.Flags().BoolVar(&all, "all-hosts", false, "list the snapshots of every host")
	cmd.Flags().BoolVar(&forgotten, "all", false, "list forgotten snapshots too")
	return cmd
}

// hosts that a command looks at: this one; all when it has nothing there.
func (a *app) hosts(ctx context.Context, r *repository.Repository, all bool) ([]string, error) {
	known, err := r.Hosts(ctx)
	if err != nil || all || !slices.Contains(known, a.host) {
		return known, err
	}
	return []string{a.host}, nil
}

// collect gathers snapshots, oldest first: those that are kept, or with
// forgotten all, and which of them are forgotten. Those that do not verify are
// told and passed over; damaged says so then.
func (a *app) collect(ctx context.Context, r *repository.Repository, env string, all, forgotten bool) (out []*repository.Snapshot, gone map[*repository.Snapshot]bool, damaged error, err error) {
	gone = map[*repository.Snapshot]bool{}
	hosts, err := a.hosts(ctx, r, all)
	if err != nil {
		return nil, nil, nil, err
	}
	found := env == ""
	var have []string
	unusable := a.problems()
	defer unusable.end()
	for _, h := range hosts {
		envs, err := r.Environments(ctx, h)
		if err != nil {
			return nil, nil, nil, err
		}
		have = append(have, envs...)
		for _, e := range envs {
			if env != "" && e != env {
				continue
			}
			found = true
			var some []*repository.Snapshot
			snapshots := r.Kept
			var tombstone *statement.Tombstone
			if forgotten {
				snapshots = r.Snapshots
				if tombstone, err = r.Tombstone(ctx, h, e); err != nil {
					return nil, nil, nil, err
				}
			}
			for s, err := range snapshots(ctx, h, e) {
				if err != nil {
					if !repository.Damaged(err) {
						return nil, nil, nil, err
					}
					unusable.addError(err)
					switch {
					case !errors.Is(err, wire.ErrNewer):
						damaged = fmt.Errorf("%w: the snapshots named above cannot be used; knowngood check tells more", errDamage)
					case damaged == nil:
						damaged = wire.ErrNewer
					}
					continue
				}
				if tombstone != nil && len(some) > 0 && tombstone.Forgotten.Has(s.Number) {
					gone[s] = true
				}
				some = append(some, s)
			}
			slices.Reverse(some)
			out = append(out, some...)
		}
	}
	if !found {
		what := "there is none yet"
		if len(have) > 0 {
			slices.Sort(have)
			what = "there is " + strings.Join(slices.Compact(have), ", ")
		}
		return nil, nil, nil, fmt.Errorf("%w: no environment %q; %s", repository.ErrNoSnapshot, env, what)
	}
	return out, gone, damaged, nil
}

func (a *app) list(ctx context.Context, r *repository.Repository, env string, all, forgotten bool) error {
	snapshots, gone, damaged, err := a.collect(ctx, r, env, all, forgotten)
	if err != nil {
		return err
	}
	slices.SortStableFunc(snapshots, func(x, y *repository.Snapshot) int { return started(x).Compare(started(y)) })
	out := []snapshotJSON{}
	for _, s := range snapshots {
		j := toJSON(s)
		if j.Forgotten = gone[s]; j.Forgotten {
			j.Status = "forgotten"
		}
		out = append(out, j)
	}
	if err := a.result(map[string]any{"type": "result", "snapshots": out}); err != nil {
		return err
	}
	if !a.json && len(out) == 0 {
		a.printf("No snapshots yet. Take one: %s snapshot --repo %s --env NAME PATH...\n", self(), quoted(r.URL()))
	} else if !a.json {
		w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "SNAPSHOT\tHOST\tTIME\tSTATUS\tFILES\tSIZE\tNEW\tID")
		for _, s := range out {
			at := "-"
			if s.Time != nil {
				at = s.Time.Local().Format("2006-01-02 15:04:05")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Ref, s.Host, at, s.Status, count(s.Files), bytesText(s.Bytes), bytesText(s.NewBytes), s.ID[:12])
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return damaged
}

func started(s *repository.Snapshot) time.Time {
	if s.Body == nil {
		return time.Time{}
	}
	return s.Body.Started
}
