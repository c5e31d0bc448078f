package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/daemon/jobfiles"
	"knowngood/internal/userdir"
)

// admit waits until no other process of this host captures the environment, and
// for a place. While it waits for one of the two it does not hold the other: a
// queued run does not block one by hand, and a run that waits for one by hand does
// not occupy a place.
func (r *Runner) admit(ctx context.Context, name string, timeout time.Duration) (lock *jobfiles.Lock, leave func(), err error) {
	for {
		lock, err := r.lock(ctx, name, timeout)
		if err != nil {
			return nil, nil, err
		}
		if r.Places == nil {
			return lock, lock.Release, nil
		}
		if !r.Places.Try() {
			lock.Release()
			if err := r.Places.Take(ctx); err != nil {
				return nil, nil, err
			}
			if lock, err = jobfiles.TryLock(jobfiles.Locks(r.StateDir), name, r.Purpose); err != nil { // lock waits for it, or returns the error
				r.Places.Leave()
				continue
			}
		}
		return lock, func() {
			r.Places.Leave()
			lock.Release()
		}, nil
	}
}

// lock waits until no other process captures the environment, for at most as long
// as a run may take: a run that hangs must show as a failure.
func (r *Runner) lock(ctx context.Context, name string, timeout time.Duration) (*jobfiles.Lock, error) {
	patience := Stuck
	if timeout > 0 {
		patience = min(Stuck, timeout)
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lock, err := jobfiles.WaitLock(patient, jobfiles.Locks(r.StateDir), name, r.Purpose, r.Waiting)
	if _, ok := errors.AsType[*jobfiles.HeldError](err); ok {
		return nil, fmt.Errorf("environment %s is being captured already: %w; wait for that, or end it", name, err)
	}
	if err != nil {
		return nil, userdir.At(r.StateDir).Failed(err)
	}
	return lock, nil
}
