package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/pack"
	"knowngood/storage/statement"
)

// locksInFlight is how many objects are locked at once. Each takes three
// requests, and waits for the store alone.
const locksInFlight = 16

// maxLockedVersions bounds what somebody who puts versions over an object can
// make us lock; the oldest one is ours.
const maxLockedVersions = 4

// trustLocks is the file that remembers until when the objects that all
// snapshots need are locked, and when extending that failed.
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
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(locksInFlight)
	for i, o := range objects {
		if !ends[i].Before(needed) {
			continue
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
// remembered, and what fails is tried again after a day.
func (h *Host) protectTrust(ctx context.Context, started time.Time) (until time.Time, err error) {
	r := h.repo
	until, failed := r.local.trustLocks()
	if !until.Before(started.Add(r.desc.LockDuration)) || started.Sub(failed).Abs() < 24*time.Hour {
		return until, nil
	}
	lock := r.Retention(started)
	err = r.extend(ctx, statement.KeyDescriptor, -1, lock)
	for _, prefix := range []string{statement.PrefixEpochs, statement.PrefixKeys, statement.PrefixCertificates(h.Name), statement.PrefixHostEpochs(h.Name)} {
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
	if ctx.Err() != nil {
		return until, ctx.Err()
	}
	failed = started
	if err == nil {
		until, failed = lock.Until, time.Time{}
	}
	return until, errors.Join(err, r.local.rememberTrustLocks(until, failed))
}

// trustLocks are two times in RFC 3339; one that cannot be read is not known.
func (l *local) trustLocks() (until, failed time.Time) {
	b, err := l.read(trustLocks)
	if f := strings.Fields(string(b)); err == nil && len(f) == 2 {
		until, _ = time.Parse(time.RFC3339, f[0])
		failed, _ = time.Parse(time.RFC3339, f[1])
	}
	return until, failed
}

func (l *local) rememberTrustLocks(until, failed time.Time) error {
	if l.stateDir == "" {
		return nil
	}
	return l.write(trustLocks, []byte(until.UTC().Format(time.RFC3339)+" "+failed.UTC().Format(time.RFC3339)+"\n"))
}
