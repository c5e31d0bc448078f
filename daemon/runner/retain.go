package runner

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/snapshot/retention"
	"knowngood/storage/attest"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// retainEvery is how often a tombstone is written. Nothing depends on it: what is
// forgotten is deleted days later at the earliest.
const retainEvery = time.Hour

// Kept are the snapshots of an environment that are not forgotten, as far as they
// are known. The zero value knows none, and lists them when they are needed. Only
// one run at a time may use it.
type Kept struct {
	wrote time.Time // only retain uses it

	mu    sync.Mutex // not held while a store is asked
	known bool
	items []retention.Item
	of    seal.RepositoryID // the repository that holds them
}

// Count is how many are kept; 0 when that is not known.
func (k *Kept) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.items)
}

// set makes items what is kept in a repository.
func (k *Kept) set(of seal.RepositoryID, items []retention.Item, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of, k.items, k.known = of, items, known
}

// Invalidate makes the next run list the snapshots again.
func (k *Kept) Invalidate() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known = false
}

// retain applies the policy of an environment to what is kept of it, including the
// snapshot that was just made, and returns how many snapshots it forgot.
func (k *Kept) retain(ctx context.Context, repo *repository.Repository, host, name string, env *configs.Environment, made retention.Item, now time.Time) (int, error) {
	policy := env.Keep.Policy()
	if policy.Empty() {
		return 0, nil
	}
	items, err := k.with(ctx, repo, host, name, made)
	if err != nil {
		return 0, fmt.Errorf("retention of %s: nothing is forgotten: %w", name, err)
	}
	k.set(repo.ID(), items, true)
	if made.Suspect {
		return 0, nil // nothing is forgotten until it is accepted, or the next is good
	}
	if since := now.Sub(k.wrote); since >= 0 && since < retainEvery {
		return 0, nil
	}
	zone, err := time.LoadLocation(env.TimeZone)
	if err != nil {
		return 0, err
	}
	if items, err = stillSuspect(ctx, repo, host, name, items); err != nil {
		return 0, fmt.Errorf("retention of %s: nothing is forgotten: %w", name, err)
	}
	rest, dropped := applied(policy, items, now, zone)
	others := policy
	others.KnownGood = 0
	if policy.KnownGood > 0 && (len(dropped) > 0 || others.Empty()) { // else nothing depends on what is proven
		proven, err := repo.Judge(ctx, host, name, ProofPolicy(env), now)
		if err != nil {
			return 0, fmt.Errorf("retention of %s: nothing is forgotten while it is not known which snapshots are known-good: %w", name, err)
		}
		good := proven.KnownGood()
		for i := range items {
			items[i].KnownGood = good.Has(items[i].Number)
		}
		rest, dropped = applied(policy, items, now, zone)
	}
	if len(dropped) == 0 {
		return 0, nil
	}
	change := history.Change{Forget: statement.NumbersOf(dropped...), Reason: "retention policy", Now: now}
	if _, err := repo.Forget(ctx, host, name, change); err != nil {
		k.set(repo.ID(), items, false)
		return 0, fmt.Errorf("retention of %s: %w", name, err)
	}
	k.set(repo.ID(), rest, true)
	k.wrote = now
	return len(dropped), nil
}

// applied are the items that a policy keeps, and the numbers of the others. What is
// known-good is found out each time.
func applied(policy retention.Policy, items []retention.Item, now time.Time, zone *time.Location) (rest []retention.Item, dropped []uint64) {
	verdicts := retention.Apply(policy, items, now, zone)
	retention.Wait(verdicts)
	for _, v := range verdicts {
		if !v.Kept() {
			dropped = append(dropped, v.Number)
			continue
		}
		v.Item.KnownGood = false
		rest = append(rest, v.Item)
	}
	return rest, dropped
}

// ProofPolicy is what makes a snapshot of an environment of this host known-good. What
// this machine attests itself counts where it drills the environment.
func ProofPolicy(env *configs.Environment) attest.Policy {
	p := attest.Policy{SelfAttested: env.Drill != nil}
	p.Require, _ = attest.ParseLevel(env.Required()) // validation refuses others
	if k := env.KnownGood; k != nil {
		p.AllowPartial, p.NotOlderThan = k.AllowPartial, time.Duration(k.NotOlderThan)
	}
	return p
}

// with are the kept snapshots and the one just made; from a listing where they are
// not known.
func (k *Kept) with(ctx context.Context, repo *repository.Repository, host, name string, made retention.Item) ([]retention.Item, error) {
	k.mu.Lock()
	items, known := slices.Clone(k.items), k.known && k.of == repo.ID()
	k.mu.Unlock()
	if known {
		return append(items, made), nil
	}
	items = nil
	for s, err := range repo.Kept(ctx, host, name) {
		if err != nil {
			return nil, err
		}
		if s.Body != nil { // else it is of an earlier key of this host, and stays
			items = append(items, itemOf(s))
		}
	}
	return items, nil
}

// itemOf is a snapshot as retention judges it, suspect as its host marked it.
func itemOf(s *history.Snapshot) retention.Item {
	return retention.Item{Number: s.Number, Time: s.Body.Started, Suspect: history.Flagged(s), Partial: s.Body.Status == statement.Partial}
}

// stillSuspect clears the suspicion of items that were accepted.
func stillSuspect(ctx context.Context, repo *repository.Repository, host, name string, items []retention.Item) ([]retention.Item, error) {
	if !slices.ContainsFunc(items, func(it retention.Item) bool { return it.Suspect }) {
		return items, nil
	}
	accepted, err := repo.Acceptances(ctx, host, name)
	if err != nil {
		return nil, err
	}
	for i := range items {
		items[i].Suspect = items[i].Suspect && !accepted.NamesNumber(items[i].Number)
	}
	return items, nil
}

// retain applies the policy after a capture. Its errors do not fail the run: the
// snapshot is committed.
func (r *Runner) retain(ctx context.Context, repo *repository.Repository, name string, env *configs.Environment, made retention.Item) int {
	if r.Kept == nil {
		return 0
	}
	n, err := r.Kept.retain(ctx, repo, r.Host, name, env, made, time.Now())
	if err != nil {
		r.Log.Warn("nothing is forgotten", zap.Error(err))
	}
	return n
}
