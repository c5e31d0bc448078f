package present

import (
	"cmp"
	"fmt"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/snapshot/prune"
)

// pruneJSON is a domain as --json prints it.
type pruneJSON struct {
	prune.Domain
	ID string `json:"domain"`
}

func Prune(out *console.Console, r *prune.Report, o *prune.Options) error {
	dryRun := o.DryRun
	from := time.Now().Add(cmp.Or(o.Announce, prune.DefaultAnnounce)).Format("2006-01-02 15:04")
	domains := []pruneJSON{}
	would := ""
	if dryRun {
		would = "would be "
	}
	freed := uint64(0)
	for _, d := range r.Domains {
		d.Due = d.Due.UTC()
		domains = append(domains, pruneJSON{d, d.ID.String()})
		freed += d.Deleted.Bytes
		out.Printf("host %s: %s kept, %s needed\n", d.Host, human.Counted(d.Snapshots, "snapshot"), amountText(d.Needed))
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
			{d.Young, "not needed, but younger than 48 hours, or of a run under way: a later run announces it"},
		} {
			if line.amount.Objects > 0 {
				out.Printf("  %s %s\n", amountText(line.amount), line.text)
			}
		}
	}
	for _, n := range r.Notes {
		printNote(out, n)
	}
	out.Printf("%s %sfreed; %s\n", human.Bytes(freed), would, human.Duration(r.Duration))
	return out.Result(map[string]any{"type": "result", "dry_run": dryRun, "status": PlannedOr(dryRun, "pruned"), "domains": domains, "freed_bytes": freed, "blocked": console.Each(r.Blocked, prune.Blocked.Error), "notes": r.Notes, "duration_seconds": r.Duration.Seconds()})
}

func amountText(a prune.Amount) string {
	return fmt.Sprintf("%s of %s", human.Counted(a.Objects, "object"), human.Bytes(a.Bytes))
}
