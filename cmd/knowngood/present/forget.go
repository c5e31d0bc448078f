package present

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
)

// forgotten is a snapshot or environment, as --json prints it.
type ForgottenJSON struct {
	Ref     string     `json:"ref"`
	Host    string     `json:"host"`
	Time    *time.Time `json:"time,omitempty"`
	Kept    bool       `json:"kept"`
	Reasons []string   `json:"reasons"`
}

// TakenBack is how so many snapshots are taken back that were forgotten.
func TakenBack(n int) string {
	return "knowngood forget --undo takes that back, until knowngood prune has deleted what " + english.PluralWord(n, "only it needs", "only they need")
}

// PlannedOr is the status that --json prints: nothing was done in a dry run.
func PlannedOr(dryRun bool, done string) string {
	if dryRun {
		return "planned"
	}
	return done
}

func Forgotten(out *console.Console, list []ForgottenJSON, dryRun bool) error {
	if out.JSON {
		return out.Result(map[string]any{"type": "result", "dry_run": dryRun, "status": PlannedOr(dryRun, "forgotten"), "snapshots": list})
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SNAPSHOT\tTIME\tKEPT\tWHY")
	gone := 0
	for _, o := range list {
		at, kept := "-", "yes"
		if o.Time != nil {
			at = o.Time.Local().Format("2006-01-02 15:04:05")
		}
		if !o.Kept {
			kept = "no"
			gone++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Ref, at, kept, strings.Join(o.Reasons, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	all := human.Counted(len(list), "snapshot")
	switch {
	case len(list) == 0:
		out.Printf("nothing is forgotten: there is no snapshot yet\n")
	case gone == 0:
		out.Printf("nothing is forgotten: %s kept\n", english.PluralWord(len(list), all+" is", "all "+all+" are"))
	case dryRun:
		out.Printf("%d of %s would be forgotten\n", gone, all)
	default:
		out.Printf("%d of %s forgotten; %s\n", gone, all, TakenBack(gone))
	}
	return nil
}
