package main

import (
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
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

func pruneCommand(sess *session.Session) *cobra.Command {
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
			o := prune.Options{Host: sess.Host, DryRun: dryRun, Progress: &prune.Progress{}}
			if p := sess.Config.Prune; p != nil {
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
			r, err := sess.Open(cmd.Context())
			if err != nil {
				return err
			}
			if all {
				o.Host = ""
			} else if o.Host = sess.Host; o.Host != sess.OwnHost() {
				known, err := r.AllHosts(cmd.Context())
				if err != nil {
					return err
				}
				if !slices.Contains(known, o.Host) {
					return usage.Errorf("this machine is no host of the repository: name one with --host, or give --all-hosts; there is %s", strings.Join(known, ", "))
				}
			}
			return runPrune(cmd.Context(), sess, r, o)
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

func runPrune(ctx context.Context, sess *session.Session, r *repository.Repository, o prune.Options) error {
	p := sess.Out.Progress(func() console.State {
		return console.State{Bytes: o.Progress.Bytes.Load(), Note: fmt.Sprintf("%s read, %s deleted", human.Counted(o.Progress.Manifests.Load(), "manifest"), human.Counted(o.Progress.Deleted.Load(), "object"))}
	})
	report, err := prune.Run(ctx, r, o)
	p.End()
	if report == nil {
		return err
	}
	if err := present.Prune(sess.Out, report, &o); err != nil {
		return err
	}

	// What is blocked is printed also where something else ended the run.
	var blocked []error
	for _, b := range report.Blocked {
		blocked = append(blocked, b.Err)
	}
	if len(report.Blocked) == 1 && len(report.Domains) == 0 && err == nil && !authentic.Damaged(blocked[0]) {
		return report.Blocked[0]
	}
	console.PrintErrors(sess.Out, "knowngood: ", report.Blocked)
	switch damage := errors.Join(blocked...); {
	case authentic.Damaged(damage):
		if err != nil {
			console.PrintErrors(sess.Out, "knowngood: ", []error{err})
		}
		return fmt.Errorf("%w: what the messages above name was not pruned; knowngood check shows more", exit.ErrDamage)
	case err != nil || damage == nil:
		return err
	case len(report.Domains) == 0:
		return damage
	default:
		sess.Out.Code = exit.Incomplete
	}
	return nil
}
