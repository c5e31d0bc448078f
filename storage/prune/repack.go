package prune

import (
	"context"
	"errors"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
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
	if d.MaxRepack == 0 || d.DryRun || d.domain == nil {
		return nil
	}
	why := func(format string, args ...any) error {
		d.note("host %s: nothing was repacked: "+format, append([]any{d.name}, args...)...)
		return nil
	}
	switch {
	case !d.own:
		return why("its host alone rewrites packs, with the keys that it has now")
	case !d.repo.Unlocked():
		return why("that takes an identity")
	}
	host, err := d.repo.Host(ctx)
	if err != nil {
		return err
	}
	err = d.rewrite(ctx, host)
	if repository.Damaged(err) || errors.Is(err, repository.ErrNoUsableIdentity) || errors.Is(err, seal.ErrWrongKey) || errors.Is(err, repository.ErrOvertaken) {
		return why("%v", err)
	}
	return err
}

func (d *domain) rewrite(ctx context.Context, host *repository.Host) (err error) {
	x, err := d.repo.OpenIndex(ctx, host)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			x.Done()
		}
		x.Close()
	}()
	r := d.repo.NewReader(d.name, d.domain)
	defer r.Close()
	chosen, err := d.choose(ctx, r, x)
	if err != nil || len(chosen) == 0 {
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
	record, err := d.rewritten(ctx, x, chosen, used)
	if err != nil || record == nil {
		return err
	}
	d.repacks = append(d.repacks, *record)
	d.out.Rewritten += stored
	for _, c := range chosen {
		delete(d.needed, c.id)
		d.out.Needed.Objects, d.out.Needed.Bytes = d.out.Needed.Objects-1, d.out.Needed.Bytes-c.size
		d.out.Repacked.add(c.size)
	}
	sizes := x.PackSizes()
	for _, h := range record.New {
		if id := (repository.ObjectID{Kind: wire.KindPack, Hash: h}); !d.needed[id] {
			d.needed[id] = true
			d.out.Needed.add(sizes[h])
		}
	}
	return nil
}

// resolve is what a manifest needs in the place of an object that it names. A
// repack is the host's word that all was rewritten: who is not that host keeps
// what is still there, or who took it over could have anything deleted.
func (d *domain) resolve(m *manifest, o pack.Object) []repository.ObjectID {
	id := repository.ObjectID{Kind: o.Kind, Hash: o.Hash}
	there := func(id repository.ObjectID) bool {
		_, ok := d.objects[id]
		return ok
	}
	if !d.own && there(id) {
		return []repository.ObjectID{id}
	}
	return d.deletions.Resolve(m.Body.Manifest.Hash, id, there)
}

// ownDomain tells whether this machine is the host, and the domain its present
// one.
func (d *domain) ownDomain(ctx context.Context) (bool, error) {
	host, err := d.repo.Host(ctx)
	if errors.Is(err, repository.ErrNotEnrolled) || errors.Is(err, repository.ErrCloned) {
		return false, nil
	}
	return err == nil && host.Name == d.name && host.Domain.ID == d.id, err
}

// told are the repacks that kept snapshots still rely on, and that the
// statements read from now on would not tell of.
func (d *domain) told(since uint64) []statement.Repack {
	named := map[[32]byte]bool{}
	for _, m := range d.manifests {
		for _, o := range m.objects {
			named[o.Hash] = true
		}
	}
	spared := map[[32]byte]bool{}
	for _, o := range d.spared {
		spared[o.Hash] = true
	}
	all := d.deletions.Repacks
	for more := true; more; {
		more = false
		for _, x := range all {
			if !slices.ContainsFunc(x.Old, func(h [32]byte) bool { return named[h] }) {
				continue
			}
			for _, h := range x.New {
				more = more || !named[h]
				named[h] = true
			}
		}
	}
	var out []statement.Repack
	for _, x := range all {
		x.Old = slices.DeleteFunc(slices.Clone(x.Old), func(h [32]byte) bool { return !named[h] || spared[h] })
		if x.Serial < since && len(x.Old) > 0 {
			out = append(out, x.Repack)
		}
	}
	return out
}
