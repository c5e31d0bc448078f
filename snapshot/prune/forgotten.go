package prune

import (
	"context"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/pack"
)

// lateRoot is how long after an announcement a capture that did not see it may
// still commit: what it saw counts for a day (docs/FORMAT.md section 10), and
// there is an hour for clocks.
const lateRoot = 25 * time.Hour

// readForgotten returns the objects that a snapshot needs which was forgotten less
// than the time of an announcement ago, by the clock of the store.
//
// At the time of the announcement, which this machine, or the owner, signed, such a
// snapshot was not among those that were kept. So either it was committed only
// then, by a capture that was under way, or it was taken back for a while. No
// others are read.
func (d *domain) readForgotten(ctx context.Context) (map[deletion.ObjectID]bool, error) {
	var first, last time.Time // announcements
	for _, status := range d.facts.expired() {
		if first.IsZero() || status.At.Before(first) {
			first = status.At
		}
		if status.At.After(last) {
			last = status.At
		}
	}
	recent := map[deletion.ObjectID]bool{}
	if first.IsZero() {
		return recent, nil
	}
	// A root may have been put again later, by who has the host's key: that the
	// store kept versions once does not mean that it does now.
	again := !d.facts.own
	for _, env := range d.environments {
		all, settled, retaken, err := d.repo.Forgotten(ctx, d.name, env, d.now.Add(-d.Announce), first)
		if err != nil {
			return nil, err
		}
		// What was taken back since the announcement and forgotten again counts from
		// then, though that was long ago.
		lately := all.Without(settled)
		if len(lately) == 0 {
			continue
		}
		roots, err := d.repo.List(ctx, d.name, env)
		if err != nil {
			return nil, err
		}
		for n, at := range roots.Written {
			if !lately.Has(n) || !mayNeed(at, first, last, again, retaken.Has(n)) {
				continue
			}
			s, err := roots.Root(ctx, n)
			if err == nil && s.Root.Domain == d.facts.domain {
				var objects []pack.Object
				if objects, err = d.objectsOf(ctx, s); err == nil {
					m := d.manifestOf(s, objects)
					for _, o := range objects {
						for _, id := range m.needs(deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}) {
							recent[id] = true
						}
					}
				}
			}
			if err != nil && !authentic.Damaged(err) {
				return nil, err
			}
		}
	}
	return recent, nil
}

// mayNeed reports whether a snapshot that was forgotten lately may need what was
// announced between first and last, so that its list of objects has to be read.
// root is when the store took its root; again is whether the root may have been
// put again since; retaken is whether the snapshot was taken back since.
func mayNeed(root, first, last time.Time, again, retaken bool) bool {
	return again || retaken || root.After(first.Add(-time.Hour)) && root.Before(last.Add(lateRoot))
}
