package web

import (
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"knowngood/daemon/report"
	"knowngood/storage/attest"
)

// metricsHandler exports the report as it is at each scrape; what is not known
// is left out rather than exported as zero.
func metricsHandler(s Source) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{source: s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 20 * time.Second})
}

type collector struct{ source Source }

// desc describes one metric, of which label names are those after the help.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("knowngood_"+name, help, labels, nil)
}

// What is exported. A name holds its unit; a time is in seconds since 1970.
var (
	buildInfo = desc("build_info", "1, with the version of the daemon.", "version")
	degraded  = desc("degraded", "1 while the daemon cannot do its work, or does it with a configuration that it should not.")
	warnings  = desc("warnings", "Warnings that need a person, by kind: tampering or other.", "kind")

	newest       = desc("newest_snapshot_timestamp_seconds", "Start of the newest good snapshot.", "environment")
	rpo          = desc("rpo_seconds", "How old the newest good snapshot may be.", "environment")
	rpoBroken    = desc("rpo_broken", "1 while the newest good snapshot is older than the RPO, or there is none.", "environment")
	suspect      = desc("suspect", "1 while the newest snapshot is suspect and nobody accepted it.", "environment")
	nextRun      = desc("next_run_timestamp_seconds", "When the next run is due.", "environment")
	running      = desc("running", "1 while the environment is being captured.", "environment")
	failures     = desc("consecutive_failures", "Runs that failed since the last success.", "environment")
	runs         = desc("runs_total", "Runs that ended, by result.", "environment", "result")
	lastRun      = desc("last_run_timestamp_seconds", "When the last run ended, whatever its result.", "environment")
	lastDuration = desc("last_run_duration_seconds", "How long the last run took, retries included.", "environment")
	lastSuccess  = desc("last_success_timestamp_seconds", "When the last run ended that made a good snapshot.", "environment")
	snapFiles    = desc("snapshot_files", "Files of the newest good snapshot.", "environment")
	snapBytes    = desc("snapshot_bytes", "Content of the newest good snapshot.", "environment")
	snapNew      = desc("snapshot_new_bytes", "Content of it that the repository did not have.", "environment")
	snapStored   = desc("snapshot_stored_bytes", "What its run wrote to the store before the root.", "environment")
	snapProblems = desc("snapshot_problems", "Paths that could not be captured as they should.", "environment")
	kept         = desc("snapshots_kept", "Snapshots that are not forgotten.", "environment")
	trialEnd     = desc("trial_deadline_timestamp_seconds", "When the trial of a generation that is not committed yet ends; in the past: it should have gone back.", "environment")
	knownGood    = desc("known_good_timestamp_seconds", "Start of the newest snapshot that is known-good.", "environment")
	goodLevel    = desc("known_good_level", "How far that is proven: 1 restored, 2 probed, 3 booted; 0 while none is known-good.", "environment")
	goodProven   = desc("known_good_proven_timestamp_seconds", "When the store took the proof of that.", "environment")
	goodLacks    = desc("known_good_lacking", "1 while known_good or drill is configured and no snapshot is known-good, or by too old a proof.", "environment")
	drillRTO     = desc("drill_rto_seconds", "How long it took in that drill to restore and probe the snapshot.", "environment")
	lock         = desc("lock_remaining_seconds", "Until the first lock of the newest snapshot's objects ends, as the host says; 0 when it has.", "environment")

	pruneRuns     = desc("prune_runs_total", "Runs of pruning that ended, by result.", "result")
	pruneFailures = desc("prune_consecutive_failures", "Runs of pruning that failed since the last success.")
	pruneSuccess  = desc("prune_last_success_timestamp_seconds", "When pruning last succeeded.")
	pruneFreed    = desc("prune_freed_bytes", "What the last run of pruning freed.")

	checkRuns     = desc("check_runs_total", "Checks of what is stored that ended, by result; failed, too, when they found damage.", "result")
	checkFailures = desc("check_consecutive_failures", "Checks that failed, or found damage, since the last success.")
	checkBegan    = desc("check_last_timestamp_seconds", "When the last check began that looked at everything, whatever it found.")
	checkDamaged  = desc("check_damaged_objects", "Objects that it found to be missing or damaged.")
	checkOverdue  = desc("check_overdue", "1 while three checks in a row did not look at everything.")
	checkRead     = desc("check_read_bytes", "Stored data that the last check read.")
	checkOldest   = desc("check_data_oldest_timestamp_seconds", "All data that was stored until then has been read and compared since.")
	checkCycle    = desc("check_data_cycle_seconds", "How long it takes to read all stored data in turn.")

	drillRuns     = desc("drill_runs_total", "Runs of a job that drills that ended, by result.", "drill", "result")
	drillFailures = desc("drill_consecutive_failures", "Drills that failed, or could not run, since the last success.", "drill")
	drillLast     = desc("drill_last_timestamp_seconds", "When the last run of the drill ended, whatever its result.", "drill")
	drillOverdue  = desc("drill_overdue", "1 while three drills in a row ended without a result.", "drill")
	drillMissed   = desc("drill_rto_missed", "Environments of which the last run of the drill took longer than their rto.", "drill")
	driftPaths    = desc("drift_paths", "Paths that differ from the known-good state, and that nothing explains, in the newest comparison.", "environment")
	driftFailures = desc("drift_consecutive_failures", "Comparisons with the known-good state that could not be made, since the last that could.", "drift")
	driftLast     = desc("drift_last_timestamp_seconds", "When the last comparison ended, whatever its result.", "drift")
	instWanted    = desc("instances_wanted", "Instances that there should be.", "environment")
	instReady     = desc("instances_ready", "Instances whose probes passed when they were asked last; 0 where that is too long ago.", "environment")
	instUnprobed  = desc("instances_not_probed", "Instances that were started, and of which no probe is asked.", "environment")
	instFailed    = desc("instances_failed", "Instances that came up, and whose probes did not pass when they were asked last.", "environment")
	instChecked   = desc("instances_checked_timestamp_seconds", "When the probes of all instances were asked last.", "environment")
	neverProven   = desc("never_proven", "Environments in the repository that nothing here drills, or that have no proof of the last 30 days.")

	storeUsed        = desc("store_used_bytes", "What this host's packs take up.")
	storeLimit       = desc("store_limit_bytes", "The quota, or the size of the disk.")
	storeFree        = desc("store_free_bytes", "What is left of it.")
	storeGrowth      = desc("store_growth_bytes_per_day", "How fast the store grew over the last 30 days.")
	storeUnprotected = desc("store_unprotected", "1 while the store keeps no versions and enforces no create: an attacker who takes over a host can destroy its history.")
	storeFull        = desc("store_full_timestamp_seconds", "When it is full, growing like that.")
)

// Describe implements prometheus.Collector, without a description of what Collect
// returns.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	r := c.source.Report()
	g := gauges{ch}
	g.set(buildInfo, 1, r.Version)
	g.set(degraded, truth(r.Degraded != "" || slices.ContainsFunc(r.Warnings, func(w report.Warning) bool { return w.Degraded })))
	tampering := 0
	for _, w := range r.Warnings {
		if w.Tampering {
			tampering++
		}
	}
	g.set(warnings, float64(tampering), "tampering")
	g.set(warnings, float64(len(r.Warnings)-tampering), "other")
	for i := range r.Environments {
		g.environment(&r.Environments[i], r.Now)
	}
	if p := r.Prune; p != nil {
		g.totals(pruneRuns, p.Totals)
		g.set(pruneFailures, float64(p.Failures))
		if p.LastSuccess != nil {
			g.time(pruneSuccess, p.LastSuccess.Finished)
		}
		if p.Last != nil {
			g.set(pruneFreed, float64(p.Last.FreedBytes))
		}
	}
	if r.Check != nil {
		g.check(r.Check)
	}
	for i := range r.Drills {
		d := &r.Drills[i]
		g.totals(drillRuns, d.Totals, d.Name)
		g.set(drillFailures, float64(d.Failures), d.Name)
		g.set(drillOverdue, truth(d.Overdue), d.Name)
		if d.Last != nil {
			g.time(drillLast, d.Last.Finished, d.Name)
			missed := slices.DeleteFunc(slices.Clone(d.Last.Drilled), func(x report.Drilled) bool { return !x.RTOMissed() })
			g.set(drillMissed, float64(len(missed)), d.Name)
		}
	}
	compared := map[string]bool{} // two jobs may have been about one, while the configuration changed
	for i := range r.Drifts {
		d := &r.Drifts[i]
		g.set(driftFailures, float64(d.Failures), d.Name)
		if d.Last == nil {
			continue
		}
		g.time(driftLast, d.Last.Finished, d.Name)
		for _, x := range d.Last.Drifted {
			if x.Error == "" && !compared[x.Environment] {
				compared[x.Environment] = true
				g.set(driftPaths, float64(x.Paths), x.Environment)
			}
		}
	}
	if p := r.Proofs(); p != nil {
		g.set(neverProven, float64(p.Unproven))
	}
	if s := r.Storage; s.UsedBytes > 0 {
		g.set(storeUsed, float64(s.UsedBytes))
	}
	if s := r.Storage; s.BytesPerDay != 0 {
		g.set(storeGrowth, s.BytesPerDay)
	}
	if s := r.Storage; s.LimitBytes > 0 {
		g.set(storeLimit, float64(s.LimitBytes))
		g.set(storeFree, float64(s.FreeBytes))
	}
	g.time(storeFull, r.Storage.FullAt)
	if r.Lock != nil { // the repository is open
		g.set(storeUnprotected, truth(r.Storage.Unprotected()))
	}
}

// gauges sends values to a scrape.
type gauges struct{ ch chan<- prometheus.Metric }

func (g gauges) check(c *report.Check) {
	g.totals(checkRuns, c.Totals)
	g.set(checkFailures, float64(c.Failures))
	g.set(checkOverdue, truth(c.Overdue))
	if !c.Began.IsZero() {
		g.time(checkBegan, c.Began)
		g.set(checkDamaged, float64(c.Damaged))
	}
	if c.Last != nil {
		g.set(checkRead, float64(c.Last.ReadBytes))
	}
	if d := c.Data; d != nil {
		g.time(checkOldest, d.Oldest)
		if cycle := max(d.CycleSeconds, d.ExpectedSeconds); d.Scheduled && cycle > 0 {
			g.set(checkCycle, cycle)
		}
	}
}

func (g gauges) environment(e *report.Environment, now time.Time) {
	name := e.Name
	g.time(newest, e.Newest, name)
	if e.RPOSeconds > 0 {
		g.set(rpo, e.RPOSeconds, name)
		g.set(rpoBroken, truth(e.Broken()), name)
	}
	g.set(suspect, truth(e.Suspect != nil), name)
	g.time(nextRun, e.Next, name)
	g.set(running, truth(e.Running != nil), name)
	g.set(failures, float64(e.Failures), name)
	g.totals(runs, e.Totals, name)
	if l := e.Last; l != nil {
		g.time(lastRun, l.Finished, name)
		if !l.Died {
			g.set(lastDuration, l.Duration().Seconds(), name)
		}
	}
	if l := e.LastSuccess; l != nil {
		g.time(lastSuccess, l.Finished, name)
		g.set(snapFiles, float64(l.Files), name)
		g.set(snapBytes, float64(l.Bytes), name)
		g.set(snapNew, float64(l.NewBytes), name)
		g.set(snapStored, float64(l.StoredBytes), name)
		g.set(snapProblems, float64(l.Problems), name)
	}
	if e.Trial != nil {
		g.time(trialEnd, e.Trial.Deadline, name)
	}
	if p := e.Proof; p != nil && p.Error == "" {
		level, _ := attest.ParseLevel(p.Level) // none is 0
		g.set(goodLevel, float64(level), name)
		g.time(knownGood, p.Started, name)
		g.time(goodProven, p.Proven, name)
		if p.Snapshot != "" {
			g.set(drillRTO, p.RTOSeconds, name)
		}
	}
	if p := e.Proof; p != nil && p.Wanted {
		g.set(goodLacks, truth(p.Lacks() != ""), name)
	}
	if i := e.Instances; i != nil && i.Error == "" {
		g.set(instWanted, float64(i.Wanted), name)
		g.set(instReady, float64(i.Ready), name)
		g.set(instUnprobed, float64(i.NotProbed), name)
		g.set(instFailed, float64(i.Failed), name)
		g.time(instChecked, i.CheckedAt, name)
	}
	if e.Kept > 0 {
		g.set(kept, float64(e.Kept), name)
	}
	if !e.ProtectedUntil.IsZero() {
		g.set(lock, max(0, e.ProtectedUntil.Sub(now).Seconds()), name)
	}
}

func (g gauges) set(d *prometheus.Desc, v float64, labels ...string) {
	g.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// time sends a moment that is known.
func (g gauges) time(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		g.set(d, float64(t.UnixMilli())/1000, labels...)
	}
}

// totals sends a counter for every result, those that never were included, so
// that the first failure is an increase.
func (g gauges) totals(d *prometheus.Desc, t map[report.Result]uint64, labels ...string) {
	for _, r := range results() {
		g.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(t[r]), append(labels, string(r))...)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
