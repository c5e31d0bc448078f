package generation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/snapshot/live"
)

// journal is the state of generations on the disk, which is changed under its lock: what
// there is, and what is under way.
type journal struct {
	places
	state *state
	lock  *os.File
}

// acquire takes the lock, and reads the state under it.
func (j *journal) acquire() (err error) {
	if j.lock, err = HoldFile(j.path(lockName)); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w by another process: wait for it, or see what it does with knowngood generations %s", j.what(), ErrBusy, j.Environment)
	} else if err != nil {
		return err
	}
	if j.state, err = readState(j.dir); err == nil && j.state != nil && j.InPlace == nil && j.state.Method != j.Config.Switch.Method {
		err = fmt.Errorf("%s was adopted with method %s, and the configuration has %s: release it first (knowngood generations %s --release)", j.Config.Root, j.state.Method, j.Config.Switch.Method, j.Environment)
	}
	if err != nil {
		j.lock.Close()
	}
	return err
}

// lockName is the file that the process has locked that changes the generations.
const lockName = "lock"

// HoldFile locks a file for as long as it is open, and waits a moment for it: a program that
// is being started has a copy of the lock until it runs. EWOULDBLOCK: another process has it.
// A file that was removed in the meantime, with its directory, locks nothing.
func HoldFile(path string) (*os.File, error) {
	for wait := 20; ; wait-- {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: be root, or the user who owns that directory", err)
		}
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			is, ierr := f.Stat()
			at, aerr := os.Lstat(path)
			if ierr == nil && aerr == nil && os.SameFile(is, at) {
				return f, nil
			}
		}
		f.Close()
		if wait == 0 || err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, cmp.Or(err, error(unix.EWOULDBLOCK))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// relock takes the lock again, for which it waits: nobody holds it long while a generation
// is on trial.
func (j *journal) relock() (err error) {
	for range 600 {
		if err = j.acquire(); !errors.Is(err, ErrBusy) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// save makes the state durable. at names the moment, for tests that end the process there.
func (j *journal) save(at string) error {
	j.point("before " + at)
	if err := durable.WriteState(j.path(live.StateFile), j.state, j.state.Transaction == nil); err != nil {
		return fmt.Errorf("state of generations: %w", err)
	}
	j.point("after " + at)
	return nil
}

// idle refuses to begin something while a generation is on trial.
func (j *journal) idle() error {
	if j.state != nil && j.state.Transaction != nil {
		t := j.state.Transaction
		return fmt.Errorf("generation %s of %s is on trial until %s: keep it (knowngood commit %[2]s) or go back (knowngood rollback %[2]s) first", t.To, j.Environment, t.Deadline.Format(time.DateTime))
	}
	return nil
}

// liveName is the generation that is live; empty for none.
func (j *journal) liveName() string { return j.shown(j.state) }

// topOf is where the tree of a generation is now.
func (j *journal) topOf(name string) string {
	if j.state.Method == "exchange" && name == j.liveName() {
		return j.root
	}
	return j.path(name)
}

// flip makes a generation the live one, in one rename, and makes that durable. In place it
// runs the command of a patch, or puts back what that changed.
func (j *journal) flip(ctx context.Context, t *transaction) error {
	w := wayBack{j.places, t.To, t.InPlace}
	switch {
	case j.InPlace == nil:
		return j.show(j.state, t.To)
	case t.Kind == "rollback":
		return w.putBack(ctx)
	}
	return cmp.Or(j.InPlace.Run(ctx), w.syncSources())
}

// tidy removes what is left of what was not finished: what the state does not name.
func (j *journal) tidy() error {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	liveNow, _ := live.Link(j.root) // whatever the state has: it may be an older one that somebody put back
	for _, n := range names {
		name, isRecord := strings.CutSuffix(n.Name(), recordName)
		copied := j.InPlace != nil && j.state.Transaction == nil && j.state.Problem == "" // it serves nothing any more
		ours := namePattern.MatchString(name) || copied && name == durable.Reserve || !isRecord && (name == newName || name == oldName || name == linkName) || strings.HasPrefix(name, ".record-") || strings.HasPrefix(name, "."+live.StateFile)
		if !ours || name == liveNow || j.state.find(name) != nil && !copied {
			continue
		}
		if err := j.remove(n.Name()); err != nil {
			return err
		}
	}
	return nil
}
