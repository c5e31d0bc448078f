package repository

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
)

// locksInFlight is how many objects are locked at once. Each takes three
// requests, and waits for the store alone.
const locksInFlight = 16

// maxLockedVersions bounds what somebody who puts versions over an object can
// make us lock; the oldest one is ours.
const maxLockedVersions = 4

// trustLocks is the file that remembers until when the objects that all
// snapshots need are locked in a store.
const trustLocks = "locks"

// Retention is the lock that the repository asks for on an object made now;
// the zero value is none. It is a quarter longer than the repository's lock
// duration, so that an object which every snapshot reuses has to be locked
// again only once in that time.
func (r *Repository) Retention(now time.Time) storage.Retention {
	if r.desc.LockMode == "" {
		return storage.Retention{}
	}
	return storage.Retention{Mode: storage.RetentionMode(r.desc.LockMode), Until: now.Add(r.desc.LockDuration + r.desc.LockDuration/4)}
}

// Protect makes sure that what a snapshot begun at a time shares with others
// is locked for the repository's lock duration from then. ends are when the
// locks of the objects end, as far as known, in their order: it extends those
// that end too early, and brings ends up to date. It returns when the first
// lock ends, of the objects and of the keys and certificates that every
// snapshot needs; zero when that is not known, or nothing is locked.
//
// What could not be locked keeps the end that it had, and is warned of.
func (h *Host) Protect(ctx context.Context, objects []pack.Object, ends []time.Time, started time.Time) (until time.Time, err error) {
	r := h.repo
	if r.desc.LockMode == "" {
		return until, nil
	}
	needed := started.Add(r.desc.LockDuration)
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
			lock := r.Retention(started)
			err := r.extend(gctx, objectKey(o.Kind, h.Name, h.Domain.ID, o.Hash), int64(o.Size), lock)
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
	until, err = h.protectTrust(ctx, started)
	if ctx.Err() != nil {
		return until, context.Cause(ctx)
	}
	if err != nil {
		failed = append(failed, err)
	}
	if len(failed) > 0 {
		// The same words as long as the same is amiss: people are told once.
		first := slices.MinFunc(failed, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		r.warn(fmt.Errorf("locks that the snapshots of %s need could not be extended to %v, such as: %w", h.Name, r.desc.LockDuration, first))
	}
	for _, end := range ends {
		if end.Before(until) {
			until = end
		}
	}
	return until, nil
}

// general tells whether others will fail for the same reason: a right that is
// missing, or a store that cannot be reached.
func general(err error) bool {
	return slices.ContainsFunc([]error{storage.ErrDenied, storage.ErrUnsupported, storage.ErrCredentials, storage.ErrUnreachable, storage.ErrUnavailable, storage.ErrStalled}, func(of error) bool {
		return errors.Is(err, of)
	})
}

// extend locks the versions of an object that have its size; a negative one
// is any.
func (r *Repository) extend(ctx context.Context, key string, size int64, lock storage.Retention) error {
	fail := func(err error) error { return fmt.Errorf("lock %s: %w", key, err) }
	retainer, ok := storage.Capability[storage.Retainer](r.store)
	if !ok {
		return fail(storage.ErrUnsupported)
	}
	_, all, err := r.versions(ctx, key)
	if err != nil {
		return fail(err)
	}
	locked := 0
	for i := len(all) - 1; i >= 0 && locked < maxLockedVersions; i-- { // listed newest first
		if size >= 0 && all[i].Size != size {
			continue
		}
		if err := retainer.Retain(ctx, key, all[i].ID, lock); err != nil {
			return fail(err)
		}
		locked++
	}
	if locked == 0 {
		return fail(errors.New("no version of it shows; run knowngood check"))
	}
	return nil
}

// protectTrust extends the locks of what every snapshot of the host needs: the
// descriptor, the epochs with their wrapped keys, the owner's among them, and
// the host's certificates. Which these are changes rarely, so what was done is
// remembered.
func (h *Host) protectTrust(ctx context.Context, started time.Time) (until time.Time, err error) {
	r := h.repo
	if until = r.trustLocks(); !until.Before(started.Add(r.desc.LockDuration)) {
		return until, nil
	}
	lock := r.Retention(started)
	err = r.extend(ctx, layout.KeyDescriptor, -1, lock)
	for _, prefix := range []string{layout.PrefixEpochs, layout.PrefixKeys, layout.PrefixCertificates(h.Name), layout.PrefixHostEpochs(h.Name)} {
		if err != nil {
			break
		}
		for o, lerr := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err = lerr; err == nil {
				err = r.extend(ctx, o.Key, -1, lock)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return until, err
	}
	return lock.Until, r.rememberTrustLocks(lock.Until)
}

// trustLocks is zero when nothing is remembered.
func (r *Repository) trustLocks() time.Time {
	b, err := r.local.read(ofStore(r.place, trustLocks))
	if err != nil {
		return time.Time{}
	}
	until, _ := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	return until
}

func (r *Repository) rememberTrustLocks(until time.Time) error {
	if r.local.stateDir == "" {
		return nil
	}
	return r.local.write(ofStore(r.place, trustLocks), []byte(until.UTC().Format(time.RFC3339)+"\n"))
}
