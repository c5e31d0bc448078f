package daemon

import (
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/internal/schedule"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
)

// jobState is what a job must still know after a crash.
type jobState struct {
	LastScheduled time.Time                `json:"last_scheduled,omitzero"`
	Last          *report.Run              `json:"last,omitempty"`
	LastSuccess   *report.Run              `json:"last_success,omitempty"`
	Failures      int                      `json:"failures"`
	Totals        map[report.Result]uint64 `json:"totals"`
	// Newest is the start of the newest good snapshot, Protected when its first lock
	// ends. Number is that of the newest snapshot, and Repository the ID of its
	// repository.
	Newest     time.Time `json:"newest,omitzero"`
	Protected  time.Time `json:"protected,omitzero"`
	Number     uint64    `json:"number,omitempty"`
	Repository string    `json:"repository,omitempty"`
	// Suspect is set while the newest snapshot is suspect. Accepted is the highest
	// number that was accepted when the repository was last read.
	Suspect  *report.Suspicion `json:"suspect,omitempty"`
	Accepted uint64            `json:"accepted,omitempty"`
	// Since is when the job was first configured.
	Since time.Time `json:"since,omitzero"`
}

// jobSize is the room for the state of a job.
const jobSize = 16 << 10

// Names of the jobs that capture nothing. No environment has a name with a space.
const (
	pruneJob = ""
	checkJob = "the check"
)

// isEnvironment reports whether the job of a name captures an environment.
func isEnvironment(name string) bool {
	return name != pruneJob && name != checkJob && !isDrill(name) && !isDrift(name)
}

// job is something done on a schedule. Its fields belong to jobs.mu.
type job struct {
	name       string // of the environment, or pruneJob or checkJob
	expression string // of its schedule, as configured
	zone       string
	timing     *timing // nil: only by hand
	env        *configs.Environment
	drill      *configs.DrillEntry // of a job that drills
	trial      *report.Trial       // as it was read last; it is never changed
	tried      bool                // trial was read

	// proof is what drills proved, as it was read at a time, with a configuration, in a
	// repository.
	proof      *report.Proof
	proved     time.Time
	provedWith *configs.Environment
	provedIn   seal.RepositoryID

	state   jobState
	slots   *jobfiles.Slots
	history *jobfiles.History

	// lacks are those paths of sources that the newest good snapshot does not have; nil
	// while that is not known.
	lacks func(paths []string) []string

	looked  string   // ID of the repository in which its newest snapshot was last searched
	running *running // nil when it is not
	kept    *runner.Kept
	// problems are those of the last run that made a snapshot since the daemon
	// started, named so.
	problems struct {
		snapshot string
		list     []manifest.Problem
	}
	gone bool // no longer configured; it ends with its run
}

// openJob reads a job from the state directory. The errors are those of its state
// (see jobfiles.OpenSlots) and of its past runs; the job is usable with both.
func openJob(stateDir, name string) (j *job, state, runs error) {
	file := "env-" + name
	switch name {
	case pruneJob:
		file = "prune"
	case checkJob:
		file = "check"
	}
	if isDrill(name) || isDrift(name) {
		file = drillFile(name)
	}
	j = &job{name: name, kept: &runner.Kept{}}
	dir := jobfiles.Jobs(stateDir)
	j.slots, state = jobfiles.OpenSlots(dir, file+".state", jobSize, &j.state)
	j.history, runs = jobfiles.OpenHistory(dir, file+".runs")
	if j.state.Totals == nil {
		j.state.Totals = map[report.Result]uint64{}
	}
	return j, state, runs
}

// ended adds a run that ended. An error means that the past runs lack it; the state
// is not written yet.
func (j *job) ended(run report.Run) error {
	run.Error = report.Shorten(run.Error, report.MaxError)
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
	// A run that died or was stopped is repeated.
	if !run.Died && run.Result != report.Interrupted && run.Scheduled.After(j.state.LastScheduled) {
		j.state.LastScheduled = run.Scheduled
	}
	return j.history.Add(run)
}

// suspect records a run whose snapshot is suspect.
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

// reschedule sets when a job runs; without a schedule it only runs by hand.
func (j *job) reschedule(host, expression, zone string, jitter, catchUp time.Duration, now time.Time) error {
	if j.expression != "" && (j.expression != expression || j.zone != zone) {
		j.state.LastScheduled = now // earlier times of the new one were not missed
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

// committed records the snapshot of a run with a configuration.
func (j *job) committed(repo *repository.Repository, host string, run *report.Run, env *configs.Environment) {
	j.state.Repository = repo.ID().String()
	if run.MadeGood() {
		j.state.Newest, j.state.Protected = run.Started, run.ProtectedUntil
		captured := runner.SourcePaths(env)
		j.lacks = func(paths []string) []string {
			return slices.DeleteFunc(paths, func(p string) bool { return slices.Contains(captured, p) })
		}
	}
	j.state.Accepted = snapshot.Accepted(repo, j.name)
	j.judgeFirst()
	if n, err := repo.Remembered(host, j.name); err == nil {
		if n != j.state.Number+1 {
			j.kept.Invalidate() // somebody captured by hand in between
		}
		j.state.Number = n
	}
}

// judgeFirst has it read what is proven, where there was no snapshot to be judged.
func (j *job) judgeFirst() {
	if p := j.proof; p != nil && p.Newest == "" {
		j.proved = time.Time{}
	}
}

// update records snapshots that were made or accepted elsewhere.
func (j *job) update(f *found) {
	j.judgeFirst()
	j.state.Number, j.state.Accepted = f.head.Number, f.accepted
	j.state.Newest, j.state.Protected, j.state.LastSuccess, j.state.Suspect = time.Time{}, time.Time{}, nil, nil
	if g := f.good; g != nil {
		j.state.Newest, j.state.Protected, j.state.LastSuccess = g.Body.Started, f.protected(g.Body), f.run(g)
	}
	last := j.state.LastSuccess
	if f.good == nil || f.good.Number != f.head.Number {
		run := f.run(f.head)
		paths := append(runner.SourcePaths(j.env), f.paths...)
		run.Result, run.Suspect = report.Suspect, report.BoundReasons(snapshot.Reasons(f.head, paths))
		last = run
		j.suspect(run)
	}
	if died := j.state.Last; died == nil || !died.Died || f.head.Body.Started.After(died.Finished) { // else the run that died made it
		j.state.Last, j.state.Failures = last, 0
	}
	j.kept.Invalidate()
}
