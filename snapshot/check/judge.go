package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/internal/wire"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
)

// container looks whether a segment lies only in an object that is missing or
// damaged.
func (d *domainCheck) container(ctx context.Context, in deletion.ObjectID, segment [32]byte) error {
	s := d.suspects[in]
	if s == nil || s.needed {
		return nil
	}
	if in.Kind == wire.KindPack { // what of it cannot be read is damage by itself
		s.lists = true
		return nil
	}
	copies, err := d.reader.SegmentCopies(ctx, segment)
	if err != nil {
		return err
	}
	s.needed = !slices.ContainsFunc(copies, func(c objects.SegmentCopy) bool {
		return d.suspects[deletion.ObjectID{Kind: c.Container.Kind, Hash: c.Container.Hash}] == nil
	})
	return nil
}

// judge decides of each suspect whether it is damage, and forgets bad chunks of
// which there is another copy.
func (d *domainCheck) judge() {
	for id := range d.bad {
		if d.elsewhere(id) {
			delete(d.bad, id)
		}
	}
	unique := map[deletion.ObjectID]bool{} // of what the index has nowhere else
	for _, id := range d.indexed {
		unique[id] = true
	}
	var copied, readable, idle, unsure []string
	for id, s := range d.suspects {
		key, have := d.key(id), d.packs
		if id.Kind == wire.KindManifest {
			have = d.containers
		}
		if s.lists = s.lists || d.tablesIn[id]; d.Sealed || id.Kind == wire.KindManifest {
			s.needed = s.needed || d.tablesIn[id]
		}
		d.report.Suspects = append(d.report.Suspects, key)
		s.needed = s.needed || d.Sealed && d.listed[id] && (unique[id] || id.Kind == wire.KindManifest)
		switch {
		case s.needed:
			d.affected = true
			d.damage(key, s.err)
		case d.Sealed && d.listed[id] && (!d.filesOnly[id.Hash] || d.sizes[id.Hash] == 0 && !d.remnantsElsewhere(id.Hash)): // the index was lost, or it may hold segments
			unsure = append(unsure, fmt.Sprintf("%s (%v)", key, s.err))
		case unique[id]:
			idle = append(idle, fmt.Sprintf("%s (%v)", key, s.err))
			if _, there := have[id.Hash]; there {
				d.report.Spoiled = append(d.report.Spoiled, key)
			}
		case s.lists:
			readable = append(readable, fmt.Sprintf("%s (%v)", key, s.err))
		default:
			copied = append(copied, fmt.Sprintf("%s (%v)", key, s.err))
		}
	}
	if len(unsure) > 0 {
		slices.Sort(unsure)
		d.note(fmt.Sprintf("%s missing or damaged, and only a check with an identity finds out whether what snapshots need of that is stored elsewhere: %s",
			english.Plural(len(unsure), "object is", "objects are"), strings.Join(unsure[:min(len(unsure), maxNamed)], ", ")))
	}
	seen := "in objects that this check read"
	if d.ReadData < 1 {
		seen = "as the lists of other objects show; their data was not read (knowngood check --read-data reads it)"
	}
	d.noteObjects(copied, "what snapshots need of it is stored elsewhere too, "+seen, "what snapshots need of them is stored elsewhere too, "+seen)
	d.noteObjects(readable, "the files in it are stored elsewhere too, and the lists of files in it can still be read, "+seen, "the files in them are stored elsewhere too, and the lists of files in them can still be read, "+seen)
	d.noteObjects(idle, "no snapshot needs it that is kept: what was forgotten may lack something", "no snapshot needs them that is kept: what was forgotten may lack something")
}

// noteObjects notes objects that affect nothing, and why; many is for several.
func (d *domainCheck) noteObjects(list []string, one, many string) {
	if len(list) == 0 {
		return
	}
	slices.Sort(list)
	what := english.PluralWord(len(list), "1 object is missing or damaged and affects nothing, for "+one, fmt.Sprintf("%d objects are missing or damaged and affect nothing, for %s", len(list), many))
	d.note(fmt.Sprintf("%s: %s", what, strings.Join(list[:min(len(list), maxNamed)], ", ")))
}

// maxNamed is how many objects one note names.
const maxNamed = 10
