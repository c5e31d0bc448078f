package prune

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/snapshot/retention"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// maxClockError is how far the time that a host signs may be from that of the
// store.
const maxClockError = 24 * time.Hour

// Judged is a snapshot with what a retention policy decides of it.
type Judged struct {
	*history.Snapshot
	Suspect bool     // by the word of its host, and nobody accepted it
	Reasons []string // to keep it; none: it is to be forgotten
}

// Judge applies a retention policy to the snapshots of an environment that are
// not forgotten, and returns them the newest first. On the host itself the time of
// those in its present domain is that of their start. Of all others, and for
// everybody else, it is that at which the store took them: a host that was taken claims that its snapshots are old, so that
// they take the place of good ones. Those whose host claims another time are kept.
// Roots that do not verify are not judged, and so stay: damaged names them. While
// the newest is suspect, and nobody accepted it, all are kept. proof is what makes a
// snapshot known-good.
func Judge(ctx context.Context, repo *repository.Repository, name, env string, policy retention.Policy, proof attest.Policy, now time.Time, zone *time.Location) (judged []Judged, damaged []error, err error) {
	present, own, err := thisMachine(ctx, repo, name)
	if err != nil {
		return nil, nil, err
	}
	accepted, err := repo.Acceptances(ctx, name, env)
	if err != nil {
		return nil, nil, err
	}
	var collapsed statement.Numbers // by the counts in the roots, not by the claim of the host
	if !own {
		roots, err := repo.List(ctx, name, env)
		if err != nil {
			return nil, nil, err
		}
		c := &collapses{repo, name, env, now, func(string, ...any) {}}
		found, _, err := c.find(ctx, roots.Written)
		if err != nil {
			return nil, nil, err
		}
		collapsed = found.Suspect
	}
	byNumber := map[uint64]*history.Snapshot{}
	var snapshots []*history.Snapshot
	suspects := map[uint64]bool{}
	var items []retention.Item
	for s, err := range repo.Kept(ctx, name, env) {
		if authentic.Damaged(err) {
			if !errors.Is(err, statement.ErrEnded) {
				damaged = append(damaged, err)
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		item := retention.Item{Number: s.Number, Time: s.Stored, Suspect: accepted.Suspect(s)}
		if !own {
			item.Suspect = collapsed.Has(s.Number) || history.Flagged(s) && !accepted.Owner.Names(s.Number, s.ID)
		}
		switch {
		case s.Body == nil:
		case own && s.Root.Domain == present:
			item.Time = s.Body.Started
		default:
			item.Doubtful = s.Body.Finished.Sub(s.Stored).Abs() > maxClockError
		}
		item.Partial = s.Body != nil && s.Body.Status == statement.Partial
		items, byNumber[s.Number], suspects[s.Number] = append(items, item), s, item.Suspect
		snapshots = append(snapshots, s)
	}
	if policy.KnownGood > 0 {
		proven, err := repo.Prove(ctx, name, env, snapshots, func(s *history.Snapshot) bool { return suspects[s.Number] }, proof, now)
		if err != nil {
			return nil, nil, fmt.Errorf("which snapshots of %s are known-good: %w", env, err)
		}
		good := proven.KnownGood()
		for i := range items {
			items[i].KnownGood = good.Has(items[i].Number)
		}
	}
	verdicts := retention.Apply(policy, items, now, zone)
	retention.Wait(verdicts)
	for _, v := range verdicts {
		judged = append(judged, Judged{byNumber[v.Number], v.Suspect, v.Reasons})
	}
	return judged, damaged, nil
}

// thisMachine reports whether this machine is the host, and returns the domain that
// it has now.
func thisMachine(ctx context.Context, repo *repository.Repository, name string) (present seal.DomainID, own bool, err error) {
	host, err := repo.Host(ctx)
	if errors.Is(err, trust.ErrNotEnrolled) || errors.Is(err, trust.ErrCloned) {
		return present, false, nil
	}
	if err != nil || host.Name != name {
		return present, false, err
	}
	return host.Domain.ID, true, nil
}

// Unkept are the numbers of those that are to be forgotten.
func Unkept(judged []Judged) statement.Numbers {
	var out []uint64
	for _, j := range judged {
		if len(j.Reasons) == 0 {
			out = append(out, j.Number)
		}
	}
	return statement.NumbersOf(out...)
}
