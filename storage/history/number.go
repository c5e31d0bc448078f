package history

import (
	"context"
	"errors"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
)

// byNumber fetches one root, and makes sure that it is linked with what this
// machine remembers, or else with the one after it, where there is one.
func (h *Roots) byNumber(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	e, err := h.environment(ctx, host, ref.Environment)
	if err != nil {
		return nil, err
	}
	if _, pinned := e.roots[ref.Number]; !pinned && e.known != nil && ref.Number != e.known.Number+1 {
		return e.inChain(ctx, ref)
	}
	around := map[uint64]storage.Object{} // the root and those beside it, by one listing
	for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: e.ledger.Prefix, After: e.key(min(ref.Number+2, layout.MaxNumber)), Hidden: true}) {
		if err != nil {
			return nil, err
		}
		if n, ok := e.ledger.Number(o.Key); ok {
			around[n] = o
		}
		if o.Key >= e.key(max(ref.Number-1, 1)) { // whatever else lies between
			break
		}
	}
	s, err := e.fromListing(ctx, around, ref.Number)
	if err == nil && e.pinned(s) {
		return s, nil
	}
	newer, nerr := e.fromListing(ctx, around, ref.Number+1)
	switch {
	case nerr != nil && !authentic.Damaged(nerr):
		return nil, nerr
	case nerr == nil && err == nil && newer.Root.Previous != s.ID:
		if err := e.unlike(ctx, newer, s); err != nil {
			return nil, err
		}
	case nerr != nil && errors.Is(err, storage.ErrNotFound):
		return nil, e.absent(ctx, ref)
	case err == nil && nerr != nil && !errors.Is(nerr, storage.ErrNotFound):
		h.t.Warn(fmt.Errorf("nothing vouches for %s: the snapshot after it does not verify: %w", s.Ref(), nerr))
	case err == nil && e.known != nil && s.Number == e.known.Number+1 && s.Root.Previous != e.known.Hash:
		return e.inChain(ctx, ref) // which finds out what is wrong
	}
	if _, listed := around[ref.Number-1]; err == nil && !listed && ref.Number > 1 {
		err = e.warnOfGap(ctx, s)
	}
	return s, err
}

// fromListing reads a root of which a listing shows whether it is there.
func (e *environment) fromListing(ctx context.Context, listing map[uint64]storage.Object, number uint64) (*Snapshot, error) {
	if o, ok := listing[number]; ok {
		return e.read(ctx, o)
	}
	return e.snapshot(ctx, e.ledger.Missing(e.key(number)))
}

// inChain finds one root by the chain that leads to it from what this machine
// remembers.
func (e *environment) inChain(ctx context.Context, ref Ref) (*Snapshot, error) {
	for s, err := range e.walk(ctx, ahead) {
		switch {
		case err == nil && s.Number == ref.Number:
			return s, nil
		case err == nil && s.Number < ref.Number:
			return nil, e.absent(ctx, ref)
		case err != nil && (e.about(err, ref.Number) || !authentic.Damaged(err)):
			return nil, err
		case err != nil:
			e.t.Warn(err)
		}
	}
	return nil, e.absent(ctx, ref)
}

// about reports whether an error is about the root with a number.
func (e *environment) about(err error, number uint64) bool {
	var damage *authentic.DamageError
	var tamper *authentic.TamperError
	key := e.key(number)
	return errors.As(err, &damage) && damage.Key == key || errors.As(err, &tamper) && tamper.Key == key
}

// absent distinguishes a number that was never reached from one that is missing.
func (e *environment) absent(ctx context.Context, ref Ref) error {
	for p, err := range e.places(ctx) {
		switch {
		case err != nil:
			return err
		case p.number > ref.Number:
			return &authentic.DamageError{Key: e.key(ref.Number), What: "root", Err: fmt.Errorf("missing, though there is %s@%d", e.name, p.number)}
		case p.number > 0:
			return fmt.Errorf("%w: %s: the newest of host %s is %s@%d", ErrNoSnapshot, ref, e.host, e.name, p.number)
		}
	}
	return fmt.Errorf("%w: %s: host %s has no snapshot of %s; `knowngood list` shows what there is", ErrNoSnapshot, ref, e.host, e.name)
}
