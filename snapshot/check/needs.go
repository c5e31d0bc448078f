package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/pack"
	"slices"
)

// needs are the objects that a snapshot needs.
type needs struct {
	*history.Snapshot
	objects []pack.Object
	err     error // of reading the list
}

func (d *domainCheck) readList(ctx context.Context, s *history.Snapshot) (needs, error) {
	objects, err := d.reader.Objects(ctx, s.Body)
	return needs{s, objects, err}, nil
}

// needed compares the objects that a snapshot needs with those there are.
func (d *domainCheck) needed(ctx context.Context, l needs) error {
	s, m, objects, err := l.Snapshot, &l.Body.Manifest, l.objects, l.err
	table := tableOf(l.Body)
	d.tablesIn[table] = true
	if err != nil {
		if err := d.need(ctx, s, pack.Object{Kind: m.Kind, Hash: m.Hash, Size: m.Size}); err != nil {
			return err
		}
		d.strangers.unread = true
		key := d.key(table)
		if damage := (*authentic.DamageError)(nil); errors.As(err, &damage) {
			key = damage.Key // that of the list from which this one differs, maybe
		}
		return d.object(key, err)
	}
	there := func(id deletion.ObjectID) bool {
		_, ok := d.packs[id.Hash]
		return ok
	}
	for _, o := range objects {
		id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
		for _, in := range d.deletions.Resolve(m.Hash, id, there) {
			x := o
			if in != id {
				x = pack.Object{Kind: in.Kind, Hash: in.Hash, Size: d.sizes[in.Hash]}
				x.Size = cmp.Or(x.Size, uint64(max(d.packs[in.Hash], 0))) // no index run names it
			}
			if err := d.need(ctx, s, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// need looks for one object, beneath the current view too where no listing
// shows it with its size.
func (d *domainCheck) need(ctx context.Context, s *history.Snapshot, o pack.Object) error {
	have := d.packs
	if o.Kind == wire.KindManifest {
		have = d.containers
	}
	size, ok := have[o.Hash]
	id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
	d.listed[id] = true
	d.locks.add(id, o.Size)
	if ok && uint64(size) == o.Size || d.suspects[id] != nil {
		return nil
	}
	key := d.key(id)
	_, _, err := d.reader.Contents(ctx, o.Kind, o.Hash, int64(o.Size))
	switch {
	case err == nil:
		have[o.Hash] = int64(o.Size)
		if ok {
			return d.otherSize(ctx, id, size, s, o)
		}
		return nil
	case !ok && errors.Is(err, storage.ErrNotFound):
		err = fmt.Errorf("missing, needed by %s", s.Ref())
	case ok:
		err = errSize(size, s.Ref(), o.Size)
	default:
		return d.object(key, err)
	}
	d.suspect(id, err)
	return nil
}

func errSize(listed int64, who string, want uint64) error {
	return fmt.Errorf("%d bytes long, %s says %d", listed, who, want)
}

// otherSize notes an object that the store lists with a size which is not that of
// the object that snapshots need, though that can be read: it lies beneath the
// current view, or something was put behind its bytes.
func (d *domainCheck) otherSize(ctx context.Context, id deletion.ObjectID, listed int64, s *history.Snapshot, o pack.Object) error {
	key := d.key(id)
	all, err := d.repo.Read.Versions(ctx, key)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(v storage.Version) bool { return !v.Marker && uint64(v.Size) == o.Size })
	switch {
	case at == 0: // it is in view by now
		return nil
	case at > 0:
		d.repo.Read.Overwritten(key, all)
		return nil
	}
	d.suspect(id, errSize(listed, s.Ref(), o.Size))
	return nil
}
