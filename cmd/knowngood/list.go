package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/internal/printable"
	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// listFlags say which snapshots list shows.
type listFlags struct {
	allHosts, forgotten bool
	tags                []string
	latest, since       string

	newest int       // of latest; 0 for all
	from   time.Time // of since
}

func listCommand(a *app) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list [ENVIRONMENT]",
		Short: "List snapshots, the newest last",
		Long: `List the snapshots of this host, the newest last, or those of one environment.
--all-hosts lists those of every host; --all includes those that are forgotten,
with the reason that was given. A suspect snapshot is one of which a source
collapsed: see knowngood accept.

Without an identity a host sees the details of its own snapshots. Those of others
are shown as sealed, with the time at which the store took them.`,
		Example: `  knowngood list
  knowngood list web --since 7d
  knowngood list --latest --all-hosts
  knowngood list --latest=3 --tag before-upgrade
  knowngood list web --all`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: a.completeEnvironments(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.read(time.Now()); err != nil {
				return err
			}
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			env := ""
			if len(args) == 1 {
				env = args[0]
			}
			return a.list(cmd.Context(), r, env, &f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.allHosts, "all-hosts", false, "list the snapshots of every host")
	fl.BoolVar(&f.forgotten, "all", false, "list forgotten snapshots too")
	fl.StringArrayVar(&f.tags, "tag", nil, "list only snapshots with this `label`; repeated: with all of them")
	fl.StringVar(&f.latest, "latest", "", "list only the newest `N` of each environment, 1 when no number is given")
	usage.Optional(fl.Lookup("latest"), "1")
	fl.StringVar(&f.since, "since", "", "list only snapshots begun since then: a `time` such as 2026-11-20T10:00, or a duration before now such as 7d")
	return cmd
}

// read takes in the flags that are more than a word.
func (f *listFlags) read(now time.Time) error {
	if f.latest != "" {
		n, err := strconv.Atoi(f.latest)
		if err != nil || n < 1 {
			return usage.Errorf("--latest: %q is not a number of snapshots, from 1", f.latest)
		}
		f.newest = n
	}
	if f.since == "" {
		return nil
	}
	at, _, err := history.ParseTime(f.since)
	if err == nil {
		f.from = at
		return nil
	}
	d, err := configs.ParseDuration(f.since)
	if err != nil {
		return usage.Errorf("--since: %q is neither a time such as 2026-11-20 or 2026-11-20T10:00, nor a duration such as 7d or 12h", f.since)
	}
	f.from = now.Add(-time.Duration(d))
	return nil
}

// hosts that a command looks at: this one; all when it has nothing there.
func (a *app) hosts(ctx context.Context, r *repository.Repository, all bool) ([]string, error) {
	known, err := r.AllHosts(ctx)
	if err != nil || all || !slices.Contains(known, a.host) {
		return known, err
	}
	return []string{a.host}, nil
}

// collected is a snapshot that a command looks at.
type collected struct {
	*history.Snapshot
	at        time.Time // when it was begun; when the store took it, if that is sealed
	forgotten bool
	reason    string // why it is forgotten; may be empty
}

// collect gathers snapshots, oldest first: those that are kept, or with
// forgotten all. Those of an environment are in the order of their numbers.
// Those that do not verify are reported and passed over; damaged is an error
// then.
func (a *app) collect(ctx context.Context, r *repository.Repository, env string, allHosts, forgotten bool) (out []collected, damaged error, err error) {
	hosts, err := a.hosts(ctx, r, allHosts)
	if err != nil {
		return nil, nil, err
	}
	there := env == ""
	var have []string
	unusable := a.out.Problems()
	defer unusable.End()
	for _, h := range hosts {
		envs, err := r.EveryEnvironment(ctx, h)
		if err != nil {
			return nil, nil, err
		}
		have = append(have, envs...)
		for _, e := range envs {
			if env != "" && e != env {
				continue
			}
			there = true
			some, bad, err := a.collectOf(ctx, r, h, e, forgotten, unusable)
			if err != nil {
				return nil, nil, err
			}
			if damaged == nil || errors.Is(bad, exit.ErrDamage) {
				damaged = bad
			}
			out = append(out, some...)
		}
	}
	if !there {
		what := "there is none yet"
		if len(have) > 0 {
			slices.Sort(have)
			what = "there is " + strings.Join(slices.Compact(have), ", ")
		}
		return nil, nil, fmt.Errorf("%w: no environment %q; %s", history.ErrNoSnapshot, env, what)
	}

	// A clock that went back must not change the order within an environment.
	times := map[*history.Snapshot]time.Time{}
	latest := map[[2]string]time.Time{}
	for _, s := range out {
		of := [2]string{s.Host, s.Environment}
		if s.at.After(latest[of]) {
			latest[of] = s.at
		}
		times[s.Snapshot] = latest[of]
	}
	slices.SortStableFunc(out, func(x, y collected) int { return times[x.Snapshot].Compare(times[y.Snapshot]) })
	return out, damaged, nil
}

// collectOf gathers the snapshots of one environment, in the order of their
// numbers.
func (a *app) collectOf(ctx context.Context, r *repository.Repository, host, env string, forgotten bool, unusable *console.Problems) (out []collected, damaged error, err error) {
	snapshots := r.Kept
	var tombstone *statement.Tombstone
	if forgotten {
		snapshots = r.Snapshots
		if tombstone, err = r.Tombstone(ctx, host, env); err != nil {
			return nil, nil, err
		}
	}
	var stored map[uint64]time.Time // by the store's clock; nil until it is needed
	for s, err := range snapshots(ctx, host, env) {
		if err != nil {
			if !authentic.Damaged(err) {
				return nil, nil, err
			}
			unusable.AddError(err)
			switch {
			case !errors.Is(err, wire.ErrNewer):
				damaged = fmt.Errorf("%w: the snapshots named above cannot be used; knowngood check shows more", exit.ErrDamage)
			case damaged == nil:
				damaged = wire.ErrNewer
			}
			continue
		}
		x := collected{Snapshot: s}
		if s.Body != nil {
			x.at = s.Body.Started
		} else if stored == nil {
			if stored, err = r.Written(ctx, host, env); err != nil {
				return nil, nil, err
			}
		}
		if s.Body == nil {
			x.at = stored[s.Number]
		}
		// The newest is never forgotten.
		if tombstone != nil && len(out) > 0 && tombstone.Forgotten.Has(s.Number) {
			x.forgotten, x.reason = true, tombstone.ReasonOf(s.Number)
		}
		out = append(out, x)
	}
	slices.Reverse(out)
	return out, damaged, nil
}

// selected are the snapshots that the flags choose. sealed is how many of them
// have no tags that could be read.
func (f *listFlags) selected(all []collected) (out []collected, sealed int) {
	count := map[[2]string]int{}
	for _, s := range slices.Backward(all) {
		if s.at.Before(f.from) {
			continue
		}
		if len(f.tags) > 0 && s.Body == nil {
			sealed++
			continue
		}
		if slices.ContainsFunc(f.tags, func(tag string) bool { return !slices.Contains(s.Body.Tags, tag) }) {
			continue
		}
		of := [2]string{s.Host, s.Environment}
		if count[of]++; f.newest > 0 && count[of] > f.newest {
			continue
		}
		out = append(out, s)
	}
	slices.Reverse(out)
	return out, sealed
}

func (a *app) list(ctx context.Context, r *repository.Repository, env string, f *listFlags) error {
	all, damaged, err := a.collect(ctx, r, env, f.allHosts, f.forgotten)
	if err != nil {
		return err
	}
	snapshots, sealed := f.selected(all)
	if sealed > 0 {
		a.out.Notef("%s: give --identity FILE", english.Plural(int(sealed), "snapshot is sealed, so its tags are not known, and it is left out", "snapshots are sealed, so their tags are not known, and they are left out"))
	}
	suspect, err := suspects(ctx, r, snapshots)
	if err != nil {
		return err
	}
	out, reasons := []snapshotJSON{}, false
	for _, s := range snapshots {
		j := a.toJSON(s.Snapshot)
		if s.Body == nil {
			j.Stored = s.at.UTC()
		}
		if suspect[s.Snapshot] {
			j.Status = "suspect"
		}
		if j.Forgotten, j.Reason = s.forgotten, s.reason; j.Forgotten {
			j.Status = "forgotten"
		}
		reasons = reasons || j.Reason != ""
		out = append(out, j)
	}
	if a.out.JSON {
		return errors.Join(a.out.Result(map[string]any{"type": "result", "snapshots": out}), damaged)
	}
	switch {
	case len(all) == 0 && damaged != nil:
		a.out.Printf("No snapshot verifies.\n")
		return damaged
	case len(all) == 0:
		a.out.Printf("No snapshots yet. Take one: %s snapshot --repo %s --env NAME PATH...\n", console.Self(), printable.Word(r.URL()))
		return nil
	case len(out) == 0:
		a.out.Printf("No snapshot matches the flags, of %d that there are.\n", len(all))
		return damaged
	}

	w := tabwriter.NewWriter(a.out.Stdout, 0, 4, 2, ' ', 0)
	head := "SNAPSHOT\tHOST\tTIME\tSTATUS\tFILES\tSIZE\tNEW\tID"
	if reasons {
		head += "\tREASON"
	}
	fmt.Fprintln(w, head)
	for i := range out {
		s := &out[i]
		at := "-"
		if t := snapshots[i].at; !t.IsZero() {
			at = t.Local().Format("2006-01-02 15:04:05")
		}
		files, size, added := s.columns()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", s.Ref, s.Host, at, s.Status, files, size, added, s.ID[:12])
		if reasons {
			fmt.Fprintf(w, "\t%s", printable.Name(s.Reason))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return damaged
}
