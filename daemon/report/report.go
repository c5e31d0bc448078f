// Package report is what the daemon reports of itself: the JSON of its API, what
// the status command and the page show, and where metrics are taken from. It
// holds data, of which nothing is secret, and what that comes to in words.
package report

import (
	"fmt"
	"time"
)

// Report is the state of a daemon at one moment.
type Report struct {
	Version    string    `json:"version"`
	Host       string    `json:"host"`
	Repository string    `json:"repository"` // URL, credentials left out
	Now        time.Time `json:"now"`
	Started    time.Time `json:"started,omitzero"` // the daemon
	// Degraded is why the daemon cannot do its work; empty when it can. What it
	// works with all the same, and should not, is in Warnings: Warning.Degraded.
	Degraded     string        `json:"degraded,omitempty"`
	Environments []Environment `json:"environments"`
	Prune        *Job          `json:"prune,omitempty"`
	Drills       []Drill       `json:"drills,omitempty"`
	Drifts       []Drift       `json:"drifts,omitempty"`
	Check        *Check        `json:"check,omitempty"`
	Storage      Storage       `json:"storage"`
	// Lock is what the repository asks of the store for each object; nil while
	// that is not known.
	Lock *Lock `json:"lock,omitempty"`
	// Warnings are what needs a person: damage, tampering, a configuration
	// that was not taken, state that cannot be written. Newest last.
	Warnings []Warning `json:"warnings"`
}

// Lock is the object lock of a repository.
type Lock struct {
	// Mode is none, governance (who has a special right can delete sooner) or
	// compliance (nobody can).
	Mode string `json:"mode"`
	// KeepSeconds is how long an object is locked at least, from the snapshot that
	// needs it on.
	KeepSeconds float64 `json:"keep_seconds,omitempty"`
}

// Keep is KeepSeconds as a duration.
func (l *Lock) Keep() time.Duration { return seconds(l.KeepSeconds) }

// Warning is something wrong that no run failed of.
type Warning struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
	// Tampering means that it is about the content of the repository.
	Tampering bool `json:"tampering,omitempty"`
	// Degraded means that the daemon continues with what it should not use, such as
	// a configuration that others can change.
	Degraded bool `json:"degraded,omitempty"`
}

// Job is something done on a schedule.
type Job struct {
	Schedule string `json:"schedule,omitempty"` // empty: only by hand
	TimeZone string `json:"time_zone,omitempty"`
	// Next is when it runs next; zero when it has no schedule.
	Next          time.Time `json:"next,omitzero"`
	LastScheduled time.Time `json:"last_scheduled,omitzero"`
	// Running is set while it runs.
	Running *Progress `json:"running,omitempty"`
	// Last is the run that ended last, LastSuccess the last one that succeeded, or
	// committed a good snapshot and failed after that: it made Environment.Newest.
	Last        *Run `json:"last,omitempty"`
	LastSuccess *Run `json:"last_success,omitempty"`
	// Failures in a row since the last success.
	Failures int `json:"failures"`
	// Totals are the runs that ended, by result; they only grow while the
	// daemon's state lives.
	Totals map[Result]uint64 `json:"totals,omitempty"`
}

// Environment is one environment of the host.
type Environment struct {
	Name string `json:"name"`
	Job
	Sources []Source `json:"sources,omitempty"`
	// Uncaptured are those that the newest good snapshot does not have: they are newer than
	// it, or whoever took it by hand named others.
	Uncaptured []string `json:"uncaptured,omitempty"`
	// Retention is which snapshots are kept, in words; empty when nothing is ever
	// forgotten.
	Retention string `json:"retention,omitempty"`
	// Newest is the start of the newest good snapshot; zero when there is none.
	Newest time.Time `json:"newest,omitzero"`
	// AgeSeconds is how old that is; -1 when there is none.
	AgeSeconds float64 `json:"age_seconds"`
	// RPOSeconds is how old it may be; 0 when nothing was promised.
	RPOSeconds float64 `json:"rpo_seconds,omitempty"`
	RPOBroken  bool    `json:"rpo_broken"`
	// Kept is how many snapshots are not forgotten; 0 when that is not known, as
	// before the first run, and without a retention policy.
	Kept int `json:"kept,omitempty"`
	// ProtectedUntil is when the first lock of what the newest snapshot needs
	// ends, as the host claimed at its commit; zero when something is not locked, and
	// where the repository has no lock mode.
	ProtectedUntil time.Time `json:"protected_until,omitzero"`
	// Suspect is set while the newest snapshot is suspect, and nobody accepted it.
	Suspect *Suspicion `json:"suspect,omitempty"`
	// Trial is set while a switch or a patch of it is not committed yet.
	Trial *Trial `json:"trial,omitempty"`
	// Proof is what drills proved; nil while nothing is, and nothing is wanted.
	Proof *Proof `json:"proof,omitempty"`
	// Instances are set where there are some.
	Instances *Instances `json:"instances,omitempty"`
	// Runs are past runs, oldest first.
	Runs []Run `json:"runs"`
}

// Trial is a generation that is not committed yet.
type Trial struct {
	Generation string    `json:"generation"`
	Deadline   time.Time `json:"deadline"` // after which it goes back
	// Back means that it goes back since then, and cannot be committed any more.
	Back bool `json:"back"`
}

// TrialText is what happens to a generation that is on trial, in words that continue after the
// environment's name; empty where there is none.
func (e *Environment) TrialText() string {
	if e.Trial == nil {
		return ""
	}
	if e.Trial.Back {
		return fmt.Sprintf("goes back from generation %s since %s", e.Trial.Generation, e.Trial.Deadline.Local().Format(time.DateTime))
	}
	return fmt.Sprintf("has generation %s on trial until %s: it goes back then, unless it is committed (knowngood commit %s)", e.Trial.Generation, e.Trial.Deadline.Local().Format(time.DateTime), e.Name)
}

// overdueAfter is how long after its deadline a trial is overdue: until then the timer of the
// package, or the daemon, takes it back.
const overdueAfter = 2 * time.Minute

// TrialOverdue is what to do about a trial that should have gone back, in words that continue
// after the environment's name; empty while there is none.
func (e *Environment) TrialOverdue(now time.Time) string {
	if e.Trial == nil || now.Sub(e.Trial.Deadline) < overdueAfter {
		return ""
	}
	what := "has generation %s on trial, which was not committed by %s and has not gone back"
	if e.Trial.Back {
		what = "goes back from generation %s since %s, and has not yet"
	}
	return fmt.Sprintf(what+". Next: knowngood generations %s --recover, as the user who owns its files; "+
		"systemctl enable --now knowngood-generations-check.timer does that each minute", e.Trial.Generation, e.Trial.Deadline.Local().Format(time.DateTime), e.Name)
}

// WarnOfTrials adds to the warnings where one is overdue.
func (r *Report) WarnOfTrials() {
	for i := range r.Environments {
		if e := &r.Environments[i]; e.TrialOverdue(r.Now) != "" {
			r.Warnings = append(r.Warnings, Warning{Time: e.Trial.Deadline, Text: e.Name + " " + e.TrialOverdue(r.Now), Degraded: true})
		}
	}
}

// Source is what an environment captures.
type Source struct {
	// Path is that of the tree, or of a command's output in the snapshot.
	Path    string `json:"path"`
	Command bool   `json:"command,omitempty"`
}

// Suspicion is that a source collapsed, or looks encrypted. While it lasts nothing of the environment
// is forgotten.
type Suspicion struct {
	Since    time.Time `json:"since"`    // start of the first snapshot that is suspect
	Snapshot string    `json:"snapshot"` // web@43, the newest
	Reasons  []string  `json:"reasons"`
	// Good is the newest snapshot that is not suspect; empty when none is known.
	Good string `json:"good,omitempty"`
}

// Result of a run.
type Result string

// Results. A partial run made a snapshot that lacks what could not be read, a
// suspect one a snapshot of which a source collapsed, and which counts for
// nothing until it is accepted; an interrupted one was stopped, by hand or with
// the daemon, which is no failure and no success; a skipped one was never started.
const (
	Success     Result = "success"
	Partial     Result = "partial"
	Suspect     Result = "suspect"
	Failed      Result = "failed"
	Interrupted Result = "interrupted"
	Skipped     Result = "skipped"
)

// Good reports whether a run made a snapshot that counts.
func (r Result) Good() bool { return r == Success || r == Partial }

// MadeGood reports whether a run succeeded, or committed a good snapshot and failed
// after that.
func (r *Run) MadeGood() bool { return r.Result.Good() || r.Snapshot != "" && len(r.Suspect) == 0 }

// Run is one run of a job, retries included.
type Run struct {
	Trigger   string    `json:"trigger"` // schedule, catch-up, hand
	Scheduled time.Time `json:"scheduled,omitzero"`
	Started   time.Time `json:"started,omitzero"`
	Finished  time.Time `json:"finished,omitzero"`
	Result    Result    `json:"result"`
	Error     string    `json:"error,omitempty"`
	// Died means that the program or the machine ended in the middle of the run,
	// which has failed so. Finished is then when that was found.
	Died     bool `json:"died,omitempty"`
	Attempts int  `json:"attempts"`
	Missed   int  `json:"missed,omitempty"` // scheduled times that this run makes up for

	Snapshot     string    `json:"snapshot,omitempty"`     // web@42
	SnapshotID   string    `json:"snapshot_id,omitempty"`  // in hexadecimal
	SnapshotTime time.Time `json:"snapshot_time,omitzero"` // when it began, in its last attempt
	Files        uint64    `json:"files,omitempty"`
	Directories  uint64    `json:"directories,omitempty"`
	ReadFiles    uint64    `json:"read_files,omitempty"` // of Files, those that were read
	Bytes        uint64    `json:"bytes,omitempty"`
	NewBytes     uint64    `json:"new_bytes,omitempty"`
	StoredBytes  uint64    `json:"stored_bytes,omitempty"` // written to the store before the root, as in the root
	FreedBytes   uint64    `json:"freed_bytes,omitempty"`  // of a prune
	// HealedPacks are the packs and manifest containers that the store had lost
	// and of which content was stored again, HealedBytes that content.
	HealedPacks uint64 `json:"healed_packs,omitempty"`
	HealedBytes uint64 `json:"healed_bytes,omitempty"`
	Problems    uint64 `json:"problems,omitempty"`
	Forgotten   int    `json:"forgotten,omitempty"`
	// ReadBytes is the stored data that a check read, Damaged how many objects it
	// found to be missing or damaged; it has failed then.
	ReadBytes uint64 `json:"read_bytes,omitempty"`
	Damaged   int    `json:"damaged,omitempty"`
	// Drilled is what a drill came to, by environment, what failed first; some of many.
	// NeverProven are, on a drill host, enrolled environments without a proof, and
	// Unproven is how many there are.
	Drilled     []Drilled `json:"drilled,omitempty"`
	NeverProven []string  `json:"never_proven,omitempty"` // and why
	Unproven    int       `json:"unproven,omitempty"`
	// Drifted is what a comparison with the known-good state came to, by environment,
	// what is worst first; some of many.
	Drifted []Drifted `json:"drifted,omitempty"`
	// Suspect are the reasons why the snapshot is suspect.
	Suspect []string `json:"suspect,omitempty"`
	// ProtectedUntil is when the first lock of what the snapshot needs ended, as
	// the host claimed at its commit; zero when something was not locked, and where the
	// repository has no lock mode.
	ProtectedUntil time.Time `json:"protected_until,omitzero"`
	// Verified is when the store began the listing that has each object that the
	// snapshot needs, with its size, except those stored since then; zero when
	// that is not known.
	Verified time.Time `json:"verified,omitzero"`
}

// Outcome is the result in a word: of a run that died, that.
func (r *Run) Outcome() string {
	if r.Died {
		return "died"
	}
	return string(r.Result)
}

// Duration of the run, retries and their waits included.
func (r *Run) Duration() time.Duration { return r.Finished.Sub(r.Started) }

// Progress of a run under way.
type Progress struct {
	Started time.Time `json:"started"`
	Phase   string    `json:"phase"` // waiting, before, capture, retry, after, prune, check
	Attempt int       `json:"attempt"`
	Files   uint64    `json:"files"`
	Bytes   uint64    `json:"bytes"`
	Total   uint64    `json:"total,omitempty"` // expected bytes; 0 when not known
	// Error is why the last attempt that failed did, Retry when the one after it
	// begins; absent while none has.
	Error string    `json:"error,omitempty"`
	Retry time.Time `json:"retry,omitzero"`
}

// FailedAttempt is why an attempt failed, and when the next one begins, in words;
// empty while no attempt is a repeated one.
func (p *Progress) FailedAttempt(zone *time.Location) string {
	switch {
	case p.Error == "":
	case p.Phase == "retry":
		return fmt.Sprintf("attempt %d failed, and the next begins at %s: %s", p.Attempt, p.Retry.In(zone).Format("15:04:05 MST"), p.Error)
	case p.Phase == "capture" && p.Attempt > 1:
		return fmt.Sprintf("attempt %d failed, and the next is under way: %s", p.Attempt-1, p.Error)
	}
	return ""
}

// Storage is how full the store is.
type Storage struct {
	// UsedBytes are those of this host's packs; 0 when not yet known.
	UsedBytes uint64 `json:"used_bytes"`
	// LimitBytes is the quota, or the size of the directory's disk; 0 when none is known.
	LimitBytes uint64 `json:"limit_bytes,omitempty"`
	// FreeBytes is what is left of it.
	FreeBytes uint64 `json:"free_bytes,omitempty"`
	// BytesPerDay is the recent growth.
	BytesPerDay float64 `json:"bytes_per_day"`
	// FullAt is when it will be full at this growth; zero when never, or unknown.
	FullAt time.Time `json:"full_at,omitzero"`
	// UnprovenPuts means that the store's replies to puts prove nothing: the end
	// of each object is read back.
	UnprovenPuts bool `json:"unproven_puts,omitempty"`
	// UnprotectedAt is when the store was seen last to keep no versions and to
	// enforce no create, so that a taken host can destroy its history; zero when
	// it was seen to have one of them, or nothing is known.
	UnprotectedAt time.Time `json:"unprotected_at,omitzero"`
}

// Unprotected reports whether a taken host can destroy its history in the store.
func (s *Storage) Unprotected() bool { return !s.UnprotectedAt.IsZero() }
