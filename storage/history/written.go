package history

import (
	"context"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/statement"
)

// Written is when the store took the roots of an environment, by number: a time
// that is not the host's word. Of a root that was put over it is that of the
// version that counts.
func (h *History) Written(ctx context.Context, host, env string) (map[uint64]time.Time, error) {
	e, err := h.environment(ctx, host, env)
	if err != nil {
		return nil, err
	}
	out := map[uint64]time.Time{}
	for o, err := range e.ledger.List(ctx) {
		if err != nil {
			return nil, err
		}
		n, _ := e.ledger.Number(o.Key)
		out[n] = o.Modified
		if !o.Older {
			continue
		}
		entry, err := e.ledger.Read(ctx, o)
		if err != nil {
			return nil, err
		}
		if entry.Counts() {
			out[n] = entry.Stored
		}
	}
	return out, nil
}

// Verify reads one root and returns why it does not count, which is
// authentic.Damaged, or nil.
func (h *History) Verify(ctx context.Context, host, env string, number uint64) error {
	e, err := h.environment(ctx, host, env)
	if err != nil {
		return err
	}
	_, err = e.root(ctx, number)
	return err
}

// sinceTaken takes out of what is forgotten the numbers at which rubbish lay
// and that a snapshot has by now: once the rubbish is gone they can be claimed.
func (h *History) sinceTaken(ctx context.Context, x *statement.Tombstone) error {
	k := len(x.Forgotten)
	if x.Free == 0 || k == 0 || x.Forgotten[k-1].Last < x.Free {
		return nil
	}
	e, err := h.environment(ctx, x.Host, x.Environment)
	if err != nil {
		return err
	}
	for o, err := range e.ledger.List(ctx) {
		if err != nil {
			return err
		}
		n, _ := e.ledger.Number(o.Key)
		if n < x.Free {
			return nil
		}
		if !x.Forgotten.Has(n) {
			continue
		}
		if _, err := e.read(ctx, o); err == nil {
			x.Forgotten = x.Forgotten.Without(statement.NumbersOf(n))
		} else if !authentic.Damaged(err) {
			return err
		}
	}
	return nil
}
