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
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/statement"
)

// maxNamed is how many roots are named one by one.
const maxNamed = 10

// protection finds the forgotten snapshots of an environment that are kept all
// the same.
type protection struct {
	*host
	env       string
	forgotten statement.Numbers
	roots     *history.Listing
	judged    *judged         // by this machine, of another host; else nil
	verified  map[uint64]bool // that were read, and have the place that they take
	bad       int             // how many of the forgotten ones do not verify
}

// protected returns the forgotten snapshots that the policy of this run keeps.
// While the newest snapshot of another host is suspect, the good ones that it
// forgot of the days before are protected too, whatever the policy.
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
	p := &protection{host: h, env: env, forgotten: forgotten, roots: roots, verified: map[uint64]bool{}}
	var suspects statement.Numbers
	waits := false
	if !h.own { // which decided by itself what to forget
		c := &collapses{h.repo, h.name, env, h.now, h.note}
		if p.judged, waits, err = c.find(ctx, roots.Written); err != nil {
			return nil, err
		}
		suspects = p.judged.Suspect
	}

	var out []uint64
	if policy != nil {
		if out, err = p.keptBy(ctx, *policy, suspects); err != nil {
			return nil, err
		}
		p.noteKept(len(out), " that the policy of this run keeps")
	}
	if waits {
		maps.DeleteFunc(roots.Written, func(n uint64, _ time.Time) bool { return suspects.Has(n) })
		window, err := p.keptBy(ctx, retention.Policy{Within: suspect.Window}, nil)
		if err != nil {
			return nil, err
		}
		window = slices.DeleteFunc(window, func(n uint64) bool { return slices.Contains(out, n) })
		p.noteKept(len(window), ", good and of the last days before the suspect ones")
		out = append(out, window...)
	}
	return statement.NumbersOf(out...), nil
}

// noteKept notes how many forgotten snapshots stay, and why.
func (p *protection) noteKept(n int, why string) {
	if n > 0 {
		p.note("host %s forgot %s of %s%s: %s", p.name, english.Plural(n, "snapshot", ""), p.env, why, english.PluralWord(n, "it stays", "they stay"))
	}
}

// keptBy returns the forgotten snapshots that a policy keeps, of those written.
// What is forgotten and does not verify takes no place in it, nor what was signed
// under a certificate that ended, and is removed from those written.
//
// There may be any number of roots that do not verify. Each time that one had a
// place, twice as many of the others are read, too, before the policy is applied
// again.
func (p *protection) keptBy(ctx context.Context, policy retention.Policy, suspects statement.Numbers) ([]uint64, error) {
	p.bad = 0
	var good statement.Numbers
	if policy.KnownGood > 0 {
		var err error
		if good, err = p.knownGood(ctx, suspects); err != nil {
			return nil, err
		}
	}
	for more := 1; ; more *= 2 {
		doubtful := p.doubtful()
		var items []retention.Item
		for n, at := range p.roots.Written {
			items = append(items, retention.Item{Number: n, Time: at, Suspect: suspects.Has(n), Doubtful: doubtful[n], KnownGood: good.Has(n)})
		}
		var out []uint64
		found := false
		for _, v := range retention.Apply(policy, items, p.now, time.UTC) {
			if !v.Kept() {
				continue
			}
			bad, err := p.dropUnverified(ctx, v.Number)
			if err != nil {
				return nil, err
			}
			if found = found || bad; !bad && p.forgotten.Has(v.Number) {
				out = append(out, v.Number)
			}
		}
		if !found {
			p.noteDoubtful(doubtful)
			if p.bad > maxNamed {
				p.note("host %s: %d more roots that are forgotten do not verify", p.name, p.bad-maxNamed)
			}
			return out, nil
		}
		read := 0
		for _, n := range slices.Backward(slices.Sorted(maps.Keys(p.roots.Written))) {
			if read == more {
				break
			}
			if p.verified[n] || !p.doubted(n) {
				continue
			}
			read++
			if _, err := p.dropUnverified(ctx, n); err != nil {
				return nil, err
			}
		}
	}
}

// knownGood are the snapshots that are known-good, forgotten ones included, at any
// level. What the host attests of itself counts only on the host: a taken one would
// take the places of what others proved.
func (p *protection) knownGood(ctx context.Context, suspects statement.Numbers) (statement.Numbers, error) {
	all, err := p.repo.Attest.All(ctx, p.name, p.env)
	if err != nil {
		return nil, fmt.Errorf("which snapshots of %s are known-good: %w", p.env, err)
	}
	var attested []uint64
	for _, a := range all {
		if a.Err == nil && !p.roots.Written[a.Subject.Number].IsZero() {
			attested = append(attested, a.Subject.Number)
		}
	}
	slices.Sort(attested)
	var snapshots []*history.Snapshot
	for _, n := range slices.Backward(slices.Compact(attested)) {
		s, err := p.roots.Root(ctx, n)
		if authentic.Damaged(err) { // which is named where a policy keeps it
			continue
		}
		if err != nil {
			return nil, err
		}
		snapshots = append(snapshots, s)
	}
	proven, err := p.repo.Prove(ctx, p.name, p.env, snapshots, func(s *history.Snapshot) bool { return suspects.Has(s.Number) }, attest.Policy{SelfAttested: p.own}, p.now)
	if err != nil {
		return nil, err
	}
	return proven.KnownGood(), nil
}

// putAgainAfter is how much later than another root the store must have taken one
// that was there before.
const putAgainAfter = time.Minute

// doubtful are the roots that were put again, where no earlier version of them shows:
// the store took them later than one with a higher number, long after their host made
// them, or later than when this machine saw them before. By such a time a policy may
// not forget anything. Versions need not have been kept all the time.
func (p *protection) doubtful() map[uint64]bool {
	out := map[uint64]bool{}
	var above time.Time // the earliest of those with higher numbers
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(p.roots.Written))) {
		at := p.roots.Written[n]
		if p.judged != nil && n > p.judged.Number {
			continue // no snapshot
		}
		out[n] = !above.IsZero() && at.Sub(above) > putAgainAfter
		if p.judged != nil {
			taken, known := p.judged.Taken[n]
			out[n] = out[n] || p.judged.Late.Has(n) || known && at.Sub(time.Unix(taken, 0)) > putAgainAfter
		}
		if above.IsZero() || at.Before(above) {
			above = at
		}
	}
	return out
}

// noteDoubtful names forgotten snapshots that are kept because of their time.
func (p *protection) noteDoubtful(doubtful map[uint64]bool) {
	count := 0
	for _, n := range slices.Sorted(maps.Keys(doubtful)) {
		if !doubtful[n] || !p.forgotten.Has(n) || !p.verified[n] {
			continue
		}
		if count++; count <= maxNamed {
			p.note("host %s: the root of %s@%d was put again, or long after it was made: it is forgotten, and stays, because no policy can go by its time (%s)", p.name, p.env, n, p.roots.Written[n].UTC().Format(time.DateTime))
		}
	}
	if count > maxNamed {
		p.note("host %s: %d more roots of %s were put again", p.name, count-maxNamed, p.env)
	}
}

// doubted reports whether a root may take no place: a forgotten one may be anything,
// and any other one may be signed under a certificate that ended, where a later one
// exists. What else is not forgotten and does not verify ends the prune of its host.
func (p *protection) doubted(n uint64) bool { return p.forgotten.Has(n) || p.reenrolled }

// dropUnverified removes from those written a snapshot that takes no place, see
// keptBy, and reports whether it did.
func (p *protection) dropUnverified(ctx context.Context, n uint64) (bool, error) {
	if p.verified[n] || !p.doubted(n) {
		return false, nil
	}
	_, err := p.roots.Root(ctx, n)
	switch {
	case authentic.Damaged(err) && p.forgotten.Has(n):
		if p.bad++; p.bad <= maxNamed {
			p.note("host %s: %v; it is forgotten, and takes no place among those that are kept", p.name, err)
		}
		delete(p.roots.Written, n)
		return true, nil
	case errors.Is(err, statement.ErrEnded): // which is named where the kept ones are read
		delete(p.roots.Written, n)
		return true, nil
	case err != nil && !authentic.Damaged(err):
		return false, err
	}
	p.verified[n] = true
	return false, nil
}
