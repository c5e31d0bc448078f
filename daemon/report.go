package daemon

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/restore/instance"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
)

// growthDays is how far back the growth of the store is measured.
const growthDays = 30

// report is the state now, with past runs or without.
func (d *Daemon) report(runs bool) report.Report {
	repo, err := d.repo.current()
	instances := d.instances(d.Now())
	unprotected := time.Time{}
	if repo != nil {
		unprotected = UnprotectedAt(repo)
	}
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	now, config := d.Now(), d.jobs.config
	r := report.Report{Version: d.Version, Host: config.Host, Repository: redact(config.Repository.URL), Now: now, Started: d.started,
		Environments: []report.Environment{}, Storage: d.jobs.storage, Warnings: d.warnings.All()}
	r.Storage.UnprotectedAt = unprotected
	for _, p := range config.Findings {
		if p.Degrades() {
			r.Warnings = append(r.Warnings, report.Warning{Time: d.jobs.loaded, Text: p.Error(), Degraded: true})
		}
	}
	switch {
	case err != nil:
		r.Degraded = err.Error()
	case repo == nil:
		r.Degraded = errNotOpen.Error()
	default:
		r.Lock = lockOf(repo)
	}

	for name, j := range d.jobs.byName {
		switch {
		case j.gone:
		case isDrill(name):
			r.Drills = append(r.Drills, j.drilled(now))
		case isDrift(name):
			r.Drifts = append(r.Drifts, report.Drift{Name: name[len(driftJob):], Job: j.report(now)})
		case name == pruneJob:
			p := j.report(now)
			r.Prune = &p
		case name == checkJob:
			r.Check = d.checks.Report(config, now)
			r.Check.Job, r.Check.Overdue = j.report(now), j.overdue(r.Check.Began, now)
			r.Warnings = append(r.Warnings, r.Check.Warnings(now)...)
		default:
			e := j.environment(now, runs)
			e.Instances = instances[name]
			r.Environments = append(r.Environments, e)
		}
	}
	slices.SortFunc(r.Drills, func(a, b report.Drill) int { return strings.Compare(a.Name, b.Name) })
	r.WarnOfDrills()
	slices.SortFunc(r.Drifts, func(a, b report.Drift) int { return strings.Compare(a.Name, b.Name) })
	r.WarnOfDrifts()
	slices.SortFunc(r.Environments, func(a, b report.Environment) int { return strings.Compare(a.Name, b.Name) })
	r.WarnOfTrials()
	r.WarnOfInstances()
	return r
}

// instances are those of the environments that have some. No lock is held while they are read.
func (d *Daemon) instances(now time.Time) map[string]*report.Instances {
	d.jobs.mu.Lock()
	config := d.jobs.config
	d.jobs.mu.Unlock()
	all := map[string]*report.Instances{}
	for name, env := range config.Environments {
		if i := InstancesOf(env, now); i != nil {
			all[name] = i
		}
	}
	return all
}

// InstancesOf are those of an environment; nil where it has none, and need not have any.
func InstancesOf(env *configs.Environment, now time.Time) *report.Instances {
	if env == nil || env.Scale == nil {
		return nil
	}
	v, err := instance.Look(env.Scale.Dir)
	switch {
	case errors.Is(err, instance.ErrNone), err == nil && v.Current == nil:
		if env.Scale.Min == 0 {
			return nil
		}
		return &report.Instances{Wanted: int(env.Scale.Min)}
	case err != nil:
		return &report.Instances{Error: report.Shorten(err.Error(), report.MaxError)}
	}
	i := &report.Instances{Snapshot: v.Current.Snapshot, Wanted: v.Wanted, Ready: v.Ready, NotProbed: v.NotProbed, Failed: v.Failed, CheckedAt: v.CheckedAt, Busy: v.Busy}
	i.Age(now)
	return i
}

// environment reports a job that captures an environment, with past runs or without.
func (j *job) environment(now time.Time, runs bool) report.Environment {
	e := report.Environment{Name: j.name, Job: j.report(now), Newest: j.state.Newest, AgeSeconds: -1, RPOSeconds: time.Duration(j.env.RPO).Seconds(),
		Kept: j.kept.Count(), Sources: sourcesOf(j.env), Retention: j.env.Keep.String(), Suspect: j.state.Suspect, Trial: j.trial, Runs: []report.Run{}}
	if runs {
		e.Runs = append(e.Runs, j.history.Runs...)
	}
	if !e.Newest.IsZero() {
		e.AgeSeconds, e.ProtectedUntil = now.Sub(e.Newest).Seconds(), j.state.Protected
		if j.lacks != nil {
			e.Uncaptured = j.lacks(runner.SourcePaths(j.env))
		}
	}
	if j.proof != nil {
		p := *j.proof
		p.AgeSeconds = now.Sub(p.Proven).Seconds()
		e.Proof = &p
	}
	// The clock was wrong when one in the future was taken: its age is not known.
	ahead := e.Newest.After(now.Add(time.Hour))
	e.RPOBroken = e.RPOSeconds > 0 && (e.Newest.IsZero() || ahead || e.AgeSeconds > e.RPOSeconds)
	return e
}

// report reports what is the same of all jobs.
func (j *job) report(now time.Time) report.Job {
	s := &j.state
	out := report.Job{Schedule: j.expression, TimeZone: j.zone, LastScheduled: s.LastScheduled, Last: s.Last, LastSuccess: s.LastSuccess, Failures: s.Failures,
		Totals: map[report.Result]uint64{}}
	maps.Copy(out.Totals, s.Totals)
	if j.timing != nil {
		out.Next = j.due(now).next
	}
	if r := j.running; r != nil {
		p := report.Progress{Started: r.began, Phase: r.live.Phase(), Attempt: r.live.Attempt()}
		if c := r.live.Progress(); c != nil {
			p.Files, p.Bytes, p.Total = c.Files.Load(), c.Bytes.Load(), c.Expected.Load()
		}
		if f := r.live.Failure(); f != nil {
			p.Error, p.Retry = f.Err.Error(), f.Next
		}
		out.Running = &p
	}
	return out
}

// overdue reports whether three checks in a row were not completed, and a day has
// passed since. The last complete one began at a time.
func (j *job) overdue(at, now time.Time) bool {
	if j.timing == nil {
		return false
	}
	if at.Before(j.state.Since) || at.After(now.Add(time.Hour)) { // the clock was wrong then
		at = j.state.Since
	}
	for range 3 {
		at = j.timing.schedule.Next(at)
	}
	return !at.IsZero() && now.After(at.Add(j.timing.offset+24*time.Hour))
}

// lockOf is the lock that a repository asks for.
func lockOf(repo *repository.Repository) *report.Lock {
	d := repo.Descriptor()
	if d.LockMode == "" {
		return &report.Lock{Mode: "none"}
	}
	return &report.Lock{Mode: strings.ToLower(d.LockMode), KeepSeconds: d.LockDuration.Seconds()}
}

// sourcesOf are what an environment captures. A command is named by its output,
// because its arguments may be secret.
func sourcesOf(env *configs.Environment) []report.Source {
	var out []report.Source
	for _, s := range env.Sources {
		if len(s.Command) > 0 {
			out = append(out, report.Source{Path: s.As, Command: true})
		} else {
			out = append(out, report.Source{Path: s.Path})
		}
	}
	return out
}

func redact(url string) string { return stores.Redact(url) }

// UnprotectedAt is that of report.Storage.
func UnprotectedAt(repo *repository.Repository) time.Time {
	if p := repo.Probed(); p != nil && p.Unprotected() {
		return p.At
	}
	return time.Time{}
}

// space is how full the store is, of which this host uses so much. It may take its time, so no lock is held.
func space(repo *repository.Repository, used uint64, url string, quota uint64) report.Storage {
	s := report.Storage{UsedBytes: used, LimitBytes: quota}
	if repo != nil {
		s.UnprovenPuts = repo.UnprovenPuts()
	}
	if path, ok := runner.DirectoryOf(url); ok {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil {
			disk, free := st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
			if s.LimitBytes == 0 || s.LimitBytes > disk {
				s.LimitBytes = disk
			}
			s.FreeBytes = free
		}
	}
	if quota > 0 {
		left := quota - min(quota, s.UsedBytes)
		if s.FreeBytes == 0 || left < s.FreeBytes {
			s.FreeBytes = left
		}
	}
	return s
}

// forecast returns how much runs stored a day recently, and when that will have used
// up what is free. It needs at least a day of runs.
func forecast(runs []report.Run, free uint64, limited bool, now time.Time) (perDay float64, full time.Time) {
	since := now.AddDate(0, 0, -growthDays)
	first, stored := now, 0.0
	for _, r := range runs {
		if r.Started.Before(since) || r.Started.After(now) || r.Snapshot == "" {
			continue
		}
		if r.Started.Before(first) {
			first = r.Started
		}
		stored += float64(r.StoredBytes)
	}
	days := now.Sub(first).Hours() / 24
	if days < 1 {
		return 0, time.Time{}
	}
	perDay = stored / days
	const farAway = 100 * 365
	if !limited || perDay <= 0 || float64(free)/perDay > farAway {
		return perDay, time.Time{}
	}
	return perDay, now.Add(time.Duration(float64(free) / perDay * 24 * float64(time.Hour)))
}
