package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
)

// Check is the verification of what the host stored: on a schedule, and what is
// known of checks by hand.
type Check struct {
	Job
	// Began is when the newest check began that looked at everything, whatever it
	// found; zero when there was none. Command is what made it by hand.
	Began   time.Time `json:"began,omitzero"`
	Command string    `json:"command,omitempty"`
	// Damaged is how many objects it found to be missing or damaged, and how many
	// snapshots whose locks end too early, which Short counts; Damage is some of them,
	// with what they affect. Tampered means that somebody changed one.
	Damaged  int      `json:"damaged"`
	Short    int      `json:"short_locks,omitempty"`
	Damage   []string `json:"damage,omitempty"`
	Tampered bool     `json:"tampered,omitempty"`
	// Notes are what it could not look into, and what affects nothing.
	Notes []string `json:"notes,omitempty"`
	// Overdue means that three checks in a row did not look at everything.
	Overdue bool `json:"overdue"`
	// Data is nil when stored data is not read, and never was.
	Data *CheckedData `json:"data,omitempty"`
}

// CheckedData is how far stored data is read and compared with its names.
type CheckedData struct {
	// Scheduled means that the checks read it, in turn.
	Scheduled bool `json:"scheduled"`
	// Oldest is the time of which all that was stored before has been read since;
	// zero while some was never read.
	Oldest time.Time `json:"oldest,omitzero"`
	// PassBegan and PassPart, from 0 to 1, are of the pass under way.
	PassBegan time.Time `json:"pass_began,omitzero"`
	PassPart  float64   `json:"pass_part"`
	// CycleSeconds is how long a pass shall take, ExpectedSeconds how long it does
	// at DailyBytes a day; 0 when that depends only on the schedule.
	CycleSeconds    float64 `json:"cycle_seconds,omitempty"`
	ExpectedSeconds float64 `json:"expected_seconds,omitempty"`
	DailyBytes      uint64  `json:"daily_bytes,omitempty"`
	// Objects and Bytes are what there was to read at the last check.
	Objects int    `json:"objects,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
}

// Warnings are what a person should know of a check.
func (c *Check) Warnings(now time.Time) []Warning {
	var out []Warning
	if c.Damaged > 0 {
		out = append(out, Warning{Time: c.Began, Text: c.damage() + ". " + c.damageStep(), Tampering: c.Tampered, Degraded: true})
	}
	if c.Overdue {
		out = append(out, Warning{Time: now, Text: c.lateness(now), Degraded: true})
	}
	return out
}

const (
	objectStep = "The next snapshot stores again what they held, as far as it is still on this machine; knowngood check --identity FILE names all that is affected"
	lockStep   = "Locks that end early do not come back by themselves: find out who changes or removes them; knowngood check --locks --identity FILE asks for all of them"
)

// damageStep is what to do about what was found.
func (c *Check) damageStep() string {
	switch c.Short {
	case 0:
		return objectStep
	case c.Damaged:
		return lockStep
	}
	return objectStep + ". " + lockStep
}

// DamageText is what a check found, in words: damaged objects, and snapshots whose
// locks end too early, which are short of them.
func DamageText(damaged, short int) string {
	locks := "the locks of " + english.Plural(short, "snapshot", "") + " end before the host says"
	switch objects := damaged - short; {
	case objects == 0:
		return locks
	case short == 0:
		return english.Plural(objects, "object is", "objects are") + " missing or damaged"
	default:
		return english.Plural(objects, "object is", "objects are") + " missing or damaged, and " + locks
	}
}

func (c *Check) damage() string {
	text := fmt.Sprintf("the check of %s found that %s: %s", c.Began.Format("2006-01-02 15:04 MST"), DamageText(c.Damaged, c.Short), strings.Join(c.Damage, "; "))
	if more := c.Damaged - len(c.Damage); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

func (c *Check) lateness(now time.Time) string {
	text := "what is stored has never been checked"
	if !c.Began.IsZero() {
		text = "what is stored was checked " + Span(now.Sub(c.Began)) + " ago"
	}
	if c.Last != nil && c.Last.Error != "" {
		return text + "; the last check " + c.Last.Outcome() + ": " + c.Last.Error
	}
	return text + ", and no check has run since: see whether the daemon was off"
}

// Verdict on what is stored, in words that continue after "Check".
func (c *Check) Verdict(now time.Time) (Level, string) {
	switch {
	case c.Damaged > 0:
		return Broken, "found that " + DamageText(c.Damaged, c.Short)
	case c.Overdue:
		return Attention, "is overdue: " + c.lateness(now)
	case c.Failures == 1:
		return Attention, "failed in its last run"
	case c.Failures > 1:
		return Attention, fmt.Sprintf("failed in its last %d runs", c.Failures)
	case c.Began.IsZero():
		return Attention, "has not run yet"
	case len(c.Notes) > 0:
		return Well, "found no damage, with " + english.Plural(len(c.Notes), "note", "")
	}
	return Well, "found no damage"
}

// Scope is what is known of the stored data, in words.
func (d *CheckedData) Scope(now time.Time) string {
	if d == nil {
		return "structure and sizes; stored data is not read"
	}
	text := "structure and sizes; not all stored data has been read yet"
	if !d.Oldest.IsZero() {
		text = "structure and sizes; all data stored until " + d.Oldest.In(now.Location()).Format("2006-01-02") + " was read since"
	}
	if !d.Scheduled {
		return text + "; none is read on the schedule"
	}
	text += fmt.Sprintf("; the pass under way has read %.0f %% of the data", 100*d.PassPart)
	if d.CycleSeconds > 0 {
		text += " and takes " + Span(seconds(max(d.ExpectedSeconds, d.CycleSeconds)))
	}
	if d.ExpectedSeconds > d.CycleSeconds {
		text += fmt.Sprintf(" in place of %s, at %s a day (check.max_data)", Span(seconds(d.CycleSeconds)), humanize.IBytes(d.DailyBytes))
	}
	return text
}

// Verification is when what the newest good snapshot of an environment needs was last
// verified, as far as is known, and how: by a listing of the store, the check c or a drill.
func (e *Environment) Verification(c *Check) (at time.Time, how string) {
	l := e.LastSuccess
	if l == nil {
		return time.Time{}, ""
	}
	newer := func(t time.Time, by string) {
		if t.After(at) {
			at, how = t, by
		}
	}
	newer(l.Verified, "by listing")
	if c != nil && c.Damaged == 0 && c.Began.After(l.Finished) {
		newer(c.Began, "by a check of the structure")
	}
	if c != nil && c.Damaged == 0 && c.Data != nil && !c.Data.Oldest.Before(e.Newest) {
		newer(c.Data.Oldest, "by reading its data")
	}
	if p := e.Proof; p != nil && p.Snapshot == l.Snapshot {
		newer(p.Proven, "by a drill")
	}
	return at, how
}
