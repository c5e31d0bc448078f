package present

import (
	"context"
	"fmt"
	"text/tabwriter"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/snapshot/diff"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

// timelineJSON is a row of a timeline, as --json prints it. Without before there are
// no counts.
type timelineJSON struct {
	SnapshotJSON
	Before string `json:"before,omitempty"`
	*diff.Churn
	Mark  string `json:"mark,omitempty"` // it is marked bad
	Error string `json:"error,omitempty"`
}

// Timeline prints what changed from snapshot to snapshot. Names of snapshots get the
// host in front where own is another one.
func Timeline(ctx context.Context, out *console.Console, r *repository.Repository, own string, rows []diff.Row) error {
	marked := func(*history.Snapshot) string { return "" }
	if len(rows) > 0 {
		marked = Marks(ctx, out, r, rows[0].Snapshot.Host, rows[0].Snapshot.Environment)
	}
	list := console.Each(rows, func(row diff.Row) timelineJSON {
		j := timelineJSON{SnapshotJSON: Snapshot(r, row.Snapshot), Mark: marked(row.Snapshot)}
		switch {
		case row.Err != nil:
			j.Error = row.Err.Error()
		case row.Before != nil:
			j.Before, j.Churn = row.Before.Ref(), &row.Churn
		}
		return j
	})
	if out.JSON {
		return out.Result(map[string]any{"type": "result", "timeline": list})
	}

	w := tabwriter.NewWriter(out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SNAPSHOT\tTIME\tADDED\tREMOVED\tMODIFIED\tMETADATA\tBYTES\tNEW\tSET-UID\tEXECUTABLE\tDETAILS")
	for i := range list {
		j, host := &list[i], ""
		if j.Host != own {
			host = j.Host + "/"
		}
		at := "-"
		if j.Time != nil {
			at = j.Time.Local().Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%s%s\t%s", host, j.Ref, at)
		_, _, stored := j.Columns()
		if c := j.Churn; c == nil {
			fmt.Fprintf(w, "\t-\t-\t-\t-\t-\t%s\t-\t-\t%s\n", stored, printable.Line(j.Error))
		} else {
			fmt.Fprintf(w, "\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\tknowngood diff %s%s %s%s\n", human.Count(c.Added), human.Count(c.Removed), human.Count(c.Modified), human.Count(c.Metadata),
				human.Bytes(c.Bytes), stored, human.Count(c.Privileged), human.Count(c.Executable), host, j.Before, host, j.Ref)
		}
	}
	err := w.Flush()
	for i := range list {
		if list[i].Mark != "" {
			out.Printf("%s is %s\n", list[i].Ref, printable.Line(list[i].Mark))
		}
	}
	return err
}
