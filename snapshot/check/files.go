package check

import (
	"context"
	"iter"
	"slices"

	"golang.org/x/sync/semaphore"

	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
)

const (
	// inFlight is how many lists of objects, tables or segments are read at once.
	inFlight = 16
	// treeMemory bounds what the tables that are read ahead take, segmentMemory the
	// segments, decoded; a single one may take more. containerMemory bounds the
	// containers that are kept from their lists of objects to their tables.
	containerMemory = 32 << 20
	treeMemory      = 32 << 20
	segmentMemory   = 64 << 20
)

// each yields what is in a list.
func each[T any](list []T) func(context.Context) iter.Seq2[T, error] {
	return func(context.Context) iter.Seq2[T, error] {
		return func(yield func(T, error) bool) {
			for _, x := range list {
				if !yield(x, nil) {
					return
				}
			}
		}
	}
}

// files is the list of files of a snapshot.
type files struct {
	*history.Snapshot
	tree   *snapshot.Tree
	err    error  // of opening it
	asked  []bool // of its segments, those that are read for it
	memory int64
}

// part is a segment of a list of files, or its end.
type part struct {
	*files
	end     bool
	i       int
	entries []manifest.Entry
	err     error
	memory  int64
}

// files checks that all that snapshots need is there. Segments that several share
// are looked into once. The oldest snapshots come first: what is new in one mostly lies
// in the container of its table, which is read with that.
func (d *domainCheck) files(ctx context.Context, snapshots []*history.Snapshot) error {
	tables, segments := semaphore.NewWeighted(treeMemory), semaphore.NewWeighted(segmentMemory)
	toOpen := func(ctx context.Context) iter.Seq2[*files, error] {
		return func(yield func(*files, error) bool) {
			for _, s := range slices.Backward(snapshots) {
				f := &files{Snapshot: s, memory: min(int64(s.Body.Manifest.Size), treeMemory)}
				if err := tables.Acquire(ctx, f.memory); !yield(f, err) || err != nil {
					return
				}
			}
		}
	}
	open := func(ctx context.Context, f *files) (*files, error) {
		if f.tree, f.err = snapshot.OpenTreeWith(ctx, d.repo, d.reader, f.Snapshot); f.err == nil {
			f.asked = make([]bool, len(f.tree.Table.Segments))
		}
		return f, nil
	}
	asked := map[[32]byte]bool{}
	parts := func(ctx context.Context) iter.Seq2[part, error] {
		return func(yield func(part, error) bool) {
			for f, err := range ledger.Ordered(ctx, inFlight, toOpen, open) {
				if err != nil {
					yield(part{}, err)
					return
				}
				for i := range f.asked {
					s := &f.tree.Table.Segments[i]
					if asked[s.ID] {
						continue
					}
					asked[s.ID], f.asked[i] = true, true
					p := part{files: f, i: i, memory: min(3*int64(s.ContentLen)+512*int64(s.Entries), segmentMemory)}
					if err := segments.Acquire(ctx, p.memory); !yield(p, err) || err != nil {
						return
					}
				}
				if !yield(part{files: f, end: true}, nil) {
					return
				}
			}
		}
	}
	read := func(ctx context.Context, p part) (part, error) {
		if !p.end {
			p.entries, p.err = p.tree.Segment(ctx, p.i)
		}
		return p, nil
	}
	for p, err := range ledger.Ordered(ctx, inFlight, parts, read) {
		if err != nil {
			return err
		}
		if p.end {
			err = d.end(ctx, p.files)
			tables.Release(p.files.memory)
		} else {
			err = d.segment(p.files, p.i, p.entries, p.err)
			segments.Release(p.memory)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// end checks a list of files after the segments that were read for it.
func (d *domainCheck) end(ctx context.Context, f *files) error {
	key := keyOfTable(f.Body)
	if f.err != nil {
		d.affected, d.affectedTables[key] = true, true
		return d.object(d.key(tableOf(f.Body)), f.err)
	}
	for i := range f.tree.Table.Segments {
		id := f.tree.Table.Segments[i].ID
		if err := d.container(ctx, f.tree.Container(i), id); err != nil {
			return err
		}
		if _, seen := d.segments[id]; !seen && !f.asked[i] { // it could not be read for another one
			entries, err := f.tree.Segment(ctx, i)
			if err := d.segment(f, i, entries, err); err != nil {
				return err
			}
		}
		if d.affectedSegments[id] {
			d.affectedTables[key] = true
		}
	}
	return d.links(ctx, f.Snapshot, f.tree)
}

// segment checks that the chunks of a segment are there; err is that of reading it.
func (d *domainCheck) segment(f *files, i int, entries []manifest.Entry, err error) error {
	id := f.tree.Table.Segments[i].ID
	d.report.Segments++
	if err != nil {
		d.affected, d.affectedSegments[id] = true, true
		return d.object(d.key(f.tree.Container(i)), err)
	}
	for j := range entries {
		for k := range entries[j].Chunks {
			c := &entries[j].Chunks[k]
			if s := d.suspects[deletion.ObjectID{Kind: wire.KindPack, Hash: c.Loc.Pack.Hash}]; s != nil && !d.elsewhere(c.ID) {
				s.needed = true
			}
			if d.bad[c.ID] != "" {
				d.affectedSegments[id] = true
			}
			if d.there(c) {
				continue
			}
			d.affected, d.affectedSegments[id] = true, true
			in := deletion.ObjectID{Kind: wire.KindPack, Hash: c.Loc.Pack.Hash}
			if at, ok := d.indexed[c.ID]; ok && d.suspects[in] == nil { // which took the place of the pack in the hint
				in = at
				d.suspects[in].needed = true
			}
			d.bad[c.ID] = layout.KeyPack(d.host, d.domain.ID, in.Hash)
		}
	}
	d.segments[id] = linksOf(entries)
	return nil
}
