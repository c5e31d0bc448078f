package objects

import (
	"context"
	"fmt"
	"slices"

	"knowngood/internal/userdir"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// superseded are index runs that the next publication replaces: those that the
// store lost, whose entries are published again, and those that are damaged
// there, once the packs themselves were read. Runs of one process share it, and
// so the lock of the index that is kept open.
type superseded struct{ runs [][32]byte }

// restoreRuns takes runs that are known here and that the store neither lists
// nor has replaced for lost there: what they hold is not saved any more. Of one
// that is in no usable copy here either the packs must be read: complete is
// false then.
func (x *Index) restoreRuns(cached [][32]byte, listed, replaced map[[32]byte]bool) (complete bool, err error) {
	complete = true
	var lost [][32]byte
	for _, run := range x.table.Runs() {
		if !listed[run.Hash] && !replaced[run.Hash] {
			lost = append(lost, run.Hash)
		}
	}
	for _, hash := range cached {
		if listed[hash] || replaced[hash] || slices.Contains(lost, hash) {
			continue
		}
		f, err := x.cache.Open(hash)
		if err != nil {
			complete = false
			if err := x.cache.Remove(hash); err != nil {
				return false, err
			}
			continue
		}
		x.table.Adopt(f)
		lost = append(lost, hash)
	}
	if len(lost) == 0 {
		return complete, nil
	}
	x.table.Unsave(lost)
	x.superseded.runs = append(x.superseded.runs, lost...)
	x.repo.t.Warn(fmt.Errorf("%d index runs of host %s are not in the store any more: what they held is published again; find out what became of them", len(lost), x.host))
	return complete, nil
}

// supersede has the next publication replace runs.
func (x *Index) supersede(runs [][32]byte) {
	if x.shared != nil {
		x.shared.mu.Lock()
		defer x.shared.mu.Unlock()
	}
	x.superseded.runs = append(x.superseded.runs, runs...)
}

// indexDir is where copies of the runs of a domain of this host lie.
func (r *Objects) indexDir(domain seal.DomainID) userdir.Dir {
	return r.t.State.Dir().In("index", domain.String())
}

// publishUnsaved publishes what was added, and replaces superseded runs.
func (x *Index) publishUnsaved(ctx context.Context, host *trust.Host, w *Writer) error {
	unsaved, err := x.table.Unsaved()
	if err != nil {
		return err
	}
	var files []*index.File
	generation := x.table.Generation() + 1
	publish := func(body *index.Body, replaces [][32]byte) error {
		f, err := x.publish(ctx, host, w, generation, replaces, body)
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	var last *index.Body // which replaces: before it is there, the others are not enough
	for body := range unsaved.Bodies() {
		if last != nil {
			if err := publish(last, nil); err != nil {
				return err
			}
		}
		last = body
	}
	replaces := x.superseded.runs
	if last == nil && len(replaces) > 0 {
		last = &index.Body{Entries: func(func(index.Entry) bool) {}}
	}
	if last != nil {
		slices.SortFunc(replaces, deletion.CompareHashes)
		if err := publish(last, slices.Compact(replaces)); err != nil {
			return err
		}
	}
	unsaved.Saved(files...)
	x.superseded.runs = nil
	return nil
}

// MissingRuns are those of the index runs named by a root that the store neither
// lists nor has replaced.
func (x *Index) MissingRuns(named [][32]byte) (missing [][32]byte) {
	for _, hash := range named {
		if !x.seen[hash] {
			missing = append(missing, hash)
		}
	}
	return missing
}

// forgetRuns makes a run begin without any copy of index runs, so that all of
// them are fetched and verified.
func (r *Objects) forgetRuns(dir userdir.Dir) error {
	cache, err := index.OpenCache(dir)
	if err != nil {
		return err
	}
	return cache.Keep(nil)
}
