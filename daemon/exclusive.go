package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// lockWait is how often a lock that another process holds is tried again.
const lockWait = 2 * time.Second

// lockFile is a file that one process at a time holds. Who that is stands in it,
// and what became of the runs of an environment. The kernel lets go of it when
// the process dies.
type lockFile struct {
	dir    userdir.Dir
	file   *os.File
	holder string // in words
	made   bool   // just now: its name is not on disk yet
	record record
}

// heldError says who holds a lock.
type heldError struct{ holder string }

func (e *heldError) Error() string { return "held by " + e.holder }

// locks is the folder of the locks in a state directory.
func locks(stateDir string) userdir.Dir { return userdir.At(stateDir).In("daemon", "locks") }

// tryLock takes the lock of a name; a *heldError when another holds it.
func tryLock(dir userdir.Dir, name, purpose string) (*lockFile, error) {
	if err := dir.Make(); err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir.Path(name), err)
		}
		b, _ := io.ReadAll(io.LimitReader(f, 200))
		holder, _, _ := strings.Cut(string(b), "\n")
		if holder == "" {
			holder = "another process"
		}
		return nil, &heldError{holder}
	}
	l := &lockFile{dir: dir, file: f, holder: fmt.Sprintf("process %d (%s) since %s", os.Getpid(), purpose, time.Now().Format(time.RFC3339))}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir.Path(name), err)
	}
	l.write() // words for people: a disk too full for them is no reason to stop
	return l, nil
}

// waitLock takes the lock as soon as nobody else holds it; waiting is told who
// does, once.
func waitLock(ctx context.Context, dir userdir.Dir, name, purpose string, waiting func(holder string)) (*lockFile, error) {
	for told := false; ; {
		l, err := tryLock(dir, name, purpose)
		var held *heldError
		if !errors.As(err, &held) {
			return l, err
		}
		if !told && waiting != nil {
			waiting(held.holder)
		}
		told = true
		select {
		case <-time.After(lockWait):
		case <-ctx.Done():
			return nil, fmt.Errorf("it is %w, and that took too long", held)
		}
	}
}

func (l *lockFile) release() { l.file.Close() }

// admit waits until no other process of this host captures the environment, and
// for a place. Nothing is held while waiting for the other: neither does a run
// that queues keep out one by hand, nor one that waits for that keep a place.
func (r *Runner) admit(ctx context.Context, name string, timeout time.Duration) (lock *lockFile, leave func(), err error) {
	for {
		lock, err := r.lock(ctx, name, timeout)
		if err != nil {
			return nil, nil, err
		}
		if r.places == nil {
			return lock, lock.release, nil
		}
		if !r.places.try() {
			lock.release()
			if err := r.places.take(ctx); err != nil {
				return nil, nil, err
			}
			if lock, err = tryLock(locks(r.StateDir), name, r.Purpose); err != nil { // lock waits for it, or says why
				r.places.leave()
				continue
			}
		}
		return lock, func() {
			r.places.leave()
			lock.release()
		}, nil
	}
}

// lock waits until no other process captures the environment: for so long as a
// run may take, lest nobody hears of one that hangs.
func (r *Runner) lock(ctx context.Context, name string, timeout time.Duration) (*lockFile, error) {
	patience := stuck
	if timeout > 0 {
		patience = min(stuck, timeout)
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lock, err := waitLock(patient, locks(r.StateDir), name, r.Purpose, r.Waiting)
	var held *heldError
	if errors.As(err, &held) {
		return nil, fmt.Errorf("environment %s is being captured already: %w; wait for that, or end it", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", r.StateDir, err)
	}
	return lock, nil
}
