package objects

import (
	"context"
	"fmt"
	"iter"
	"os"
	"time"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// IndexReader is the index of a domain of any host, as its index runs have it.
// What is announced for deletion can still be read, and is found.
type IndexReader struct {
	runs      *runs
	loaded    *loaded
	deletions *deletion.Deletions
	remove    string // a temporary cache directory
}

// ReadIndex opens the index of a domain for reading. Runs of this host's own
// domain are taken from the copies that its captures keep, unless fetch is set:
// then all are fetched and verified, and cached in a temporary directory.
func (r *Objects) ReadIndex(ctx context.Context, host string, keys *seal.Domain, fetch bool) (*IndexReader, error) {
	d := domain{keys, r, host}
	x := &IndexReader{}
	dir := d.indexDir()
	own, err := r.t.OwnDomain()
	if err != nil {
		return nil, err
	}
	if fetch || own == nil || own.ID != keys.ID || r.t.State.Dir().None() {
		if x.remove, err = os.MkdirTemp("", "knowngood-index-"); err != nil {
			return nil, fmt.Errorf("cache of the index: %w (set TMPDIR to a place with room)", err)
		}
		dir = userdir.At(x.remove)
	}
	if x.runs, err = d.openRuns(dir); err == nil {
		if x.deletions, err = x.runs.excludeDeleted(ctx, false); err == nil {
			x.loaded, err = x.runs.load(ctx, false)
		}
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Close releases the index.
func (x *IndexReader) Close() {
	if x.runs != nil {
		x.runs.table.Close()
	}
	if x.remove != "" {
		os.RemoveAll(x.remove)
	}
}

// Lookup finds a chunk.
func (x *IndexReader) Lookup(id [32]byte) (index.Location, bool) { return x.runs.table.Lookup(id) }

// All yields every chunk that the runs name, with where they have it.
func (x *IndexReader) All() iter.Seq2[[32]byte, index.Location] { return x.runs.table.All }

// PackSizes are the stored bytes of every pack that the runs name.
func (x *IndexReader) PackSizes() map[[32]byte]uint64 { return x.runs.table.PackSizes() }

// Absent reports whether an object is deleted, or about to be.
func (x *IndexReader) Absent(kind wire.Kind, hash [32]byte) bool {
	return x.deletions.Absent(ID{Kind: kind, Hash: hash})
}

// Missing returns those of the index runs named by a root that the store neither
// lists nor has replaced.
func (x *IndexReader) Missing(named [][32]byte) [][32]byte { return x.loaded.missing(named) }

// Scratch makes an empty table that spills into the index's cache directory.
func (x *IndexReader) Scratch() *index.Table { return index.NewTable(x.runs.cache) }

// Replaced are the index runs that are in the store and count as absent,
// because a live one that the store took before a time replaces them, by key;
// and whether there are more that do not count yet for long enough.
func (x *IndexReader) Replaced(ctx context.Context, before time.Time) (old []storage.Object, more bool, err error) {
	by := map[[32]byte][32]byte{}
	live := map[[32]byte]time.Time{}
	for _, run := range x.runs.table.Runs() {
		live[run.Hash] = time.Time{}
		for _, h := range run.Replaces {
			by[h] = run.Hash
		}
	}
	var listed []listedRun
	for o, err := range x.runs.listRuns(ctx) {
		if err != nil {
			return nil, false, err
		}
		if _, isLive := live[o.hash]; isLive {
			live[o.hash] = o.Modified
		} else if _, replaced := by[o.hash]; replaced {
			listed = append(listed, o)
		}
	}
	for _, o := range listed {
		if at := live[by[o.hash]]; at.IsZero() || !at.Before(before) {
			more = true
			continue
		}
		old = append(old, o.Object)
	}
	return old, more || len(x.loaded.damaged) > 0, nil
}

// adoptPacks adds the contents of every pack in the store that no run names.
func (x *IndexReader) adoptPacks(ctx context.Context) error {
	known := x.runs.table.PackSizes()
	return x.readContents(ctx, func(hash [32]byte) bool {
		_, have := known[hash]
		return have || x.Absent(wire.KindPack, hash)
	}, func(info index.PackInfo, c *pack.Contents) error { return x.runs.table.Add(info, c.Frames) })
}

// readContents reads the contents of the packs that the store lists; see
// domain.readContents.
func (x *IndexReader) readContents(ctx context.Context, skip func(hash [32]byte) bool, take func(index.PackInfo, *pack.Contents) error) error {
	d := x.runs.domain
	_, err := d.readContents(ctx, d.listPart(ctx, layout.PrefixPacks(d.host, d.ID)), skip, take)
	return err
}
