package prune

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/snapshot/retention"
	"knowngood/snapshot/suspect"
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
	own        bool      // it is this machine, whose word counts here
	now        time.Time // of the store, before anything was listed
	inventory  map[seal.DomainID]*inventory
	snapshots  map[seal.DomainID][]kept
	tombstones map[string]uint64 // serials, by environment

	environments []string
}

// inventory is what lies in a domain.
type inventory struct {
	objects   map[deletion.ObjectID]object
	deletions *deletion.Deletions
}

type object struct {
	size uint64
	at   time.Time // when the store took it
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
	h := &host{pruner: p, name: name, now: time.Now(), inventory: map[seal.DomainID]*inventory{}, snapshots: map[seal.DomainID][]kept{}, tombstones: map[string]uint64{}}
	if h.own, err = isThisMachine(ctx, p.repo, name); err != nil {
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

// list takes the inventory of a domain, with what delete markers hide.
func (h *host) list(ctx context.Context, domain seal.DomainID) error {
	i := &inventory{objects: map[deletion.ObjectID]object{}}
	h.inventory[domain] = i
	for _, prefix := range []string{layout.PrefixPacks(h.name, domain), layout.PrefixManifests(h.name, domain)} {
		for o, err := range h.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err != nil {
				return err
			}
			if id, ok := deletion.ParseKey(o.Key); ok {
				i.objects[id] = object{uint64(o.Size), o.Modified}
			}
		}
	}
	var err error
	i.deletions, err = h.repo.Deletions(ctx, h.name, domain)
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
	count := 0
	for s, err := range h.repo.Except(ctx, h.name, env, forgotten.Without(protected)) {
		if errors.Is(err, statement.ErrEnded) {
			h.note("host %s: %v; what it alone needs is not kept", h.name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("environment %s: %w", env, err)
		}
		count++
		again := forgotten.Has(s.Number) && protected.Has(s.Number)
		h.snapshots[s.Root.Domain] = append(h.snapshots[s.Root.Domain], kept{s, again})
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

// protected are the forgotten snapshots that the policy of this run keeps. While
// the newest snapshot of another host is suspect, the good ones that it forgot of
// the days before are protected too, whatever the policy.
func (h *host) protected(ctx context.Context, env string, forgotten statement.Numbers) (statement.Numbers, error) {
	var policy *retention.Policy
	if h.Policy != nil {
		policy = h.Policy(h.name, env)
	}
	if policy == nil && h.own {
		return nil, nil
	}
	roots, err := h.repo.List(ctx, h.name, env)
	if err != nil {
		return nil, err
	}
	written := roots.Written
	suspects, waits, err := h.suspects(ctx, env, written)
	if err != nil {
		return nil, err
	}

	var out []uint64
	if policy != nil {
		if out, err = h.keptBy(ctx, roots, *policy, suspects, forgotten); err != nil {
			return nil, err
		}
		h.noteKept(env, len(out), " that the policy of this run keeps")
	}
	if waits {
		maps.DeleteFunc(written, func(n uint64, _ time.Time) bool { return suspects.Has(n) })
		window, err := h.keptBy(ctx, roots, retention.Policy{Within: suspect.Window}, nil, forgotten)
		if err != nil {
			return nil, err
		}
		window = slices.DeleteFunc(window, func(n uint64) bool { return slices.Contains(out, n) })
		h.noteKept(env, len(window), ", good and of the last days before the suspect ones")
		out = append(out, window...)
	}
	return statement.NumbersOf(out...), nil
}

// noteKept notes how many forgotten snapshots stay, and why.
func (h *host) noteKept(env string, n int, why string) {
	if n > 0 {
		h.note("host %s forgot %s of %s%s: %s", h.name, english.Plural(n, "snapshot", ""), env, why, english.PluralWord(n, "it stays", "they stay"))
	}
}

// maxNamed is how many roots that do not verify are named one by one.
const maxNamed = 10

// keptBy are the forgotten snapshots that a policy keeps, of those written. What
// is forgotten and does not verify takes no place in it, and is taken out of
// written.
//
// Rubbish can be there in any number. Each time that some of it stood in the way,
// twice as many of the others are looked at, too, before the policy is applied
// again.
func (h *host) keptBy(ctx context.Context, roots *history.Listing, policy retention.Policy, suspects, forgotten statement.Numbers) ([]uint64, error) {
	verified, bad := map[uint64]bool{}, 0
	rubbish := func(n uint64) (bool, error) {
		if verified[n] || !forgotten.Has(n) {
			return false, nil
		}
		_, err := roots.Root(ctx, n)
		if authentic.Damaged(err) {
			if bad++; bad <= maxNamed {
				h.note("host %s: %v; it is forgotten, and takes no place among those that are kept", h.name, err)
			}
			delete(roots.Written, n)
			return true, nil
		}
		verified[n] = err == nil
		return false, err
	}
	for more := 1; ; more *= 2 {
		var items []retention.Item
		for n, at := range roots.Written {
			items = append(items, retention.Item{Number: n, Time: at, Suspect: suspects.Has(n)})
		}
		var out []uint64
		found := false
		for _, v := range retention.Apply(policy, items, h.now, time.UTC) {
			if !v.Kept() || !forgotten.Has(v.Number) {
				continue
			}
			bad, err := rubbish(v.Number)
			if err != nil {
				return nil, err
			}
			if found = found || bad; !bad {
				out = append(out, v.Number)
			}
		}
		if !found {
			if bad > maxNamed {
				h.note("host %s: %d more roots that are forgotten do not verify", h.name, bad-maxNamed)
			}
			return out, nil
		}
		looked := 0
		for _, n := range slices.Backward(slices.Sorted(maps.Keys(roots.Written))) {
			if looked == more {
				break
			}
			if verified[n] || !forgotten.Has(n) {
				continue
			}
			looked++
			if _, err := rubbish(n); err != nil {
				return nil, err
			}
		}
	}
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
