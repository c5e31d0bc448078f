package web

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"knowngood/daemon/report"
)

var now = time.Date(2026, 11, 20, 10, 4, 30, 0, time.UTC)

// fake is a daemon as far as this package sees one.
type fake struct {
	mu       sync.Mutex
	r        report.Report
	unready  error
	timeline report.Timeline
	start    func(env string) error
	started  []string
}

func (f *fake) Report() report.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.r
}

func (f *fake) Problems(string) (report.Problems, bool) { return report.Problems{}, false }

func (f *fake) Timeline(string) report.Timeline { return f.timeline }

func (f *fake) Ready() error { return f.unready }

func (f *fake) Start(_ context.Context, env string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, env)
	if f.start != nil {
		return f.start(env)
	}
	return nil
}

func (f *fake) set(change func(*report.Report)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.r)
}

// history is n runs of an environment, one each step until now, that grow and
// fail now and then.
func history(name string, n int, step time.Duration, size float64, result func(i int) report.Result) []report.Run {
	var out []report.Run
	for i := range n {
		at := now.Add(-time.Duration(n-i)*step + 10*time.Second)
		r := report.Run{Trigger: "schedule", Scheduled: at, Started: at, Attempts: 1, Result: result(i)}
		r.Finished = at.Add(time.Duration(4000+i*37%2900+i%7*450) * time.Millisecond)
		switch r.Result {
		case report.Failed:
			r.Attempts = 5
			r.Finished = at.Add(31 * time.Second)
			r.Error = fmt.Sprintf("capture %s: put packs/3f/3f09c1: 503 Slow Down after 5 attempts: the store does not answer; look at its state, the next run goes on where this one was", name)
		case report.Skipped:
			r.Finished = at
			r.Error = "the run before was still under way"
		case report.Partial:
			r.Problems = 2
		}
		if r.Result.Good() {
			r.Snapshot = fmt.Sprintf("%s@%d", name, 100+i)
			r.Files = uint64(size / 9000)
			r.Bytes = uint64(size * (1 + 0.004*float64(i)))
			r.NewBytes, r.StoredBytes = r.Bytes/400, r.Bytes/1100
		}
		out = append(out, r)
	}
	return out
}

func environment(name string, rpo time.Duration, runs []report.Run) report.Environment {
	e := report.Environment{Name: name, RPOSeconds: rpo.Seconds(), AgeSeconds: -1, Runs: runs, Kept: 87}
	e.Totals = map[report.Result]uint64{}
	for i := range runs {
		r := &runs[i]
		e.Totals[r.Result]++
		e.Last = r
		if r.Result.Good() {
			e.LastSuccess, e.Newest, e.Failures = r, r.Started, 0
			e.AgeSeconds = now.Sub(r.Started).Seconds()
			e.RPOBroken = rpo > 0 && e.AgeSeconds > rpo.Seconds()
		} else if r.Result == report.Failed {
			e.Failures++
		}
	}
	return e
}

func always(int) report.Result { return report.Success }

// sample is a host with something of everything.
func sample() report.Report {
	web := environment("web", time.Hour, history("web", 96, 15*time.Minute, 1.4e9, func(i int) report.Result {
		switch {
		case i == 55 || i == 56:
			return report.Failed
		case i == 70:
			return report.Partial
		case i == 80:
			return report.Skipped
		}
		return report.Success
	}))
	web.Schedule, web.Next, web.ProtectedUntil = "*/15 * * * *", now.Add(5*time.Minute+12*time.Second), now.Add(29*24*time.Hour)
	web.Trial = &report.Trial{Generation: "42-3f9a1c2b", Deadline: now.Add(4 * time.Minute)}
	web.Running = &report.Progress{Started: now.Add(-40 * time.Second), Phase: "capture", Attempt: 1, Files: 61234, Bytes: 9e8, Total: 1.9e9}
	web.Proof = &report.Proof{Snapshot: "web@150", Started: now.Add(-7 * time.Hour), Level: "probed", Base: "host", Isolation: "namespaces", Machine: "drill-1", RTOSeconds: 41, Proven: now.Add(-6 * time.Hour), AgeSeconds: 6 * 3600,
		Newest: "web@191", Reason: "it is marked bad by the owner: broken into", Bad: []report.Bad{{Snapshot: "web@191", Reason: "it is marked bad by the owner: broken into"}}, BadCount: 3, Wanted: true, LimitSeconds: 30 * 86400}
	db := environment("db", 2*time.Hour, history("db", 40, time.Hour, 3.3e10, func(i int) report.Result {
		if i >= 37 {
			return report.Failed
		}
		return report.Success
	}))
	db.Schedule, db.Next, db.ProtectedUntil = "@every 1h", now.Add(38*time.Minute), now.Add(26*24*time.Hour)
	etc := environment("etc", 0, history("etc", 5, 24*time.Hour, 4.1e6, always))
	etc.Proof = &report.Proof{Newest: "etc@104", Reason: "the drill on drill-1 failed", Wanted: true}
	etc.Next = now.Add(13 * time.Hour)
	etc.Instances = &report.Instances{Snapshot: "etc@103", Wanted: 3, Ready: 2, Failed: 1, CheckedAt: now.Add(-20 * time.Second)}
	pruned := &report.Run{Result: report.Success, Started: now.Add(-125 * time.Hour), Finished: now.Add(-124 * time.Hour), FreedBytes: 7.1e9}
	return report.Report{
		Version: "1.4.0", Host: "web-7", Repository: "s3://backups/prod?endpoint=https://s3.example.com&region=eu-1",
		Now: now, Started: now.Add(-19 * 24 * time.Hour),
		Environments: []report.Environment{etc, web, db},
		Prune:        &report.Job{Schedule: "0 5 * * 0", Next: now.Add(43 * time.Hour), Last: pruned, LastSuccess: pruned, Totals: map[report.Result]uint64{report.Success: 4}},
		Check:        sampleCheck(),
		Drills: []report.Drill{{Name: "web", Job: report.Job{Schedule: "0 4 * * *", Next: now.Add(18 * time.Hour), Totals: map[report.Result]uint64{report.Success: 12},
			Last: &report.Run{Started: now.Add(-6 * time.Hour), Finished: now.Add(-6 * time.Hour), Result: report.Success, Attempts: 1, Drilled: []report.Drilled{{Environment: "web-7/web", Snapshot: "web-7/web@42", Passed: true, Level: "probed", RTOSeconds: 41}}}}}},
		Drifts: []report.Drift{{Name: "web", Job: report.Job{Schedule: "0 5 * * *", Last: &report.Run{Finished: now.Add(-5 * time.Hour), Result: report.Success, Drifted: []report.Drifted{{Environment: "web", From: "web@42"}}}}}},
		Lock:   &report.Lock{Mode: "compliance", KeepSeconds: 30 * 86400}, Storage: report.Storage{UsedBytes: 1.9e11, LimitBytes: 2.5e11, FreeBytes: 6e10, BytesPerDay: 6.1e8, FullAt: now.Add(98 * 24 * time.Hour)},
		Warnings: []report.Warning{{Time: now.Add(-3 * time.Hour), Text: "the configuration was not taken, the old one stays: /etc/knowngood/config.yaml:12:5: environments.web.schedule: \"61 * * * *\" is no cron expression"}},
	}
}

func sampleCheck() *report.Check {
	last := &report.Run{Trigger: "schedule", Result: report.Success, Started: now.Add(-5 * time.Hour), Finished: now.Add(-4 * time.Hour), ReadBytes: 1 << 30}
	return &report.Check{
		Job:   report.Job{Schedule: "0 5 * * *", Next: now.Add(19 * time.Hour), Last: last, LastSuccess: last, Totals: map[report.Result]uint64{report.Success: 60, report.Failed: 1}},
		Began: last.Started, Notes: []string{"the keys of the repository were not looked at: these credentials may not read them"},
		Data: &report.CheckedData{Scheduled: true, Oldest: now.Add(-80 * 24 * time.Hour), PassBegan: now.Add(-30 * 24 * time.Hour), PassPart: 0.17, CycleSeconds: 90 * 86400, ExpectedSeconds: 177 * 86400,
			DailyBytes: 1 << 30, Objects: 11000, Bytes: 1.9e11},
	}
}

// many is a host of fifty environments, with names as long as they may be.
func many() report.Report {
	r := sample()
	r.Environments = nil
	for i := range 50 {
		name := fmt.Sprintf("tenant-%02d-%s", i, strings.Repeat("long", 12))
		r.Environments = append(r.Environments, environment(name, time.Hour, history(name, 48, 15*time.Minute, 2e8, always)))
	}
	return r
}

// hostile is a report whose every text tries to become more than text.
func hostile() report.Report {
	const evil = `<script>document.title="taken"</script><img src=x onerror=alert(1)>"'&<b>&#x27;</svg><style>*{display:none}</style>`
	r := sample()
	r.Host, r.Repository, r.Version, r.Degraded = evil, evil, evil, evil+strings.Repeat("x", 400)
	for i := range r.Environments {
		e := &r.Environments[i]
		for j := range e.Runs {
			e.Runs[j].Trigger, e.Runs[j].Error = evil, evil
			e.Runs[j].Snapshot = evil
		}
	}
	r.Warnings[0].Text, r.Warnings[0].Degraded = evil, true
	r.Check.Damaged, r.Check.Damage, r.Check.Notes, r.Check.Command = 1, []string{evil}, []string{evil}, evil
	r.Check.Last = &report.Run{Result: report.Failed, Error: evil, Finished: now}
	r.Lock = &report.Lock{Mode: evil, KeepSeconds: 1}
	for i := range r.Environments {
		e := &r.Environments[i]
		e.Sources, e.Retention, e.Schedule, e.TimeZone = []report.Source{{Path: evil}, {Path: evil, Command: true}}, evil, evil, evil
		e.Suspect = &report.Suspicion{Snapshot: evil, Good: evil, Reasons: []string{evil, evil}}
	}
	return r
}
