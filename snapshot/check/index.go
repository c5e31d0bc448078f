package check

import (
	"errors"
	"fmt"
	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/seal"
)

// index compares the runs with what the packs hold.
func (d *domainCheck) index(x *objects.IndexReader) {
	for id, loc := range x.All() {
		d.report.Chunks++
		in := deletion.ObjectID{Kind: wire.KindPack, Hash: loc.Pack.Hash}
		_, there := d.packs[in.Hash]
		switch {
		case !there && x.Absent(in.Kind, in.Hash):
			continue // pruned, or about to be
		case !there:
			d.suspect(in, errors.New("the index names it, but it is not there"))
		}
		if d.suspects[in] != nil {
			if answer, ok := x.Lookup(id); ok && answer.Pack.Hash == loc.Pack.Hash && !d.elsewhere(id) {
				d.indexed[id] = in
			}
			continue
		}
		real, ok := d.actual.Lookup(id)
		if !ok || real.Pack.Hash == loc.Pack.Hash && (real.FrameOffset != loc.FrameOffset || real.Offset != loc.Offset || real.Len != loc.Len) {
			d.note(fmt.Sprintf("the index has chunk %x in pack %x, whose contents say otherwise: restores look into the pack", id[:8], loc.Pack.Hash[:8]))
		}
	}
}

// indexSizes compares the sizes of packs as the index has them with those that the
// store lists. Where snapshots need a pack their lists were compared before: then
// it is the index that is wrong.
func (d *domainCheck) indexSizes() {
	for hash, want := range d.sizes {
		id := deletion.ObjectID{Kind: wire.KindPack, Hash: hash}
		listed, there := d.packs[hash]
		switch {
		case !there || uint64(listed) == want || d.suspects[id] != nil:
		case d.listed[id]:
			d.note(fmt.Sprintf("%s is %d bytes long, as snapshots say, and the index says %d: the next snapshot may store again what lies in it", d.key(id), listed, want))
		default:
			d.suspect(id, errSize(listed, "the index", want))
		}
	}
}

// runs compares the index runs that the newest snapshot of the domain saw with
// those that the store has. What one held can be read from the packs, so nothing
// is lost with it; somebody removed it all the same.
func (d *domainCheck) runs(x *objects.IndexReader) {
	var newest *history.Snapshot
	for _, s := range d.snapshots {
		if newest == nil || s.Body.Finished.After(newest.Body.Finished) {
			newest = s
		}
	}
	if newest == nil {
		return
	}
	for _, hash := range x.Missing(newest.Root.IndexRuns) {
		d.heal(newest.Environment)
		d.damage(missingRun(d.host, d.domain.ID, hash), fmt.Errorf("missing, seen by %s: the next snapshot of the host publishes again what it held", newest.Ref()))
	}
}

// missingRun names an index run whose generation is not known.
func missingRun(host string, domain seal.DomainID, hash [32]byte) string {
	return fmt.Sprintf("%s*-%x", layout.PrefixIndexRuns(host, domain), hash)
}
