package daemon

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/daemon/validation"
	"knowngood/daemon/warnings"
	"knowngood/snapshot"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

// jobs are the jobs of the configuration, with what is remembered of each.
type jobs struct {
	o        *Options
	warnings *warnings.List

	mu      sync.Mutex // of the fields of every job, too
	config  *configs.Config
	loaded  time.Time // when config was
	byName  map[string]*job
	running int
	storage report.Storage // when a run ended last
	// unrecorded is the warning that the loaded configuration is not recorded.
	unrecorded string
	retried    time.Time // when state files that could not be written were tried again
}

// configure makes the jobs those of a configuration; mu is held.
func (t *jobs) configure(c *configs.Config) {
	want := map[string]bool{}
	add := func(name string, env *configs.Environment, expression, zone string, jitter, catchUp time.Duration) {
		want[name] = true
		j := t.open(name)
		j.env, j.gone = env, false
		if err := j.reschedule(c.Host, expression, zone, jitter, catchUp, t.o.Now()); err != nil { // validation refuses it
			t.warnings.Add(fmt.Sprintf("schedule of %q: %v", j.name, err), false)
		}
	}
	for name, env := range c.Environments {
		add(name, env, env.Schedule, env.TimeZone, time.Duration(env.Jitter), time.Duration(env.CatchUp))
	}
	for _, d := range c.AllDrills() {
		if name := drillJob + d.Name(); c.Identity != "" { // else loading it warned of that
			add(name, nil, d.Schedule, d.TimeZone, time.Duration(d.Jitter), time.Duration(d.CatchUp))
			t.byName[name].drill = d
		}
	}
	for _, d := range c.AllDrifts() {
		add(driftJob+d.Name(), nil, d.Drift.Schedule, d.TimeZone, time.Duration(d.Jitter), time.Duration(d.CatchUp))
	}
	if k := c.Check; k != nil && !c.DrillsOnly() {
		expression := k.Schedule
		if k.Off() {
			expression = ""
		}
		add(checkJob, nil, expression, k.TimeZone, time.Duration(k.Jitter), 24*time.Hour)
	}
	if p := c.Prune; p != nil && !p.Off() {
		add(pruneJob, nil, p.Schedule, p.TimeZone, 0, 24*time.Hour)
	}
	for name, j := range t.byName {
		if !want[name] {
			j.gone, j.timing = true, nil
			if j.running == nil {
				t.drop(j)
			}
		}
	}

	t.config, t.loaded = c, t.o.Now()
	for _, p := range c.Findings {
		t.o.Log.Warn(p.Error())
	}
	t.warnings.Written(&t.unrecorded, validation.TakenFile(c.StateDir), validation.RememberTaken(c.StateDir, t.o.Version, c))
}

// open returns the job of a name, and reads its state if it is new; mu is held.
func (t *jobs) open(name string) *job {
	if j := t.byName[name]; j != nil {
		return j
	}
	j, state, runs := openJob(t.o.Config.StateDir, name)
	t.warnings.Opened(j.slots, state)
	t.warnings.Written(&j.history.Failed, j.history.Path(), runs)
	if j.state.Since.IsZero() {
		j.state.Since = t.o.Now()
		t.save(j)
	}
	t.byName[name] = j
	return j
}

// drop removes a job that is not configured any more; mu is held.
func (t *jobs) drop(j *job) {
	j.slots.Close()
	delete(t.byName, j.name)
}

func (t *jobs) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.byName {
		j.slots.Close()
	}
}

// save writes the state of a job; mu is held.
func (t *jobs) save(j *job) { t.warnings.Save(j.slots, &j.state) }

// retryWrites writes, once a minute, the states that could not be written, and
// reports whether it was time for that; mu is held.
func (t *jobs) retryWrites(now time.Time) bool {
	if since := now.Sub(t.retried); since >= 0 && since < checkEvery {
		return false
	}
	t.retried = now
	for _, j := range t.byName {
		if j.slots.Failed != "" {
			t.save(j)
		}
	}
	return true
}

// ended records a run of a job that ended; mu is held.
func (t *jobs) ended(j *job, run report.Run) {
	t.warnings.Written(&j.history.Failed, j.history.Path(), j.ended(run))
	t.save(j)
}

// skipped records scheduled times that are not made up for; mu is held.
func (t *jobs) skipped(j *job, due dueNow, now time.Time) {
	run := report.Run{Trigger: "schedule", Scheduled: due.skippedAt, Started: now, Finished: now, Result: report.Skipped, Missed: due.skipped,
		Error: fmt.Sprintf("%d scheduled times up to %s were missed, longer ago than catch_up", due.skipped, due.skippedAt.Format(time.RFC3339))}
	t.o.Log.Warn("runs were missed and are not made up for", zap.String("environment", j.name), zap.Int("missed", due.skipped), zap.Time("newest", due.skippedAt))
	t.ended(j, run)
}

// outdated are the environments of which the repository knows something newer:
// where the daemon's state was lost or is of another repository, or somebody
// captured or accepted a snapshot by hand.
func (t *jobs) outdated(repo *repository.Repository) (host string, names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := repo.ID().String()
	for name, j := range t.byName {
		if !isEnvironment(name) || j.running != nil {
			continue
		}
		n, err := repo.Remembered(t.config.Host, name)
		accepted := j.state.Suspect != nil && snapshot.Accepted(repo, name) != j.state.Accepted
		if j.looked != id || err == nil && n > j.state.Number || accepted {
			names = append(names, name)
		}
	}
	return t.config.Host, names
}

// update records what the repository of an ID knows of an environment, or the
// error that this cannot be found out.
func (t *jobs) update(name, id string, f *found, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := t.byName[name]
	none := errors.Is(err, history.ErrNoSnapshot)
	switch {
	case err != nil && !none:
		t.warnings.Add("newest snapshot of "+name+": "+err.Error(), authentic.Damaged(err))
		return
	case j == nil:
		return
	}
	j.looked = id
	if !none && f.head.Number >= j.state.Number {
		if j.lacks = nil; f.good != nil {
			j.lacks = f.good.Lacks
		}
	}
	switch {
	case none && j.state.Repository != id:
		j.state.Number, j.state.Newest, j.state.Protected, j.state.LastSuccess, j.state.Suspect = 0, time.Time{}, time.Time{}, nil, nil
	case !none && f.head.Body != nil && (f.head.Number > j.state.Number || j.state.Repository != id || j.state.Suspect != nil && f.accepted != j.state.Accepted):
		j.update(f)
	default:
		return
	}
	j.state.Repository = id
	t.save(j)
}

// pastRuns are those of all environments; mu is held.
func (t *jobs) pastRuns() (runs []report.Run) {
	for _, j := range t.byName {
		if isEnvironment(j.name) {
			runs = append(runs, j.history.Runs...)
		}
	}
	return runs
}
