package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/internal/schedule"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/prune"
)

// jobState is what a job must still know after a crash.
type jobState struct {
	LastScheduled time.Time                `json:"last_scheduled,omitzero"`
	Last          *report.Run              `json:"last,omitempty"`
	LastSuccess   *report.Run              `json:"last_success,omitempty"`
	Failures      int                      `json:"failures"`
	Totals        map[report.Result]uint64 `json:"totals"`
	// Newest is the start of the newest snapshot known, Protected when its first
	// lock ends, Number its number, and Repository the ID of where it is.
	Newest     time.Time `json:"newest,omitzero"`
	Protected  time.Time `json:"protected,omitzero"`
	Number     uint64    `json:"number,omitempty"`
	Repository string    `json:"repository,omitempty"`
	// Suspect is set while the newest snapshot is suspect, Accepted the highest
	// number that was known to be accepted when that was looked at last.
	Suspect  *report.Suspicion `json:"suspect,omitempty"`
	Accepted uint64            `json:"accepted,omitempty"`
	// Since is when the job was first configured.
	Since time.Time `json:"since,omitzero"`
}

// jobSize is the room for the state of a job.
const jobSize = 16 << 10

// maxErrorText is what is kept of an error, so that a state fits its slot.
const maxErrorText = 2000

// Names of the jobs that capture nothing. No environment has a name with a space.
const (
	pruneJob = ""
	checkJob = "the check"
)

// isEnvironment reports whether the job of a name captures an environment.
func isEnvironment(name string) bool { return name != pruneJob && name != checkJob }

// job is something done on a schedule; its fields belong to Daemon.mu, but for
// what says otherwise.
type job struct {
	name       string // of the environment, or pruneJob or checkJob
	expression string // of its schedule, as configured
	zone       string
	timing     *timing // nil: only by hand
	env        *configs.Environment

	state   jobState
	slots   *jobfiles.Slots
	history *jobfiles.History

	looked  string   // ID of the repository in which its newest snapshot was looked for
	running *running // nil when it is not
	kept    *Kept
	// problems are those of the last run that made a snapshot since the daemon
	// started, named so.
	problems struct {
		snapshot string
		list     []manifest.Problem
	}
	gone bool // no longer configured; it ends with its run
}

// running is a run under way.
type running struct {
	run report.Run // written by the run alone, read by others only when it ended
	// problems of the snapshot that it made; as run.
	problems []manifest.Problem
	live     Live
	pruned   prune.Progress
	// checking is what a check has done.
	checking check.Progress

	began  time.Time
	cancel context.CancelCauseFunc
	// number of the configuration of the repository, and timeout (0: none), when
	// it was its turn.
	number  int
	timeout time.Duration
	phase   string // when it was looked at last
	seen    uint64 // what it had done then
	moved   time.Time
}

// openJob reads the state of a job from the state directory. Errors are of that
// (see jobfiles.OpenSlots), and of past runs; the job is good with both.
func openJob(stateDir, name string) (j *job, state, runs error) {
	file := "env-" + name
	switch name {
	case pruneJob:
		file = "prune"
	case checkJob:
		file = "check"
	}
	j = &job{name: name, kept: &Kept{}}
	dir := jobsDir(stateDir)
	j.slots, state = jobfiles.OpenSlots(dir, file+".state", jobSize, &j.state)
	j.history, runs = jobfiles.OpenHistory(dir, file+".runs")
	if j.state.Totals == nil {
		j.state.Totals = map[report.Result]uint64{}
	}
	return j, state, runs
}

// ended takes in a run that came to its end. An error is that the past runs lack
// it; the state is yet to be written.
func (j *job) ended(run report.Run) error {
	if len(run.Error) > maxErrorText {
		run.Error = run.Error[:maxErrorText] + "…"
	}
	j.state.Totals[run.Result]++
	if last := j.state.Last; run.Died && last != nil && last.Started.After(run.Started) {
		return j.history.Add(run) // others came after it
	}
	j.state.Last = &run
	switch run.Result {
	case report.Failed:
		j.state.Failures++
	case report.Success, report.Partial, report.Suspect:
		j.state.Failures = 0
	}
	if run.MadeGood() {
		j.state.LastSuccess, j.state.Suspect = &run, nil
	}
	if len(run.Suspect) > 0 { // what came after it may have failed
		j.suspect(&run)
	}
	// What died or was stopped is made again.
	if !run.Died && run.Result != report.Interrupted && run.Scheduled.After(j.state.LastScheduled) {
		j.state.LastScheduled = run.Scheduled
	}
	return j.history.Add(run)
}

// bounded are reasons that are no longer than a state has room for.
func bounded(reasons []string) []string {
	size := 0
	for i, r := range reasons {
		if size += len(r); size > maxErrorText {
			return append(slices.Clone(reasons[:i]), fmt.Sprintf("and %d more", len(reasons)-i))
		}
	}
	return reasons
}

// suspect takes in a run whose snapshot is suspect.
func (j *job) suspect(run *report.Run) {
	s := &report.Suspicion{Since: run.Started, Snapshot: run.Snapshot, Reasons: run.Suspect}
	if before := j.state.Suspect; before != nil {
		s.Since = before.Since
	}
	if good := j.state.LastSuccess; good != nil {
		s.Good = good.Snapshot
	}
	j.state.Suspect = s
}

// done is a measure of what a run has done, which only grows.
func (r *running) done() uint64 {
	n := uint64(r.live.Attempt())
	if p := r.live.Progress(); p != nil {
		n += p.Files.Load() + p.Bytes.Load() + p.FilesRead.Load() + p.BytesRead.Load()
	}
	n += r.pruned.Manifests.Load() + r.pruned.Read.Load() + r.pruned.Deleted.Load()
	n += r.checking.PacksDone.Load() + r.checking.Bytes.Load()
	return n
}

// reschedule sets when a job runs; without a schedule it runs by hand alone.
func (j *job) reschedule(host, expression, zone string, jitter, catchUp time.Duration, now time.Time) error {
	if j.expression != "" && (j.expression != expression || j.zone != zone) {
		j.state.LastScheduled = now // the new one's times before were never missed
	}
	j.expression, j.zone, j.timing = expression, zone, nil
	if expression == "" {
		return nil
	}
	s, err := schedule.Parse(expression, zone)
	if err != nil {
		return err
	}
	j.timing = &timing{schedule: s, offset: schedule.Offset(host, j.name, jitter), catchUp: catchUp}
	return nil
}

// due is what to do now of a job that has a schedule.
func (j *job) due(now time.Time) dueNow { return j.timing.due(j.state.LastScheduled, now) }
