package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
)

// Drill is a job that drills: of an environment of this host, or of those of other
// hosts that an entry of the configuration matches.
type Drill struct {
	Name string `json:"name"` // web, or web-*/web
	Job
	// Overdue means that three drills in a row were not completed.
	Overdue bool `json:"overdue"`
}

// Drilled is what a drill of one environment came to.
type Drilled struct {
	Environment string   `json:"environment"` // web-7/web
	Snapshot    string   `json:"snapshot,omitempty"`
	Passed      bool     `json:"passed"`
	Level       string   `json:"level,omitempty"`
	RTOSeconds  float64  `json:"rto_seconds,omitempty"` // measured; of a sample extrapolated
	RTOPromised float64  `json:"rto_promised_seconds,omitempty"`
	NotTested   []string `json:"not_tested,omitempty"`
	// Error is what failed, or why it could not run, or why its result is not stored.
	Error string `json:"error,omitempty"`
	// ExitCode is that of knowngood drill.
	ExitCode int `json:"exit_code"`
}

// Severity orders the exit codes of drills: 13, damage, is worst, then 14, a drill that
// failed, then that it could not run, and 3, that it lacks something.
func Severity(code int) int {
	if i := slices.Index([]int{0, 3, -1, 14, 13}, code); i >= 0 {
		return i
	}
	return couldNotRun
}

// Severities of what needs a person.
const (
	couldNotRun = 2
	damaged     = 4
)

// Damaged reports whether what is stored is damaged.
func (d *Drilled) Damaged() bool { return Severity(d.ExitCode) == damaged }

// Ran reports whether the drill found something out.
func (d *Drilled) Ran() bool { return Severity(d.ExitCode) != couldNotRun }

// RTOMissed reports whether a restore takes longer than was promised.
func (d *Drilled) RTOMissed() bool { return d.RTOPromised > 0 && d.RTOSeconds > d.RTOPromised }

// Text is the outcome in words that begin with what was drilled.
func (d *Drilled) Text() string {
	name := cmp.Or(d.Snapshot, d.Environment)
	switch {
	case d.Damaged():
		return name + " cannot be restored as it was captured: " + d.Error
	case !d.Ran():
		return name + " could not be drilled: " + d.Error
	case !d.Passed:
		return name + " failed its drill: " + d.Error
	}
	text := fmt.Sprintf("%s passed, level %s, RTO %s", name, d.Level, Took(seconds(d.RTOSeconds)))
	if d.RTOMissed() {
		text += ", which misses the promised " + Took(seconds(d.RTOPromised))
	}
	if len(d.NotTested) > 0 {
		text += "; not tested: " + strings.Join(d.NotTested, ", ")
	}
	if d.Error != "" {
		text += "; " + d.Error
	}
	return text
}

// Bounds of what a run keeps of drills.
const (
	maxDrilled  = 8
	maxUntested = 5
	maxUnproven = 10
	maxReason   = 300 // bytes
)

// SetDrilled records what drills came to, what failed first, and which environments
// have no proof, as much of it as is kept on disk, and the result of the run.
func (r *Run) SetDrilled(drilled []Drilled, unproven []string) {
	slices.SortStableFunc(drilled, func(a, b Drilled) int { return Severity(b.ExitCode) - Severity(a.ExitCode) })
	r.Drilled, r.Unproven, r.NeverProven = drilled[:min(len(drilled), maxDrilled)], len(unproven), unproven[:min(len(unproven), maxUnproven)]
	r.Result = Success
	for i := range r.Drilled {
		d := &r.Drilled[i]
		d.Error, d.NotTested = Shorten(d.Error, maxReason), d.NotTested[:min(len(d.NotTested), maxUntested)]
		switch severity := Severity(d.ExitCode); {
		case severity >= couldNotRun:
			r.Result, r.Error = Failed, Shorten(strings.TrimPrefix(r.Error+"; "+d.Text(), "; "), MaxError)
		case severity > 0 && r.Result == Success:
			r.Result = Partial
		}
	}
}

// Proofs is the newest run of a drill that had a result: it knows which environments
// are never proven. It is nil where there is none.
func (r *Report) Proofs() (newest *Run) {
	for i := range r.Drills {
		if last := r.Drills[i].Last; last != nil && len(last.Drilled) > 0 && (newest == nil || last.Finished.After(newest.Finished)) {
			newest = last
		}
	}
	return newest
}

// WarnOfDrills adds to the warnings what a person should know of the drills.
func (r *Report) WarnOfDrills() {
	warn := func(at time.Time, damage bool, text string) {
		r.Warnings = append(r.Warnings, Warning{Time: at, Text: text, Tampering: damage})
	}
	for i := range r.Drills {
		d, last := &r.Drills[i], cmp.Or(r.Drills[i].Last, &Run{})
		if d.Overdue {
			warn(r.Now, false, "the drill of "+d.Name+" is overdue: three in a row ended without a result")
		}
		if last.Result == Failed && len(last.Drilled) == 0 {
			warn(last.Finished, false, "the drill of "+d.Name+" "+last.Outcome()+": "+last.Error)
		}
		for i := range last.Drilled {
			if x := &last.Drilled[i]; x.ExitCode != 0 {
				warn(last.Finished, x.Damaged(), "drill: "+x.Text())
			}
		}
	}
	if p := r.Proofs(); p != nil && p.Unproven > 0 {
		warn(p.Finished, false, english.Plural(p.Unproven, "environment is", "environments are")+" never proven: "+strings.Join(p.NeverProven, "; ")+" (knowngood drill list --all lists all)")
	}
}
