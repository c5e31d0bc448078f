package deletion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/trust"
)

// locksInFlight is how many objects are locked at once. Each takes three
// requests, and only waits for the store.
const locksInFlight = 16

// maxLockedVersions limits how many versions of an object are locked, because
// others can put any number over it. The oldest one is ours.
const maxLockedVersions = 4

// trustLocks is the file that remembers until when the objects that all
// snapshots need are locked in a store.
const trustLocks = "locks"

// Protect makes sure that the objects which a snapshot reuses are locked for the
// repository's lock duration from the time at which it started. ends are when the
// locks of the objects end, as far as known, in their order: it extends those that
// end too early, and updates ends. It returns when the first lock ends, of the
// objects and of the keys and certificates that every snapshot needs; zero when that
// is not known, or nothing is locked.
//
// For an object that could not be locked, ends stays as it was, and it warns.
func (x *Deletion) Protect(ctx context.Context, h *trust.Host, objects []pack.Object, ends []time.Time, started time.Time) (until time.Time, err error) {
	if x.t.Descriptor().LockMode == "" {
		return until, nil
	}
	needed := started.Add(x.t.Descriptor().LockDuration)
	var mu sync.Mutex
	var failed []error
	var stop atomic.Bool
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(locksInFlight)
	for i, o := range objects {
		if !ends[i].Before(needed) {
			continue
		}
		if stop.Load() {
			break
		}
		g.Go(func() error {
			lock := x.t.Retention(started)
			err := x.extend(gctx, Key(h.Name, h.Domain.ID, ObjectID{Kind: o.Kind, Hash: o.Hash}), int64(o.Size), lock)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				stop.Store(stop.Load() || general(err))
				return nil
			}
			ends[i] = lock.Until
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return until, err
	}
	until, err = x.protectTrust(ctx, h, started)
	if ctx.Err() != nil {
		return until, context.Cause(ctx)
	}
	if err != nil {
		failed = append(failed, err)
	}
	if len(failed) > 0 {
		// The same text while the same locks fail: it is reported once.
		first := slices.MinFunc(failed, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		x.t.Warn(fmt.Errorf("locks that the snapshots of %s need could not be extended to %v, such as: %w", h.Name, x.t.Descriptor().LockDuration, first))
	}
	for _, end := range ends {
		if end.Before(until) {
			until = end
		}
	}
	return until, nil
}

// general reports whether other objects will fail for the same reason: a missing
// right, or a store that cannot be reached.
func general(err error) bool {
	return slices.ContainsFunc([]error{storage.ErrDenied, storage.ErrUnsupported, storage.ErrCredentials, storage.ErrUnreachable, storage.ErrUnavailable, storage.ErrStalled}, func(of error) bool {
		return errors.Is(err, of)
	})
}

// extend locks the versions of an object that have its size; a negative one
// is any.
func (x *Deletion) extend(ctx context.Context, key string, size int64, lock storage.Retention) error {
	fail := func(err error) error { return fmt.Errorf("lock %s: %w", key, err) }
	retainer, ok := storage.Capability[storage.Retainer](x.t.Store())
	if !ok {
		return fail(storage.ErrUnsupported)
	}
	all, err := x.t.Read.Versions(ctx, key)
	if err != nil {
		return fail(err)
	}
	locked := 0
	for i := len(all) - 1; i >= 0 && locked < maxLockedVersions; i-- { // listed newest first
		if all[i].Marker || size >= 0 && all[i].Size != size {
			continue
		}
		if err := retainer.Retain(ctx, key, all[i].ID, lock); err != nil {
			return fail(err)
		}
		locked++
	}
	if locked == 0 {
		return fail(errors.New("the store shows no version of it; run knowngood check"))
	}
	return nil
}

// protectTrust extends the locks of what every snapshot of the host needs: the
// descriptor, the epochs with their wrapped keys, the owner's among them, and
// the host's certificates. Which these are changes rarely, so what was done is
// remembered.
func (x *Deletion) protectTrust(ctx context.Context, h *trust.Host, started time.Time) (until time.Time, err error) {
	if until = x.trustLocks(); !until.Before(started.Add(x.t.Descriptor().LockDuration)) {
		return until, nil
	}
	lock := x.t.Retention(started)
	err = x.extend(ctx, layout.KeyDescriptor, -1, lock)
	for _, prefix := range []string{layout.PrefixEpochs, layout.PrefixKeys, layout.PrefixCertificates(h.Name)} {
		if err != nil {
			break
		}
		for o, lerr := range x.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err = lerr; err == nil {
				err = x.extend(ctx, o.Key, -1, lock)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return until, err
	}
	return lock.Until, x.rememberTrustLocks(lock.Until)
}

// trustLocks is zero when nothing is remembered.
func (x *Deletion) trustLocks() time.Time {
	b, err := x.t.State.Read(x.t.State.OfStore(trustLocks))
	if err != nil {
		return time.Time{}
	}
	until, _ := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	return until
}

func (x *Deletion) rememberTrustLocks(until time.Time) error {
	if x.t.State.None() {
		return nil
	}
	return x.t.State.Write(x.t.State.OfStore(trustLocks), []byte(until.UTC().Format(time.RFC3339)+"\n"))
}
