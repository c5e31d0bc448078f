package history

import (
	"context"
	"time"

	"knowngood/storage"
)

// Listing is what the store shows of the roots of an environment.
type Listing struct {
	e       *environment
	objects map[uint64]storage.Object
	// Written is when the store took each root, by number: a time that is not the
	// host's word. Of a root that was put over it is that of the version that counts.
	// What lies there need not verify.
	Written map[uint64]time.Time
}

// List lists the roots of an environment, hidden ones included.
func (h *Roots) List(ctx context.Context, host, env string) (*Listing, error) {
	e, err := h.environment(ctx, host, env)
	if err != nil {
		return nil, err
	}
	l := &Listing{e: e, objects: map[uint64]storage.Object{}, Written: map[uint64]time.Time{}}
	for o, err := range e.ledger.List(ctx) {
		if err != nil {
			return nil, err
		}
		n, _ := e.ledger.Number(o.Key)
		l.objects[n], l.Written[n] = o, o.Modified
		if !o.Older {
			continue
		}
		entry, err := e.ledger.Read(ctx, o)
		if err != nil {
			return nil, err
		}
		if entry.Counts() {
			l.Written[n] = entry.Stored
		}
	}
	return l, nil
}

// Root reads one root, whatever comes before and after it. The error is
// authentic.Damaged when it does not count.
func (l *Listing) Root(ctx context.Context, number uint64) (*Snapshot, error) {
	if o, ok := l.objects[number]; ok {
		return l.e.read(ctx, o)
	}
	return l.e.root(ctx, number)
}

// Written is when the store took the roots of an environment; see Listing.
func (h *Roots) Written(ctx context.Context, host, env string) (map[uint64]time.Time, error) {
	l, err := h.List(ctx, host, env)
	if err != nil {
		return nil, err
	}
	return l.Written, nil
}
