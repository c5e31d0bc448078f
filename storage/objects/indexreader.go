package objects

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// IndexReader is the index of a domain of any host, as its index runs have it.
// What is announced for deletion can still be read, and is found.
type IndexReader struct {
	view
	remove string // a temporary cache directory
}

// ReadIndex opens the index of a domain for reading. Copies of its runs are kept in
// the state directory, and verified when they are used again; those that again chooses,
// unless it is nil, are fetched again. Where there is no state directory, or none that
// they can be kept in, they lie in a temporary one.
func (r *Objects) ReadIndex(ctx context.Context, host string, keys *seal.Domain, again func(hash [32]byte) bool) (*IndexReader, error) {
	d := domain{keys, r, host}
	own, err := r.t.OwnDomain()
	if err != nil {
		return nil, err
	}
	if again == nil {
		again = func([32]byte) bool { return false }
	}
	read := func(x *IndexReader, dir userdir.Dir) (*IndexReader, error) {
		if x.runs, err = d.openRuns(dir); err == nil {
			x.runs.again, x.runs.foreign = again, own == nil || own.ID != keys.ID
			err = x.refresh(ctx, false)
		}
		if err != nil {
			x.Close()
			return nil, err
		}
		return x, nil
	}
	if !r.t.State.None() {
		x, err := read(&IndexReader{}, d.indexDir())
		if !errors.Is(err, index.ErrCache) {
			return x, err
		}
	}
	dir, err := os.MkdirTemp("", "knowngood-index-")
	if err != nil {
		return nil, fmt.Errorf("cache of the index: %w (set TMPDIR to a place with room)", err)
	}
	return read(&IndexReader{remove: dir}, userdir.At(dir))
}

// Close releases the index.
func (x *IndexReader) Close() {
	if x.runs != nil {
		x.runs.close()
	}
	if x.remove != "" {
		os.RemoveAll(x.remove)
	}
}

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
// and whether there are more: that do not count yet for long enough, or that are
// among those named.
func (x *IndexReader) Replaced(ctx context.Context, before time.Time, named [][32]byte) (old []storage.Object, more bool, err error) {
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
		if at := live[by[o.hash]]; at.IsZero() || !at.Before(before) || slices.Contains(named, o.hash) {
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
	}, func(info pack.Ref, c *pack.Contents) error { return x.runs.table.Add(info, c.Files) })
}

// readContents reads the contents of the packs that the store lists; see
// domain.readContents.
func (x *IndexReader) readContents(ctx context.Context, skip func(hash [32]byte) bool, take func(pack.Ref, *pack.Contents) error) error {
	d := x.runs.domain
	all, covered, err := d.listBeneath(ctx, layout.PrefixPacks(d.host, d.ID))
	if err != nil {
		return err
	}
	_, err = d.readContents(ctx, all, covered, skip, take)
	return err
}
