package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/internal/command"
)

// drillJob begins the names of the jobs that drill; what follows is the name of the
// entry.
const drillJob = "drill of "

const drillPhase = "drill"

func isDrill(name string) bool { return strings.HasPrefix(name, drillJob) }

// drillFile names the files of a job that drills: patterns may have any characters.
func drillFile(name string) string { return fmt.Sprintf("drill-%.8x", sha256.Sum256([]byte(name))) }

// errGaveWay ends a drill beside which there is no room for a capture.
var errGaveWay = errors.New("the drill gave way to a capture of the same environment, because memory or disk was short; it begins again when that ends")

// drill is a run of a job that drills, in a process of its own.
func (x *executor) drill(ctx context.Context, name string, r *running) (err error) {
	defer func() {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errGaveWay):
			r.run.Result, r.run.Error, err = report.Interrupted, errGaveWay.Error(), nil
		case cause != nil && err != nil && (errors.Is(cause, runner.ErrStopped) || errors.Is(cause, context.Canceled)):
			r.run.Result, r.run.Error, err = report.Interrupted, "the drill was stopped with the daemon: it proved nothing, and begins again", nil
		}
	}()
	lock, err := jobfiles.WaitLock(ctx, jobfiles.Locks(x.o.Config.StateDir), "."+drillFile(name), "the daemon", nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := lock.Begin(&r.run); err != nil {
		return err
	}
	x.o.Log.Info("drill started", zap.String("of", name[len(drillJob):]), zap.String("trigger", r.run.Trigger))
	r.live.Enter(drillPhase)
	r.run.Attempts = 1

	out, err := x.o.Drill(ctx, name[len(drillJob):], false)
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(cause, lock.End())
	}
	return errors.Join(drilled(&r.run, out, err), lock.End())
}

// drilled records what the process of a drill printed. err is how that ended.
func drilled(run *report.Run, out []byte, err error) error {
	var last struct {
		Type   string
		Error  string
		Drills []report.Drilled
		Never  []string `json:"never_proven"`
	}
	switch unread := lastLine(out, &last); {
	case unread == nil && last.Type == "result" && len(last.Drills) > 0:
		run.SetDrilled(last.Drills, last.Never)
		return nil
	case unread == nil && last.Error != "":
		return errors.New("the drill could not run: " + last.Error)
	case err != nil:
		const signalled = 128 // as a shell has it, where a server ran it
		if e, ok := errors.AsType[*command.Error](err); ok && (e.Signal != 0 || e.ExitCode > signalled) {
			run.Died = true
		}
		return fmt.Errorf("the drill ended before it had a result: %w", err)
	}
	return errors.New("the drill ended without a result: see the log")
}

// lastLine reads the last line of JSON that a process of a job printed.
func lastLine(out []byte, into any) error {
	out = bytes.TrimSpace(out)
	return json.Unmarshal(out[bytes.LastIndexByte(out, '\n')+1:], into)
}

// drillWaits reports whether a drill that is due cannot begin yet: another one is
// under way, or its environment is being captured, by this daemon or by hand; mu is
// held.
func (t *jobs) drillWaits(j *job) bool {
	for _, other := range t.byName {
		if isDrill(other.name) && other.running != nil {
			return true
		}
	}
	if j.drill.Host != "" {
		return false // another machine captures it
	}
	if e := t.byName[j.drill.Environment]; e != nil && e.running != nil {
		return true
	}
	lock, err := jobfiles.TryLock(jobfiles.Locks(t.o.Config.StateDir), j.drill.Environment, "the daemon")
	if err == nil {
		lock.Release()
	}
	held := (*jobfiles.HeldError)(nil)
	return errors.As(err, &held)
}

// inOrder are the jobs, those that drill last, and of these the one first that ran
// last the longest ago; mu is held.
func (t *jobs) inOrder() []*job {
	ran := func(j *job) (at time.Time) {
		if isDrill(j.name) && j.state.Last != nil {
			at = j.state.Last.Finished
		}
		return at
	}
	return slices.SortedFunc(maps.Values(t.byName), func(a, b *job) int {
		return cmp.Or(strings.Count(a.name, drillJob)-strings.Count(b.name, drillJob), ran(a).Compare(ran(b)))
	})
}

// roomBeside is how much memory and disk a capture must find beside a drill, in bytes.
const roomBeside = 512 << 20

// makeRoom ends the drills of environments that are being captured where memory or
// disk is short: a capture never waits for a drill. mu is held.
func (t *jobs) makeRoom() {
	for _, j := range t.byName {
		if !isDrill(j.name) || j.running == nil || j.drill.Host != "" {
			continue
		}
		if e := t.byName[j.drill.Environment]; e != nil && e.running != nil && !t.o.Room(t.o.Config.StateDir) {
			j.running.cancel(errGaveWay)
		}
	}
}

// roomFor reports whether a capture has room on this machine. What is not known is
// no reason to end a drill.
func roomFor(stateDir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(stateDir, &st) == nil && st.Bavail*uint64(st.Bsize) < roomBeside {
		return false
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return true
	}
	_, after, found := strings.Cut(string(info), "MemAvailable:")
	var kib uint64
	_, err = fmt.Sscan(after, &kib)
	return !found || err != nil || kib<<10 >= roomBeside
}

// settleDrills records the drills that died with an earlier daemon, and has removed
// what they left.
func (x *executor) settleDrills(ctx context.Context) {
	x.jobs.mu.Lock()
	defer x.jobs.mu.Unlock()
	for _, j := range x.jobs.byName {
		if !isDrill(j.name) {
			continue
		}
		lock, err := jobfiles.TryLock(jobfiles.Locks(x.o.Config.StateDir), "."+drillFile(j.name), "the daemon")
		if err != nil {
			continue // the run reports it
		}
		began := lock.Record.Run
		if began == nil {
			lock.Release()
			continue
		}
		run := report.Run{Trigger: began.Trigger, Scheduled: began.Scheduled, Started: began.Started, Finished: x.o.Now(), Missed: began.Missed, Result: report.Failed, Died: true,
			Error: "the drill that began at " + began.Started.Format("2006-01-02 15:04:05 MST") + " died: knowngood or the machine ended in the middle of it; it proved nothing, and is repeated"}
		x.active.Go(func() {
			defer lock.Release()
			if _, err := x.o.Drill(ctx, j.name[len(drillJob):], true); err != nil && ctx.Err() == nil {
				run.Error += "; what it left is not removed: " + err.Error()
			}
			x.died(j, run)
			if err := lock.Drop(); err != nil {
				x.o.Log.Warn("the record of a drill that died was not dropped", zap.Error(err))
			}
		})
	}
}

// drilled reports a job that drills.
func (j *job) drilled(now time.Time) report.Drill {
	d := report.Drill{Name: j.name[len(drillJob):], Job: j.report(now)}
	at := j.state.Since
	for i := range j.history.Runs {
		if r := &j.history.Runs[i]; len(r.Drilled) > 0 {
			at = r.Started
		}
	}
	d.Overdue = j.overdue(at, now)
	return d
}
