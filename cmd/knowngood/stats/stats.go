// Package stats counts how much the kept snapshots of environments hold, and what
// they take in the store. It prints the result.
package stats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"text/tabwriter"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/repository"
)

// needsInFlight is how many manifests are asked for their objects at once.
const needsInFlight = 8

// Print counts the snapshots of an environment, or of all for "", and prints a line
// for each. Without allHosts it is about the host of the session.
func Print(ctx context.Context, sess *session.Session, r *repository.Repository, env string, allHosts bool) error {
	hosts, err := catalog.Hosts(ctx, r, sess.Host, allHosts)
	if err != nil {
		return err
	}
	unusable := sess.Out.Problems()
	snapshots, damaged, err := catalog.Collect(ctx, r, hosts, env, false, unusable.AddError)
	unusable.End()
	if err != nil {
		return err
	}
	lines, err := count(ctx, sess, r, snapshots, &damaged)
	if err != nil {
		return err
	}

	total := &environmentJSON{objects: map[deletion.ObjectID]uint64{}}
	for _, l := range lines {
		total.Snapshots, total.Sealed = total.Snapshots+l.Snapshots, total.Sealed+l.Sealed
		if l.sizesJSON == nil {
			continue
		}
		total.sizesJSON = cmp.Or(total.sizesJSON, &sizesJSON{})
		total.LogicalBytes += l.LogicalBytes
		maps.Copy(total.objects, l.objects)
	}
	for _, l := range append(lines, total) {
		l.sum()
	}
	if sess.Out.JSON {
		return errors.Join(sess.Out.Result(map[string]any{"type": "result", "environments": lines, "total": total}), damaged)
	}
	if len(lines) == 0 {
		sess.Out.Printf("No snapshots yet.\n")
		return damaged
	}

	w := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ENVIRONMENT\tHOST\tSNAPSHOTS\tFILES\tSIZE\tLOGICAL\tSTORED\tRATIO\tADDED")
	for _, l := range lines {
		l.print(w)
	}
	if len(lines) > 1 {
		total.Environment, total.Host = "all", "-"
		total.print(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if total.Sealed > 0 {
		sess.Out.Notef("%s sealed, and only %s: give --identity FILE", english.Plural(int(total.Sealed), "snapshot is", "snapshots are"), english.PluralWord(int(total.Sealed), "counts as a snapshot", "count as snapshots"))
	}
	return damaged
}

// count counts the snapshots of each environment, and what they need. Those
// whose manifests are damaged are reported.
func count(ctx context.Context, sess *session.Session, r *repository.Repository, snapshots []catalog.Snapshot, damaged *error) (lines []*environmentJSON, err error) {
	byEnvironment := map[[2]string]*environmentJSON{}
	needs := r.Needs()
	unusable := sess.Out.Problems()
	defer unusable.End()
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(needsInFlight)
	for _, s := range snapshots {
		of := [2]string{s.Host, s.Environment}
		l := byEnvironment[of]
		if l == nil {
			l = &environmentJSON{Environment: s.Environment, Host: s.Host, objects: map[deletion.ObjectID]uint64{}}
			byEnvironment[of] = l
			lines = append(lines, l)
		}
		newest := present.Snapshot(sess.Repo, s.Snapshot)
		if l.Snapshots++; s.Body == nil {
			newest.Stored = s.At.UTC()
		}
		l.Newest = &newest
		if s.Body == nil {
			l.Sealed++
			continue
		}
		g.Go(func() error {
			objects, err := needs.Of(gctx, s.Snapshot)
			if err != nil && !authentic.Damaged(err) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unusable.AddError(err)
				sess.Damage.Add(err)
				*damaged = fmt.Errorf("%w: what the snapshots named above need is not counted; knowngood check shows more", exit.ErrDamage)
				return nil
			}
			l.sizesJSON = cmp.Or(l.sizesJSON, &sizesJSON{})
			l.LogicalBytes += s.Body.ContentBytes
			maps.Copy(l.objects, objects)
			return nil
		})
	}
	return lines, g.Wait()
}

// environmentJSON is an environment, or all of them, as --json prints it.
type environmentJSON struct {
	Environment string `json:"environment,omitempty"`
	Host        string `json:"host,omitempty"`
	Snapshots   uint64 `json:"snapshots"`
	Sealed      uint64 `json:"sealed"` // which the fields below leave out
	*sizesJSON
	Newest *present.SnapshotJSON `json:"newest,omitempty"`

	objects map[deletion.ObjectID]uint64 // stored sizes
}

// sizesJSON are the figures of snapshots that are not sealed.
type sizesJSON struct {
	LogicalBytes uint64  `json:"logical_bytes"`
	UsedBytes    uint64  `json:"used_bytes"` // what the objects take in the store that they need, each once
	Objects      uint64  `json:"objects"`
	Ratio        float64 `json:"ratio,omitempty"`
}

// sum counts the objects.
func (l *environmentJSON) sum() {
	if l.sizesJSON == nil {
		return
	}
	l.UsedBytes, l.Objects = 0, uint64(len(l.objects))
	for _, size := range l.objects {
		l.UsedBytes += size
	}
	if l.UsedBytes > 0 {
		l.Ratio = float64(l.LogicalBytes) / float64(l.UsedBytes)
	}
}

func (l *environmentJSON) print(w *tabwriter.Writer) {
	files, size, logical, stored, ratio, added := "-", "-", "-", "-", "-", "-"
	if l.sizesJSON != nil {
		logical, stored, ratio = human.Bytes(l.LogicalBytes), human.Bytes(l.UsedBytes), fmt.Sprintf("%.1f", l.Ratio)
	}
	if n := l.Newest; n != nil && n.ContentJSON != nil {
		files, size, _ = n.Columns()
		added = fmt.Sprintf("%s, stored as %s", human.Bytes(n.NewBytes), human.Bytes(n.StoredBytes))
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Environment, l.Host, l.Snapshots, files, size, logical, stored, ratio, added)
}
