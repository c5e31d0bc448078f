package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/statement"
)

// absurd is a number that no host comes to that keeps the rules: with one
// snapshot each second it takes 30,000 years.
const absurd = 1 << 40

// Heads are the newest roots of the environments of a host that verify, sorted by
// environment; at most statement.MaxHeads, those of the environments that the store
// has for the longest time. known is whether there is one, or this machine remembers
// one. What does not verify is warned of, and so are absurd numbers and what is left
// out: a key that was taken must not be able to use up all numbers, nor the room for
// heads.
func (h *Hosts) Heads(ctx context.Context, host string) (heads []statement.Head, known bool, err error) {
	remembered, err := h.t.State.Names(host)
	if err != nil {
		return nil, false, err
	}
	envs, err := h.EveryEnvironment(ctx, host) // the roots of one that is left out end
	if err != nil {
		return nil, false, err
	}
	for _, env := range envs {
		e, err := h.roots.environment(ctx, host, env)
		if err != nil {
			return nil, false, err
		}
		newest, err := e.vouched(ctx)
		if err != nil {
			return nil, false, err
		}
		if newest == nil {
			continue
		}
		// The owner is about to vouch for it: it must not have been put over
		// between listing and reading.
		if newest, err = e.root(ctx, newest.Number); err != nil {
			return nil, false, err
		}
		heads = append(heads, newest.head())
	}
	known = len(heads)+len(remembered) > 0
	if len(heads) > statement.MaxHeads {
		heads, err = h.oldest(ctx, host, heads)
	}
	return heads, known, err
}

// vouched is the newest root of the environment that verifies, and neither denies one
// before it nor follows one that does; nil for none.
func (e *environment) vouched(ctx context.Context) (newest *Snapshot, err error) {
	for s, err := range e.walk(ctx, ahead) {
		if err == nil && s.Number >= absurd {
			err = &authentic.DamageError{Key: e.key(s.Number), What: "root", Err: errors.New("no host takes so many snapshots")}
		}
		switch {
		case authentic.Damaged(err):
			e.t.Warn(err)
		case err != nil:
			return nil, err
		case newest == nil:
			newest = s
		}
	}
	return cmp.Or(e.denied, newest), nil
}

// oldest are those of the heads that a certificate has room for. Whoever took a key
// makes environments after its host did, by the clock of the store.
func (h *Hosts) oldest(ctx context.Context, host string, heads []statement.Head) ([]statement.Head, error) {
	since := map[string]time.Time{}
	for _, head := range heads {
		written, err := h.roots.Written(ctx, host, head.Environment)
		if err != nil {
			return nil, err
		}
		for _, at := range written {
			if first, ok := since[head.Environment]; !ok || at.Before(first) {
				since[head.Environment] = at
			}
		}
	}
	slices.SortStableFunc(heads, func(a, b statement.Head) int { return since[a.Environment].Compare(since[b.Environment]) })
	kept, rest := heads[:statement.MaxHeads], heads[statement.MaxHeads:]

	var names []string
	for _, head := range rest[:min(len(rest), 8)] {
		names = append(names, head.Environment)
	}
	h.t.Warn(&authentic.TamperError{What: "environments of host " + host, Remembered: fmt.Sprintf("at most %d", statement.MaxHeads), Found: fmt.Sprint(len(heads)),
		Hint: fmt.Sprintf("whoever had the host's key made them. The new certificate names the %d that the store has for the longest time: what the old key signed in the others, such as %s, does not count any more", statement.MaxHeads, strings.Join(names, ", "))})
	slices.SortFunc(kept, func(a, b statement.Head) int { return cmp.Compare(a.Environment, b.Environment) })
	return kept, nil
}
