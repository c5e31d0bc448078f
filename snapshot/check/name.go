package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
)

// naming names the files that are affected by damage in a domain.
type naming struct {
	*domainOf
	bad      map[[32]byte]string // chunks that are lost, and the key of the pack that had each
	affected map[tableKey]bool   // tables of snapshots that may be
}

// onHost are the bad chunks, and all segments, that the newest snapshot of an
// environment has: its next run stores them again, as far as they did not change
// since. Nothing stores the others again.
func (n *naming) onHost(ctx context.Context) (in map[[32]byte]string, err error) {
	in = map[[32]byte]string{}
	for _, s := range n.newest() {
		tree, err := snapshot.OpenTree(ctx, n.repo, s)
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
			if _, ok := errors.AsType[*snapshot.SegmentError](err); ok {
				continue
			}
			if err != nil {
				return nil, err
			}
			for i := range e.Chunks {
				if id := e.Chunks[i].ID; n.bad[id] != "" {
					in[id] = s.Environment
				}
			}
		}
	}
	return in, nil
}

// run goes again through the snapshots that may be affected, and names the files that are.
func (n *naming) run(ctx context.Context) error {
	onHost, err := n.onHost(ctx)
	if err != nil {
		return err
	}
	for id, key := range n.bad {
		n.damage(key, fmt.Errorf("chunk %x is lost", id[:8]))
	}
	newest := map[*history.Snapshot]bool{}
	for _, s := range n.newest() {
		newest[s] = true
	}

	for _, s := range n.snapshots {
		if !n.affected[keyOfTable(s.Body)] {
			continue
		}
		tree, err := snapshot.OpenTree(ctx, n.repo, s)
		if err != nil {
			h := Affected{Ref: s.Ref(), Part: "all of it", Lost: !newest[s]}
			if newest[s] {
				h.Part = "all of it, unless nothing changed since: then the next snapshot stores its list of files again"
				n.heal(s.Environment)
			}
			n.affects(n.key(tableOf(s.Body)), h)
			continue
		}
		segments := map[string][32]byte{} // by their first paths
		for i := range tree.Table.Segments {
			segments[tree.Table.Segments[i].First] = tree.Table.Segments[i].ID
		}
		for e, err := range tree.Entries(ctx, "") {
			if se, ok := errors.AsType[*snapshot.SegmentError](err); ok {
				object, _ := damagedObject(err)
				object = cmp.Or(object, n.key(tableOf(s.Body)))
				env, heals := onHost[segments[se.First]]
				if heals {
					n.heal(env)
				}
				n.affects(object, Affected{Ref: s.Ref(), Part: strings.TrimSuffix(se.Error(), ": "+se.Err.Error()), Lost: !heals})
				continue
			}
			if err != nil {
				return err
			}
			n.nameFile(s, e, onHost)
		}
	}
	return nil
}

// nameFile names a file with each damaged object that it needs something of.
func (n *naming) nameFile(s *history.Snapshot, e *manifest.Entry, onHost map[[32]byte]string) {
	lost := map[string]bool{} // by object
	for i := range e.Chunks {
		id := e.Chunks[i].ID
		key, ok := n.bad[id]
		if !ok {
			continue
		}
		env, heals := onHost[id]
		if heals {
			n.heal(env)
		}
		lost[key] = lost[key] || !heals
	}
	for key, lost := range lost {
		n.affects(key, Affected{Ref: s.Ref(), Path: e.Path, Lost: lost})
	}
}
