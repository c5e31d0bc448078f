package prune

import (
	"context"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
)

// lateRoot is how long after an announcement a capture that did not see it may
// still commit: what it saw counts for a day (docs/FORMAT.md section 10), and
// there is an hour for clocks.
const lateRoot = 25 * time.Hour

// recent are the candidates that a snapshot needs which was forgotten less than the
// time of an announcement ago, by the clock of the store.
//
// At the time of the announcement, which this machine, or the owner, signed, it was
// not among the snapshots that were kept. So it came only then, from a capture that
// was under way, or it was taken back for a while. Others need not be read.
func (d *domain) recent(ctx context.Context, candidates map[deletion.ObjectID]deletion.Doom) (map[deletion.ObjectID]bool, error) {
	out := map[deletion.ObjectID]bool{}
	var first, last time.Time
	for _, doom := range candidates {
		if first.IsZero() || doom.At.Before(first) {
			first = doom.At
		}
		if doom.At.After(last) {
			last = doom.At
		}
	}
	if len(candidates) == 0 {
		return out, nil
	}
	probe := d.repo.Descriptor().Probe
	versioned := probe != nil && probe.VersionsKept
	for _, env := range d.environments {
		all, settled, retaken, err := d.repo.Forgotten(ctx, d.name, env, d.now.Add(-d.Announce), first)
		if err != nil {
			return nil, err
		}
		// What was taken back since the announcement and forgotten again counts from
		// then, though that was long ago.
		recent := all.Without(settled)
		if len(recent) == 0 {
			continue
		}
		roots, err := d.repo.List(ctx, d.name, env)
		if err != nil {
			return nil, err
		}
		for n, at := range roots.Written {
			late := at.After(first.Add(-time.Hour)) && at.Before(last.Add(lateRoot))
			// Without versions a root may have been put again later, by the host.
			late = late || !d.host.own && !versioned
			if !recent.Has(n) || !late && !retaken.Has(n) {
				continue
			}
			s, err := roots.Root(ctx, n)
			if err == nil && s.Root.Domain == d.id {
				err = d.needs(ctx, s, out)
			}
			if err != nil && !authentic.Damaged(err) {
				return nil, err
			}
		}
	}
	return out, nil
}

// needs adds the objects that a snapshot needs.
func (d *domain) needs(ctx context.Context, s *history.Snapshot, out map[deletion.ObjectID]bool) error {
	if s.Body == nil {
		return d.repo.Closed(ctx, s.Root)
	}
	objects, err := d.objectsOf(ctx, s)
	if err != nil {
		return err
	}
	m := &manifest{kept: kept{Snapshot: s}}
	for _, o := range objects {
		for _, id := range d.resolve(m, o) {
			out[id] = true
		}
	}
	return nil
}
