package prune

import (
	"context"
	"errors"
	"slices"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// manifest is a list of objects that a kept snapshot needs, with the snapshot.
type manifest struct {
	kept
	objects []pack.Object
	err     error
}

// repack rewrites packs of which little is needed, and says that kept
// snapshots need the new ones instead. Why nothing was rewritten is noted.
func (d *domain) repack(ctx context.Context) error {
	if d.MaxRepack == 0 || d.domain == nil {
		return nil
	}
	would := "was"
	if d.DryRun {
		would = "would be"
	}
	why := func(format string, args ...any) error {
		d.note("host %s: nothing %s repacked: "+format, append([]any{d.name, would}, args...)...)
		return nil
	}
	switch {
	case !d.own:
		return why("its host alone rewrites packs, with the keys that it has now")
	case !d.repo.Unlocked():
		return why("that takes an identity")
	case d.DryRun:
		return d.foresee(ctx)
	}
	host, err := d.repo.Host(ctx)
	if err != nil {
		return err
	}
	err = d.rewrite(ctx, host)
	if authentic.Damaged(err) || errors.Is(err, trust.ErrNoUsableIdentity) || errors.Is(err, seal.ErrWrongKey) || errors.Is(err, objects.ErrOvertaken) || errors.Is(err, objects.ErrLost) || errors.Is(err, storage.ErrFull) {
		return why("%v", err)
	}
	return err
}

// foresee tells what would be rewritten, as far as lists of objects tell.
func (d *domain) foresee(ctx context.Context) error {
	x, err := d.repo.OpenRuns(ctx, d.name, d.domain)
	if err != nil {
		return err
	}
	defer x.Close()
	chosen, err := d.choose(ctx, x)
	for _, c := range chosen {
		d.out.Repacked.add(c.size)
		d.out.Rewritten += uint64(c.share * float64(c.size))
	}
	return err
}

func (d *domain) rewrite(ctx context.Context, host *trust.Host) (err error) {
	x, err := d.repo.OpenIndex(ctx, host, objects.Verification{})
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			x.Done()
		}
		x.Close()
	}()
	chosen, err := d.choose(ctx, x)
	if err != nil || len(chosen) == 0 {
		return err
	}
	r := d.repo.NewReader(d.name, d.domain)
	defer r.Close()
	if err := d.open(ctx, r, chosen); err != nil {
		return err
	}
	needy := d.needy(chosen)
	used, err := d.used(ctx, chosen, needy)
	if err != nil {
		return err
	}
	chosen = slices.DeleteFunc(chosen, func(c *candidate) bool { return c.exact(used) >= maxShare })
	if len(chosen) == 0 {
		return nil
	}
	// Copies elsewhere do not count: nobody has just read them.
	before := map[[32]byte]bool{}
	for h := range x.PackSizes() {
		before[h] = true
	}
	x.PassOver(before)
	stored, err := d.copyOver(ctx, host, x, r, chosen, used)
	if err != nil {
		return err
	}
	into, err := d.rewritten(ctx, x, chosen, used)
	if err != nil {
		return err
	}
	d.out.Rewritten += stored
	for _, c := range chosen {
		delete(d.needed, c.id)
		d.out.Needed.Objects, d.out.Needed.Bytes = d.out.Needed.Objects-1, d.out.Needed.Bytes-c.size
		d.out.Repacked.add(c.size)
	}
	for _, o := range into {
		d.needed[deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}] = true
		d.out.Needed.add(o.Size)
	}
	return nil
}

// resolve is what a manifest needs in the place of an object that it names.
func (d *domain) resolve(m *manifest, o pack.Object) []deletion.ObjectID {
	return d.deletions.Resolve(m.Body.Manifest.Hash, deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}, func(id deletion.ObjectID) bool {
		_, ok := d.objects[id]
		return ok
	})
}

// hold keeps what a repack says is not needed of an object that a kept snapshot
// names, unless this machine is the host: who took that over could have
// anything deleted by a repack. It is the object itself, or, once that is gone,
// all that it was ever said to be rewritten into.
func (d *domain) hold(ctx context.Context, o pack.Object, stand []deletion.ObjectID) error {
	id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
	if d.own || slices.Contains(stand, id) {
		return nil
	}
	if _, there := d.objects[id]; there {
		d.held[id] = true
		return nil
	}
	if d.rewrites == nil {
		var err error
		if d.rewrites, err = d.repo.Rewrites(ctx, d.name, d.id); err != nil {
			return err
		}
	}
	for _, h := range d.rewrites.Beyond(o.Hash) {
		id.Hash = h
		if _, there := d.objects[id]; there {
			d.held[id] = true
		}
	}
	return nil
}

// ownDomain tells whether this machine is the host, and the domain its present
// one.
func (d *domain) ownDomain(ctx context.Context) (bool, error) {
	if !d.host.own {
		return false, nil
	}
	host, err := d.repo.Host(ctx)
	return err == nil && host.Domain.ID == d.id, err
}
