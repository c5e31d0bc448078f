package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/layout"
)

// newest are the newest snapshots of the environments of a domain, as far as they
// open.
func (d *domainCheck) newest() (list []*history.Snapshot) {
	seen := map[string]bool{}
	for _, s := range d.snapshots { // of each environment, the newest first
		if !seen[s.Environment] {
			seen[s.Environment] = true
			list = append(list, s)
		}
	}
	return list
}

// onHost are the bad chunks, and all segments, that the newest snapshot of an
// environment has: its next run stores them again, as far as they did not change
// since. Nothing stores the others again.
func (d *domainCheck) onHost(ctx context.Context) (in map[[32]byte]string, err error) {
	in = map[[32]byte]string{}
	for _, s := range d.newest() {
		tree, err := snapshot.OpenTree(ctx, d.repo, s)
		if authentic.Damaged(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range tree.Table.Segments {
			in[tree.Table.Segments[i].ID] = s.Environment
		}
		for e, err := range tree.Entries(ctx, "") {
			var se *snapshot.SegmentError
			if errors.As(err, &se) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for i := range e.Chunks {
				if id := e.Chunks[i].ID; d.bad[id] != "" {
					in[id] = s.Environment
				}
			}
		}
	}
	return in, nil
}

// heal notes that the next run of an environment heals something.
func (d *domainCheck) heal(env string) { d.heals[Healing{d.host, env}] = true }

// name goes through all snapshots again and names the files that are hurt.
func (d *domainCheck) name(ctx context.Context) error {
	onHost, err := d.onHost(ctx)
	if err != nil {
		return err
	}
	for id, key := range d.bad {
		d.damage(key, fmt.Errorf("chunk %x is lost", id[:8]))
	}
	newest := map[*history.Snapshot]bool{}
	for _, s := range d.newest() {
		newest[s] = true
	}

	for _, s := range d.snapshots {
		tree, err := snapshot.OpenTree(ctx, d.repo, s)
		if err != nil {
			h := Hurt{Ref: s.Ref(), Part: "all of it", Lost: !newest[s]}
			if newest[s] {
				h.Part = "all of it, unless nothing changed since: then the next snapshot stores its list of files again"
				d.heal(s.Environment)
			}
			d.hurts(layout.KeyManifest(d.host, d.domain.ID, s.Body.Manifest.Hash), h)
			continue
		}
		segments := map[string][32]byte{} // by their first paths
		for i := range tree.Table.Segments {
			segments[tree.Table.Segments[i].First] = tree.Table.Segments[i].ID
		}
		for e, err := range tree.Entries(ctx, "") {
			var se *snapshot.SegmentError
			if errors.As(err, &se) {
				object, _ := damagedObject(err)
				if object == "" {
					object = layout.KeyManifest(d.host, d.domain.ID, s.Body.Manifest.Hash)
				}
				env, heals := onHost[segments[se.First]]
				if heals {
					d.heal(env)
				}
				d.hurts(object, Hurt{Ref: s.Ref(), Part: strings.TrimSuffix(se.Error(), ": "+se.Err.Error()), Lost: !heals})
				continue
			}
			if err != nil {
				return err
			}
			d.nameFile(s, e, onHost)
		}
	}
	return nil
}

// nameFile names a file with each damaged object that it needs something of.
func (d *domainCheck) nameFile(s *history.Snapshot, e *manifest.Entry, onHost map[[32]byte]string) {
	lost := map[string]bool{} // by object
	for i := range e.Chunks {
		id := e.Chunks[i].ID
		key, ok := d.bad[id]
		if !ok {
			continue
		}
		env, heals := onHost[id]
		if heals {
			d.heal(env)
		}
		lost[key] = lost[key] || !heals
	}
	for key, lost := range lost {
		d.hurts(key, Hurt{Ref: s.Ref(), Path: e.Path, Lost: lost})
	}
}
