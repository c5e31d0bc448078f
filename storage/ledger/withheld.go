package ledger

import (
	"context"
	"fmt"
	"slices"

	"knowngood/storage"
	"knowngood/storage/authentic"
)

// maxSample is how many objects are read to find out whether the credentials may read
// others.
const maxSample = 64

// withheld returns the error for an object that the store denied. Where the same
// credentials may read similar objects it is damage to this one, because somebody who
// may put objects can make the store deny one. Otherwise it is the error of the store.
func (l *Ledger[T]) withheld(ctx context.Context, key string, denied error) error {
	if open, err := l.givesOut(ctx); err != nil || !open {
		return denied
	}
	return &authentic.DamageError{Key: key, What: l.What, Err: fmt.Errorf("%w, and gives out others beside it: %v", storage.ErrWithheld, denied)}
}

// givesOut reports whether the store returns any other object of the ledger or of
// Beside. It asks the store only once.
func (l *Ledger[T]) givesOut(ctx context.Context) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked {
		return l.open, nil
	}
	for _, prefix := range []string{l.Prefix, l.Beside} {
		if prefix == "" {
			continue
		}
		var all []storage.Object
		for o, err := range l.Reader.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err != nil {
				return false, err
			}
			all = append(all, o)
		}
		for _, o := range sample(all) {
			_, err := l.Reader.Listed(ctx, o, authentic.Want{What: l.What, Limit: l.Limit, Verify: func([]byte) error { return nil }})
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if err == nil {
				l.asked, l.open = true, true
				return true, nil
			}
		}
	}
	l.asked = true
	return false, nil
}

// sample are the oldest of the objects, and some of the others. Whoever withholds
// some, however many, put them after those that were there; but credentials may be
// for other objects than the oldest.
func sample(all []storage.Object) []storage.Object {
	slices.SortStableFunc(all, func(a, b storage.Object) int { return a.Modified.Compare(b.Modified) })
	out := slices.Clone(all[:min(len(all), maxSample/2)])
	rest := all[len(out):]
	step := max(1, 2*len(rest)/maxSample)
	for i := len(rest) - 1; i >= 0 && len(out) < maxSample; i -= step {
		out = append(out, rest[i])
	}
	return out
}
