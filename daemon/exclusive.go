package daemon

import (
	"context"
	"errors"
	"fmt"
	"knowngood/daemon/jobfiles"
	"time"
)

// admit waits until no other process of this host captures the environment, and
// for a place. Nothing is held while waiting for the other: neither does a run
// that queues keep out one by hand, nor one that waits for that keep a place.
func (r *Runner) admit(ctx context.Context, name string, timeout time.Duration) (lock *jobfiles.Lock, leave func(), err error) {
	for {
		lock, err := r.lock(ctx, name, timeout)
		if err != nil {
			return nil, nil, err
		}
		if r.places == nil {
			return lock, lock.Release, nil
		}
		if !r.places.Try() {
			lock.Release()
			if err := r.places.Take(ctx); err != nil {
				return nil, nil, err
			}
			if lock, err = jobfiles.TryLock(jobfiles.Locks(r.StateDir), name, r.Purpose); err != nil { // lock waits for it, or says why
				r.places.Leave()
				continue
			}
		}
		return lock, func() {
			r.places.Leave()
			lock.Release()
		}, nil
	}
}

// lock waits until no other process captures the environment: for so long as a
// run may take, lest nobody hears of one that hangs.
func (r *Runner) lock(ctx context.Context, name string, timeout time.Duration) (*jobfiles.Lock, error) {
	patience := stuck
	if timeout > 0 {
		patience = min(stuck, timeout)
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lock, err := jobfiles.WaitLock(patient, jobfiles.Locks(r.StateDir), name, r.Purpose, r.Waiting)
	var held *jobfiles.HeldError
	if errors.As(err, &held) {
		return nil, fmt.Errorf("environment %s is being captured already: %w; wait for that, or end it", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", r.StateDir, err)
	}
	return lock, nil
}
