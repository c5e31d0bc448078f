package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

func pruneCommand(a *app) *cobra.Command {
	var announce, budget string
	var all, dryRun bool
	var keep usage.Keep
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free what no kept snapshot needs",
		Long: `Free what only forgotten snapshots need, and what runs that died have left:
packs, manifest containers, index runs that others replaced.

It takes at least two runs, and nothing is deleted by the first. A run announces
what is not needed and is 48 hours old: what is younger may belong to a capture
under way, and is left for a later run. Captures store announced content again. A
run after the time of --announce (7 days by default), by the store's clock, deletes
what is still not needed, and spares what is needed again. So prune needs no locks,
and captures may run at any time. It may be stopped at any moment; run it once a
day.

Nothing of a host is deleted while one of its snapshots does not verify. What the
store keeps locked is left for a later run. On a bucket that keeps versions all
versions of what is deleted go, which takes s3:DeleteObjectVersion.

With --max-repack, packs of which little is still needed are rewritten, up to
that many bytes of them a run, the emptiest first, so that their space is freed as
well. It takes an identity, on the host itself. What is locked for long is left
alone. A dry run estimates how much that is, without reading packs.

With --keep rules, what they keep of each environment stays, whatever its host
forgot: who took a host over can forget with its key. They go by the times at
which the store took the snapshots, not by the host's word. A snapshot of which a
source collapsed, by the counts in the roots, takes no place of a good one there;
without rules, the good ones stay that its host forgot of the seven days before
that. knowngood accept, with an identity, ends it.

This host's own objects take no identity; those of others do (--all-hosts, or
--host NAME with --identity).`,
		Example: `  knowngood prune --dry-run
  knowngood prune
  knowngood prune --max-repack 10GiB --identity ~/knowngood.identity
  knowngood prune --all-hosts --keep-daily 30 --identity ~/knowngood.identity`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := prune.Options{Host: a.host, DryRun: dryRun, Progress: &prune.Progress{}}
			if p := a.config.Prune; p != nil {
				o.Announce, o.MaxRepack = time.Duration(p.Announce), uint64(p.MaxRepack)
			}
			if err := keep.Read(); err != nil {
				return err
			}
			if keep.Given(cmd.Flags()) {
				o.Policy = func(string, string) *retention.Policy { return &keep.Policy }
			}
			if budget != "" {
				n, err := configs.ParseSize(budget)
				if err != nil {
					return usage.Errorf("--max-repack: %w", err)
				}
				o.MaxRepack = uint64(n)
			}
			if announce != "" {
				d, err := configs.ParseDuration(announce)
				if err != nil {
					return usage.Errorf("--announce: %w", err)
				}
				if o.Announce = time.Duration(d); o.Announce < prune.MinAnnounce {
					return usage.Errorf("--announce %s: at least 48h, or a run under way could lose what it reuses", announce)
				}
			}
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			if all {
				o.Host = ""
			} else if o.Host = a.host; o.Host != a.ownHost() {
				known, err := r.AllHosts(cmd.Context())
				if err != nil {
					return err
				}
				if !slices.Contains(known, o.Host) {
					return usage.Errorf("this machine is no host of the repository: name one with --host, or give --all-hosts; there is %s", strings.Join(known, ", "))
				}
			}
			return a.prune(cmd.Context(), r, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all-hosts", false, "prune every host; it takes an identity")
	f.BoolVarP(&dryRun, "dry-run", "n", false, "show what would be done")
	f.StringVar(&announce, "announce", "", "`time` from announcement to deletion, at least 48h (default: of the configuration, else 7d)")
	f.StringVar(&budget, "max-repack", "", "`bytes` of packs rewritten in this run, such as 10GiB (default: of the configuration, else none)")
	keep.Add(f)
	return cmd
}

func (a *app) prune(ctx context.Context, r *repository.Repository, o prune.Options) error {
	p := a.out.Progress(func() console.State {
		return console.State{Bytes: o.Progress.Bytes.Load(), Note: fmt.Sprintf("%s read, %s deleted", human.Counted(o.Progress.Manifests.Load(), "manifest"), human.Counted(o.Progress.Deleted.Load(), "object"))}
	})
	report, err := prune.Run(ctx, r, o)
	p.End()
	if report != nil {
		if err := a.tellPrune(report, &o); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	var blocked []error
	for _, b := range report.Blocked {
		blocked = append(blocked, b.Err)
	}
	console.PrintErrors(a.out, "knowngood: ", report.Blocked)
	switch err := errors.Join(blocked...); {
	case err == nil:
	case authentic.Damaged(err):
		return fmt.Errorf("%w: what the messages above name was not pruned; knowngood check shows more", exit.ErrDamage)
	case len(report.Domains) == 0:
		return err
	default:
		a.out.Code = exit.Incomplete
	}
	return nil
}

// pruneJSON is a domain as --json prints it.
type pruneJSON struct {
	Host      string     `json:"host"`
	Domain    string     `json:"domain"`
	Snapshots uint64     `json:"snapshots"`
	Needed    amountJSON `json:"needed"`
	Announced amountJSON `json:"announced"`
	Waiting   amountJSON `json:"waiting"`
	Due       *time.Time `json:"due,omitempty"`
	Deleted   amountJSON `json:"deleted"`
	Spared    amountJSON `json:"spared"`
	Locked    amountJSON `json:"locked"`
	Repacked  amountJSON `json:"repacked"`
	Rewritten uint64     `json:"rewritten_bytes"`
	Young     amountJSON `json:"left_alone"`
}

type amountJSON struct {
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}

func (a *app) tellPrune(r *prune.Report, o *prune.Options) error {
	dryRun := o.DryRun
	from := time.Now().Add(cmp.Or(o.Announce, prune.DefaultAnnounce)).Format("2006-01-02 15:04")
	out, blocked := []pruneJSON{}, []string{}
	would := ""
	if dryRun {
		would = "would be "
	}
	freed := uint64(0)
	for _, d := range r.Domains {
		j := pruneJSON{d.Host, d.ID.String(), d.Snapshots, amountJSON(d.Needed), amountJSON(d.Announced), amountJSON(d.Waiting), nil, amountJSON(d.Deleted), amountJSON(d.Spared), amountJSON(d.Locked), amountJSON(d.Repacked), d.Rewritten, amountJSON(d.Young)}
		if !d.Due.IsZero() {
			due := d.Due.UTC()
			j.Due = &due
		}
		out = append(out, j)
		freed += d.Deleted.Bytes
		a.out.Printf("host %s: %s kept, %s needed\n", d.Host, human.Counted(d.Snapshots, "snapshot"), amountText(d.Needed))
		rewritten := "rewritten into " + human.Bytes(d.Rewritten)
		if dryRun {
			rewritten = fmt.Sprintf("would be read and rewritten into about %s: about %s more would be freed later", human.Bytes(d.Rewritten), human.Bytes(d.Repacked.Bytes-min(d.Rewritten, d.Repacked.Bytes)))
		}
		for _, line := range []struct {
			amount prune.Amount
			text   string
		}{
			{d.Deleted, would + "deleted"},
			{d.Repacked, rewritten},
			{d.Announced, would + "announced for deletion; a run from " + from + " on deletes them"},
			{d.Waiting, "announced before; the first may be deleted from " + d.Due.Local().Format("2006-01-02 15:04")},
			{d.Spared, would + "spared: announced, but needed again"},
			{d.Locked, "not deleted: the store keeps them locked"},
			{d.Young, "not needed, but younger than 48 hours, or of a run under way: left alone, for a later run to announce"},
		} {
			if line.amount.Objects > 0 {
				a.out.Printf("  %s %s\n", amountText(line.amount), line.text)
			}
		}
	}
	for _, n := range r.Notes {
		a.out.Printf("note: %s\n", n)
	}
	for _, b := range r.Blocked {
		blocked = append(blocked, b.Error())
	}
	a.out.Printf("%s %sfreed; %s\n", human.Bytes(freed), would, human.Duration(r.Duration))
	return a.out.Result(map[string]any{"type": "result", "dry_run": dryRun, "status": plannedOr(dryRun, "pruned"), "domains": out, "freed_bytes": freed, "blocked": blocked, "notes": listed(r.Notes), "duration_seconds": r.Duration.Seconds()})
}

func amountText(a prune.Amount) string {
	return fmt.Sprintf("%s of %s", human.Counted(a.Objects, "object"), human.Bytes(a.Bytes))
}
