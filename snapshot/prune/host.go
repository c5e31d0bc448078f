package prune

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// host is what a run knows of a host.
type host struct {
	*pruner
	name       string
	own        bool          // it is this machine, whose word counts here
	reenrolled bool          // it has several certificates, so that keys of it ended
	present    seal.DomainID // when own: the domain that it has now
	now        time.Time     // of the store, before anything was listed
	facts      map[seal.DomainID]*facts
	snapshots  map[seal.DomainID][]kept
	tombstones map[string]uint64 // serials, by environment

	environments []string
}

// kept is a snapshot whose content must stay.
type kept struct {
	*history.Snapshot
	forgotten bool // by its host; the policy of this run keeps it
}

// host prunes a host, and leaves the reserve that the next run may need.
func (p *pruner) host(ctx context.Context, name string) error {
	domains, err := p.repo.Domains(ctx, name)
	if err != nil || len(domains) == 0 {
		return err
	}
	h := &host{pruner: p, name: name, now: time.Now(), facts: map[seal.DomainID]*facts{}, snapshots: map[seal.DomainID][]kept{}, tombstones: map[string]uint64{}}
	if h.present, h.own, err = thisMachine(ctx, p.repo, name); err != nil {
		return err
	}
	certs, err := p.repo.Certificates(ctx, name)
	if err != nil {
		return err
	}
	if len(certs) == 0 {
		h.note("%s has objects and no certificate of a host: nothing of it is pruned", name)
		return nil
	}
	h.reenrolled = len(certs) > 1
	if p.DryRun {
		return h.prune(ctx, domains)
	}
	if err := p.repo.MaySign(ctx, name); err != nil {
		return err
	}

	if h.now, err = p.repo.StoreTime(ctx, name); err != nil {
		return err
	}
	err = h.prune(ctx, domains)
	if kept := p.repo.KeepReserve(ctx, name); err == nil {
		err = kept
	}
	return err
}

// prune looks in the order that makes it safe: the clock, which was read before
// this, the objects, what was announced, and only then what is needed.
func (h *host) prune(ctx context.Context, domains []seal.DomainID) error {
	for _, d := range domains {
		if err := h.list(ctx, d); err != nil {
			return err
		}
	}
	envs, err := h.repo.EveryEnvironment(ctx, h.name)
	if err != nil {
		return err
	}
	for _, env := range envs {
		if err := h.environment(ctx, env); err != nil {
			return err
		}
	}
	if len(h.snapshots) == 0 {
		h.note("host %s has no snapshot: nothing of it is pruned", h.name)
		return nil
	}
	for _, d := range domains {
		if err := h.blocks(h.name, d.String(), h.domain(ctx, d)); err != nil {
			return err
		}
	}
	return nil
}

// list takes the inventory of a domain, with what delete markers hide. In a domain
// that this machine had before it was enrolled again the word of the host is that
// of whoever had its key then.
func (h *host) list(ctx context.Context, domain seal.DomainID) error {
	f := &facts{host: h.name, domain: domain, own: h.own && domain == h.present, now: h.now, announce: h.Announce, objects: map[deletion.ObjectID]object{}}
	h.facts[domain] = f
	for _, prefix := range []string{layout.PrefixPacks(h.name, domain), layout.PrefixManifests(h.name, domain)} {
		for o, err := range h.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err != nil {
				return err
			}
			if id, ok := deletion.ParseKey(o.Key); ok {
				f.objects[id] = object{uint64(o.Size), o.Modified}
			}
		}
	}
	var err error
	if f.deletions, err = h.repo.Deletions(ctx, h.name, domain); err != nil {
		return err
	}
	if f.binding = f.deletions.Elsewhere(); h.own {
		f.binding, err = h.repo.See(h.name, domain, f.deletions, h.now, h.DryRun)
	}
	return err
}

// environment gathers the kept snapshots of an environment. One that does not
// verify may need anything, so it is an error.
func (h *host) environment(ctx context.Context, env string) error {
	x, err := h.repo.Tombstone(ctx, h.name, env)
	if err != nil {
		return err
	}
	var forgotten, protected statement.Numbers
	if x != nil {
		forgotten, h.tombstones[env] = x.Forgotten, x.Serial
	}
	h.environments = append(h.environments, env)
	if len(forgotten) > 0 {
		if protected, err = h.protected(ctx, env, forgotten); err != nil {
			return err
		}
	}
	count, ended := 0, 0
	for s, err := range h.repo.Except(ctx, h.name, env, forgotten.Without(protected)) {
		if errors.Is(err, statement.ErrEnded) {
			if ended++; ended <= maxNamed {
				h.note("host %s: %v; what it alone needs is not kept", h.name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("environment %s: %w", env, err)
		}
		count++
		again := forgotten.Has(s.Number) && protected.Has(s.Number)
		h.snapshots[s.Root.Domain] = append(h.snapshots[s.Root.Domain], kept{s, again})
	}
	if ended > maxNamed {
		h.note("host %s: %d more roots of %s were signed under certificates that ended; what they alone need is not kept", h.name, ended-maxNamed, env)
	}
	if count == 0 {
		// Unless what lies there, rubbish or lost, is forgotten by its number.
		written, err := h.repo.Written(ctx, h.name, env)
		if err != nil || len(written) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(written)), func(n uint64) bool { return !forgotten.Has(n) }) {
			return err
		}
		return &authentic.DamageError{Key: layout.PrefixRoots(h.name, env), What: "environment", Err: errors.New("none of its snapshots counts")}
	}
	return nil
}

// same makes sure that nobody forgot, or took back, anything meanwhile.
func (h *host) same(ctx context.Context) error {
	envs, err := h.repo.EveryEnvironment(ctx, h.name)
	if err != nil {
		return err
	}
	for _, env := range envs {
		x, err := h.repo.Tombstone(ctx, h.name, env)
		if err != nil {
			return err
		}
		serial := uint64(0)
		if x != nil {
			serial = x.Serial
		}
		if serial != h.tombstones[env] {
			return fmt.Errorf("%w: of %s: run again", ErrChanged, env)
		}
	}
	return nil
}
