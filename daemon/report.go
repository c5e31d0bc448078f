package daemon

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
)

// growthDays is how far back the growth of the store is measured.
const growthDays = 30

// Report is the state now.
func (d *Daemon) Report() report.Report { return d.report(true) }

// Problems are those of the last run of an environment; ok is false when there
// is no such environment.
func (d *Daemon) Problems(env string) (p report.Problems, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.jobs[env]
	if j == nil || j.gone || env == "" {
		return p, false
	}
	p = report.Problems{Environment: env, Snapshot: j.problems.snapshot, Problems: []report.Problem{}}
	for _, x := range j.problems.list {
		p.Problems = append(p.Problems, report.MakeProblem(x.Path, x.Reason))
	}
	return p, true
}

// report is the state now, with past runs or without.
func (d *Daemon) report(runs bool) report.Report {
	repo, err := d.repo.current()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.Now()
	r := report.Report{Version: d.Version, Host: d.config.Host, Repository: redact(d.config.Repository.URL), Now: now, Started: d.started,
		Environments: []report.Environment{}, Storage: d.storage, Warnings: slices.Clone(d.warnings)}
	if r.Warnings == nil {
		r.Warnings = []report.Warning{}
	}
	for _, p := range d.config.Findings {
		if p.Degrades() {
			r.Warnings = append(r.Warnings, report.Warning{Time: d.taken, Text: p.Error(), Degraded: true})
		}
	}
	switch {
	case err != nil:
		r.Degraded = err.Error()
	case repo == nil:
		r.Degraded = "the repository is not open yet"
	default:
		r.Lock = lockOf(repo)
	}
	for name, j := range d.jobs {
		if j.gone {
			continue
		}
		switch name {
		case pruneJob:
			p := d.reportJob(j, now)
			r.Prune = &p
			continue
		case checkJob:
			r.Check = d.reportCheck(j, now)
			r.Warnings = append(r.Warnings, r.Check.Warnings(now)...)
			continue
		}
		e := report.Environment{Name: name, Job: d.reportJob(j, now), Newest: j.state.Newest, AgeSeconds: -1, RPOSeconds: time.Duration(j.env.RPO).Seconds(),
			Kept: j.kept.Count(), Sources: sourcesOf(j.env), Retention: j.env.Keep.String(), Suspect: j.state.Suspect, Runs: []report.Run{}}
		if runs {
			e.Runs = append(e.Runs, j.history.Runs...)
		}
		if !e.Newest.IsZero() {
			e.AgeSeconds, e.ProtectedUntil = now.Sub(e.Newest).Seconds(), j.state.Protected
		}
		// One that lies ahead was taken by a clock that was wrong: its age is not known.
		ahead := e.Newest.After(now.Add(time.Hour))
		e.RPOBroken = e.RPOSeconds > 0 && (e.Newest.IsZero() || ahead || e.AgeSeconds > e.RPOSeconds)
		r.Environments = append(r.Environments, e)
	}
	slices.SortFunc(r.Environments, func(a, b report.Environment) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return r
}

// reportJob tells of one job; mu is held.
func (d *Daemon) reportJob(j *job, now time.Time) report.Job {
	s := &j.state
	out := report.Job{Schedule: j.expression, TimeZone: j.zone, LastScheduled: s.LastScheduled, Last: s.Last, LastSuccess: s.LastSuccess, Failures: s.Failures,
		Totals: map[report.Result]uint64{}}
	for result, n := range s.Totals {
		out.Totals[result] = n
	}
	if j.timing != nil {
		out.Next = j.due(now).next
	}
	if r := j.running; r != nil {
		p := report.Progress{Started: r.began, Phase: r.live.Phase(), Attempt: r.live.Attempt()}
		if c := r.live.Progress(); c != nil {
			p.Files, p.Bytes, p.Total = c.Files.Load(), c.Bytes.Load(), c.Expected.Load()
		}
		out.Running = &p
	}
	return out
}

// reportCheck tells of the check; mu is held.
func (d *Daemon) reportCheck(j *job, now time.Time) *report.Check {
	c := &d.checked
	out := &report.Check{Job: d.reportJob(j, now), Began: c.Began, Command: c.Command, Damaged: c.Damaged, Damage: slices.Clone(c.First), Tampered: c.Tampered,
		Notes: slices.Clone(c.Notes), Overdue: d.checkOverdue(j, now)}
	how, oldest := readingOf(d.config.Check, d.config.Identity != ""), c.Data.oldest()
	if oldest.After(now.Add(time.Hour)) {
		oldest = time.Time{}
	}
	if how == nil && oldest.IsZero() {
		return out
	}
	out.Data = &report.CheckedData{Oldest: oldest, PassPart: c.Data.place(), PassBegan: c.Data.Begun, Objects: c.Objects, StoredBytes: c.Stored}
	if how != nil {
		out.Data.Scheduled = true
		out.Data.CycleSeconds, out.Data.DailyBytes = how.cycle.Seconds(), how.daily
		out.Data.ExpectedSeconds = how.expected(c.Stored).Seconds()
	}
	return out
}

// checkOverdue reports whether three checks in a row did not look at everything,
// and a day has passed since. mu is held.
func (d *Daemon) checkOverdue(j *job, now time.Time) bool {
	if j.timing == nil {
		return false
	}
	at := d.checked.Began
	if at.Before(j.state.Since) || at.After(now.Add(time.Hour)) { // that was by a clock that was wrong
		at = j.state.Since
	}
	for range 3 {
		at = j.timing.schedule.Next(at)
	}
	return !at.IsZero() && now.After(at.Add(j.timing.offset+day))
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
// for its arguments may be secret.
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

// space looks how full the store is; it may take its time, so mu is not held.
func space(repo *repository.Repository, url string, quota uint64) report.Storage {
	s := report.Storage{LimitBytes: quota}
	if repo != nil {
		s.UsedBytes, s.UnprovenPuts, s.UnprotectedAt = repo.KnownBytes(), repo.UnprovenPuts(), UnprotectedAt(repo)
	}
	if path, ok := directoryOf(url); ok {
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

// measure adds the growth of the store to how full it is; mu is held.
func (d *Daemon) measure(s report.Storage) {
	var runs []report.Run
	for _, j := range d.jobs {
		if isEnvironment(j.name) {
			runs = append(runs, j.history.Runs...)
		}
	}
	s.BytesPerDay, s.FullAt = forecast(runs, s.FreeBytes, s.LimitBytes > 0, d.Now())
	d.storage = s
}

// forecast tells the growth of the last days, from what runs stored, and when
// it will have used up what is free. Less than a day of runs says nothing.
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
