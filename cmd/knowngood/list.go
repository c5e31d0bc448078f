package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/storage/repository"
)

// listFlags select the snapshots that list shows.
type listFlags struct {
	allHosts, forgotten bool
	tags                []string
	latest, since       string

	newest int       // of latest; 0 for all
	from   time.Time // of since
}

func listCommand(sess *session.Session) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list [ENVIRONMENT]",
		Short: "List snapshots, the newest last",
		Long: `List the snapshots of this host, the newest last, or those of one environment.
--all-hosts lists those of every host; --all includes those that are forgotten,
with the reason that was given. A suspect snapshot is one of which a source
collapsed: see knowngood accept. What drills proved is shown where there is something,
and bad is what is marked so: see knowngood attest bad.

Without an identity a host sees the details of its own snapshots. Those of others
are shown as sealed, with the time at which the store took them.`,
		Example: `  knowngood list
  knowngood list web --since 7d
  knowngood list --latest --all-hosts
  knowngood list --latest=3 --tag before-upgrade
  knowngood list web --all`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.Environments(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.read(time.Now()); err != nil {
				return err
			}
			r, err := sess.Open(cmd.Context())
			if err != nil {
				return err
			}
			env := ""
			if len(args) == 1 {
				env = args[0]
			}
			return list(cmd.Context(), sess, r, env, &f)
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
	from, _, err := usage.Moment("--since", f.since, now)
	f.from = from
	return err
}

// selected are the snapshots that the flags choose. sealed is how many of them
// have no tags that could be read.
func (f *listFlags) selected(all []catalog.Snapshot) (out []catalog.Snapshot, sealed int) {
	count := map[[2]string]int{}
	for _, s := range slices.Backward(all) {
		if s.At.Before(f.from) {
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

func list(ctx context.Context, sess *session.Session, r *repository.Repository, env string, f *listFlags) error {
	since, firstUse := r.TrustedOnFirstUse()
	if firstUse {
		sess.Out.Warnf("this repository is trusted on first use, on %s: nothing shows that it is yours. Give --pin, or an identity file that has its pin", human.Date(since))
	}
	hosts, err := catalog.Hosts(ctx, r, sess.Host, f.allHosts)
	if err != nil {
		return err
	}
	unusable := sess.Out.Problems()
	all, damaged, err := catalog.Collect(ctx, r, hosts, env, f.forgotten, unusable.AddError)
	unusable.End()
	if err != nil {
		return err
	}
	snapshots, sealed := f.selected(all)
	if sealed > 0 {
		sess.Out.Notef("%s: give --identity FILE", english.Plural(int(sealed), "snapshot is sealed, so its tags are not known, and it is left out", "snapshots are sealed, so their tags are not known, and they are left out"))
	}
	suspect, err := catalog.Suspects(ctx, r, snapshots)
	if err != nil {
		return err
	}
	proofs, err := catalog.Proofs(ctx, sess, r, all)
	if err != nil {
		return err
	}
	out, reasons, proven := []present.SnapshotJSON{}, false, false
	for _, s := range snapshots {
		j := present.Snapshot(sess.Repo, s.Snapshot)
		if s.Body == nil {
			j.Stored = s.At.UTC()
		}
		if suspect[s.Snapshot] {
			j.Status = "suspect"
		}
		if proof, judged := proofs[s.Snapshot]; judged {
			j.Prove(proof)
		}
		proven = proven || j.Proof != nil
		if s.Forgotten {
			j.Forgotten, j.Reason, j.Status = true, s.Reason, "forgotten"
		}
		reasons = reasons || j.Reason != ""
		out = append(out, j)
	}
	if sess.Out.JSON {
		return errors.Join(sess.Out.Result(map[string]any{"type": "result", "snapshots": out, "trusted_on_first_use": firstUse}), damaged)
	}
	switch {
	case len(all) == 0 && damaged != nil:
		sess.Out.Printf("No snapshot verifies.\n")
		return damaged
	case len(all) == 0:
		sess.Out.Printf("No snapshots yet. Take one: %s snapshot --repo %s --env NAME PATH...\n", console.Self(), printable.Word(r.URL()))
		return nil
	case len(out) == 0:
		sess.Out.Printf("No snapshot matches the flags, of %d that there are.\n", len(all))
		return damaged
	}

	w := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	head := "SNAPSHOT\tHOST\tTIME\tSTATUS\tFILES\tSIZE\tNEW\tID"
	if proven {
		head += "\tPROOF"
	}
	if reasons {
		head += "\tREASON"
	}
	fmt.Fprintln(w, head)
	for i := range out {
		s := &out[i]
		at := "-"
		if t := snapshots[i].At; !t.IsZero() {
			at = t.Local().Format("2006-01-02 15:04:05")
		}
		files, size, added := s.Columns()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", s.Ref, s.Host, at, s.Status, files, size, added, s.ID[:12])
		if proven {
			fmt.Fprintf(w, "\t%s", present.ProofColumn(proofs[snapshots[i].Snapshot]))
		}
		if reasons {
			fmt.Fprintf(w, "\t%s", printable.Line(s.Reason))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return damaged
}
