package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
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
	opened     map[seal.DomainID]*seal.Domain // those that snapshots are in
	runs       map[seal.DomainID]runs         // of the index
	tombstones map[string]uint64              // serials, by environment

	environments []string
}

// kept is a snapshot whose content must stay.
type kept struct {
	*history.Snapshot
	forgotten bool // by its host; the policy of this run keeps it
}

// runs are the index runs that the newest kept snapshot of a domain names.
type runs struct {
	finished time.Time
	named    [][32]byte
}

// host prunes a host, and leaves the reserve that the next run may need.
func (p *pruner) host(ctx context.Context, name string) error {
	domains, err := p.repo.Domains(ctx, name)
	if err != nil || len(domains) == 0 {
		return err
	}
	h := &host{pruner: p, name: name, now: time.Now(), facts: map[seal.DomainID]*facts{}, snapshots: map[seal.DomainID][]kept{}, opened: map[seal.DomainID]*seal.Domain{}, runs: map[seal.DomainID]runs{}, tombstones: map[string]uint64{}}
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

// domainsInFlight is how many domains are asked for at once: whoever can put objects
// can make any number of folders that look like one.
const domainsInFlight = 16

// prune looks in the order that makes it safe: the clock, which was read before
// this, the objects, what was announced, and only then what is needed.
func (h *host) prune(ctx context.Context, domains []seal.DomainID) error {
	if err := h.list(ctx, domains); err != nil {
		return err
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

	// One after the other where there is something to be read.
	found := make([]*Domain, len(domains))
	defer func() {
		for _, d := range found {
			if d != nil {
				h.report.Domains = append(h.report.Domains, *d)
			}
		}
	}()
	others, octx := errgroup.WithContext(ctx)
	others.SetLimit(domainsInFlight)
	domain := func(ctx context.Context, i int) (err error) {
		found[i], err = h.domain(ctx, domains[i])
		return h.blocks(h.name, domains[i].String(), err)
	}
	for i, d := range domains {
		if len(h.snapshots[d]) > 0 {
			if err := domain(ctx, i); err != nil {
				return err
			}
		}
	}
	for i, d := range domains {
		if len(h.snapshots[d]) == 0 {
			others.Go(func() error { return domain(octx, i) })
		}
	}
	return others.Wait()
}

// list takes the inventory of all domains, with what delete markers hide, and then
// reads what was announced in each.
func (h *host) list(ctx context.Context, domains []seal.DomainID) error {
	for _, d := range domains {
		// In a domain that this machine had before it was enrolled again the claim of the
		// host is that of whoever had its key then.
		h.facts[d] = &facts{host: h.name, domain: d, own: h.own && d == h.present, now: h.now, announce: h.Announce, objects: map[deletion.ObjectID]object{}}
	}
	for _, of := range []struct {
		kind   wire.Kind
		prefix string
		parse  func(key string) (host string, domain seal.DomainID, hash [32]byte, ok bool)
	}{{wire.KindPack, layout.PrefixPackDomains(h.name), layout.ParsePackKey}, {wire.KindManifest, layout.PrefixManifestDomains(h.name), layout.ParseManifestKey}} {
		for o, err := range h.repo.Store().List(ctx, storage.ListOptions{Prefix: of.prefix, Hidden: true}) {
			if err != nil {
				return err
			}
			if _, domain, hash, ok := of.parse(o.Key); ok && h.facts[domain] != nil {
				h.facts[domain].objects[deletion.ObjectID{Kind: of.kind, Hash: hash}] = object{uint64(o.Size), o.Modified}
			}
		}
	}

	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(domainsInFlight)
	for _, f := range h.facts {
		g.Go(func() (err error) {
			if f.deletions, err = h.repo.Deletions(gctx, h.name, f.domain); err != nil {
				return err
			}
			f.published = f.deletions
			if !h.own {
				f.binding = f.deletions.Elsewhere()
				return nil
			}
			f.binding, err = h.repo.See(h.name, f.domain, f.deletions, h.now, h.DryRun)
			return err
		})
	}
	return g.Wait()
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
		h.snapshots[s.Root.Domain] = append(h.snapshots[s.Root.Domain], kept{h.essence(env, s), again})
		if b := s.Body; b != nil && !again && b.Finished.After(h.runs[s.Root.Domain].finished) {
			h.runs[s.Root.Domain] = runs{b.Finished, s.Root.IndexRuns}
		}
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

// essence is what a run needs of a snapshot: a root may be long, and there may be any
// number of them.
func (h *host) essence(env string, s *history.Snapshot) *history.Snapshot {
	root := &statement.Root{Repository: s.Root.Repository, Host: h.name, Environment: env, Number: s.Root.Number, Domain: s.Root.Domain, Epoch: s.Root.Epoch}
	out := &history.Snapshot{Host: root.Host, Environment: root.Environment, Number: s.Number, ID: s.ID, Root: root, Size: s.Size, Stored: s.Stored}
	if s.Body != nil {
		out.Body = &statement.RootBody{Manifest: s.Body.Manifest, Content: s.Body.Content, Objects: s.Body.Objects}
		h.opened[root.Domain] = cmp.Or(h.opened[root.Domain], s.Domain)
		out.Domain = h.opened[root.Domain]
	}
	return out
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
			return fmt.Errorf("environment %s: %w, so nothing more is deleted: run again", env, ErrChanged)
		}
	}
	return nil
}
