// Package jobfiles is what a daemon keeps on disk of its jobs: their states, in
// files that neither a crash nor a full disk spoils; their past runs; and a lock for
// each environment, in which a run that dies leaves a record.
package jobfiles

import (
	"cmp"
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

// Lock is a file that one process at a time holds. It names that process,
// and what became of the runs of an environment. The kernel releases it when
// the process dies.
type Lock struct {
	dir    userdir.Dir
	file   *os.File
	Holder string // in words
	made   bool   // just now: its name is not on disk yet
	Record Record
}

// HeldError names who holds a lock.
type HeldError struct{ Holder string }

func (e *HeldError) Error() string { return "held by " + e.Holder }

// Locks is the folder of the locks in a state directory.
func Locks(stateDir string) userdir.Dir { return userdir.At(stateDir).In("daemon", "locks") }

// Jobs is the folder of the states and past runs in a state directory.
func Jobs(stateDir string) userdir.Dir { return userdir.At(stateDir).In("daemon", "jobs") }

// TryLock takes the lock of a name; a *HeldError when another holds it.
func TryLock(dir userdir.Dir, name, purpose string) (*Lock, error) {
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
		holder = cmp.Or(holder, "another process")
		return nil, &HeldError{holder}
	}
	l := &Lock{dir: dir, file: f, Holder: fmt.Sprintf("process %d (%s) since %s", os.Getpid(), purpose, time.Now().Format(time.RFC3339))}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir.Path(name), err)
	}
	l.write() // words for people: a disk too full for them is no reason to stop
	return l, nil
}

// WaitLock takes the lock as soon as nobody else holds it; waiting is called once
// with who does.
func WaitLock(ctx context.Context, dir userdir.Dir, name, purpose string, waiting func(Holder string)) (*Lock, error) {
	for called := false; ; {
		l, err := TryLock(dir, name, purpose)
		var held *HeldError
		if !errors.As(err, &held) {
			return l, err
		}
		if !called && waiting != nil {
			waiting(held.Holder)
		}
		called = true
		select {
		case <-time.After(lockWait):
		case <-ctx.Done():
			return nil, fmt.Errorf("it is %w, and that took too long", held)
		}
	}
}

func (l *Lock) Release() { l.file.Close() }
