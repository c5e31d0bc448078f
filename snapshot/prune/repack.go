package prune

import (
	"context"
	"errors"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// repacker rewrites packs of which little is needed, in the present domain of
// this host, and with an identity.
type repacker struct {
	*pruner
	facts  *facts // after findNeeds; what is rewritten changes them
	domain *seal.Domain
	found  *Domain // counts what it does
}

// repack rewrites packs of which little is needed, and returns the repacks to be
// published: kept snapshots need the new ones instead. Why nothing was rewritten
// is noted.
func (d *domain) repack(ctx context.Context) ([]statement.Repack, error) {
	if d.MaxRepack == 0 || d.opened == nil {
		return nil, nil
	}
	r := &repacker{d.pruner, d.facts, d.opened, &d.found}
	would := "was"
	if d.DryRun {
		would = "would be"
	}
	why := func(format string, args ...any) ([]statement.Repack, error) {
		d.note("host %s: nothing %s repacked: "+format, append([]any{d.name, would}, args...)...)
		return nil, nil
	}
	switch {
	case !d.facts.own:
		return why("only its host rewrites packs, with the keys that it has now")
	case !d.repo.Unlocked():
		return why("that takes an identity")
	case d.DryRun:
		return nil, r.foresee(ctx)
	}
	host, err := d.repo.Host(ctx)
	if err != nil {
		return nil, err
	}
	repacks, err := r.rewrite(ctx, host)
	if authentic.Damaged(err) || errors.Is(err, trust.ErrNoUsableIdentity) || errors.Is(err, seal.ErrWrongKey) || errors.Is(err, objects.ErrOvertaken) || errors.Is(err, objects.ErrLost) || errors.Is(err, storage.ErrFull) {
		return why("%v", err)
	}
	return repacks, err
}

// foresee counts what would be rewritten, as far as the lists of objects show it.
func (r *repacker) foresee(ctx context.Context) error {
	x, err := r.repo.ReadIndex(ctx, r.facts.host, r.domain, nil)
	if err != nil {
		return err
	}
	defer x.Close()
	chosen, err := r.choose(ctx, x.All(), false)
	for _, c := range chosen {
		r.found.Repacked.add(c.size)
		r.found.Rewritten += uint64(c.share * float64(c.size))
	}
	return err
}

func (r *repacker) rewrite(ctx context.Context, host *trust.Host) (repacks []statement.Repack, err error) {
	x, err := r.repo.OpenIndex(ctx, host, objects.Verification{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			x.Done()
		}
		x.Close()
	}()
	chosen, err := r.choose(ctx, x.All(), true)
	if err != nil || len(chosen) == 0 {
		return nil, err
	}
	reader := r.repo.NewReader(r.facts.host, r.domain)
	defer reader.Close()
	if err := r.open(ctx, reader, chosen); err != nil {
		return nil, err
	}
	used, err := r.used(ctx, chosen, r.needy(chosen))
	if err != nil {
		return nil, err
	}
	chosen = slices.DeleteFunc(chosen, func(c *candidate) bool { return c.exact(used) >= maxShare })
	if len(chosen) == 0 {
		return nil, nil
	}

	// Copies elsewhere do not count: nobody has just read them.
	before := map[[32]byte]bool{}
	for h := range x.PackSizes() {
		before[h] = true
	}
	x.Exclude(before)
	stored, err := r.copyOver(ctx, host, x, reader, chosen, used)
	if err != nil {
		return nil, err
	}
	replaced, err := r.verify(ctx, x, chosen, used)
	if err != nil {
		return nil, err
	}

	r.found.Rewritten += stored
	for _, c := range chosen {
		r.found.Repacked.add(c.size)
	}
	return repacksOf(replaced), r.facts.replace(replaced)
}

// replace puts the new packs in the place of the old ones.
func (f *facts) replace(all []replacement) error {
	for _, r := range all {
		old := deletion.ObjectID{Kind: wire.KindPack, Hash: r.old}
		for _, m := range f.manifests {
			for id := range m.objects.all() {
				needs := m.needs(id)
				i := slices.Index(needs, old)
				if i < 0 {
					continue
				}
				needs = slices.Delete(slices.Clone(needs), i, i+1)
				for _, h := range r.into {
					needs = append(needs, deletion.ObjectID{Kind: wire.KindPack, Hash: h})
				}
				m.stands[id] = needs
			}
		}
	}
	return f.findNeeds()
}
