package repository

import (
	"context"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// Written tells when the store took the roots of an environment, by number:
// a time that is not the host's word. Of a root that was put over it is that
// of the version that counts.
func (r *Repository) Written(ctx context.Context, host, env string) (map[uint64]time.Time, error) {
	e, err := r.environment(ctx, host, env)
	if err != nil {
		return nil, err
	}
	out := map[uint64]time.Time{}
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixRoots(host, env), Hidden: true}) {
		if err != nil {
			return nil, err
		}
		_, _, n, ok := layout.ParseRootKey(o.Key)
		if !ok {
			continue
		}
		out[n] = o.Modified
		if !o.Older {
			continue
		}
		first, at, err := r.earliest(ctx, o.Key, maxStatement, func(b []byte) bool {
			root, err := e.check(o.Key, b)
			return err == nil && e.expected(root)
		})
		if err != nil {
			return nil, err
		}
		if first != nil {
			out[n] = at
		}
	}
	return out, nil
}

// Verify reads one root and says whether it counts, or why it does not, which
// is Damaged.
func (r *Repository) Verify(ctx context.Context, host, env string, number uint64) error {
	e, err := r.environment(ctx, host, env)
	if err != nil {
		return err
	}
	_, err = e.root(ctx, number)
	return err
}

// sinceTaken takes out of what is forgotten the numbers at which rubbish lay
// and that a snapshot has by now: once the rubbish is gone they can be claimed.
func (r *Repository) sinceTaken(ctx context.Context, x *statement.Tombstone) error {
	k := len(x.Forgotten)
	if x.Free == 0 || k == 0 || x.Forgotten[k-1].Last < x.Free {
		return nil
	}
	e, err := r.environment(ctx, x.Host, x.Environment)
	if err != nil {
		return err
	}
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixRoots(x.Host, x.Environment), Hidden: true}) {
		if err != nil {
			return err
		}
		_, _, n, ok := layout.ParseRootKey(o.Key)
		switch {
		case ok && n < x.Free:
			return nil
		case !ok || !x.Forgotten.Has(n):
			continue
		}
		if _, err := e.root(ctx, n); err == nil {
			x.Forgotten = x.Forgotten.Without(statement.NumbersOf(n))
		} else if !Damaged(err) {
			return err
		}
	}
	return nil
}
