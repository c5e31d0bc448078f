package report

import (
	"fmt"
	"time"
)

// Instances are the instances of an environment on this host, as its last scale left them.
type Instances struct {
	Snapshot string `json:"snapshot,omitempty"` // that new ones are made of; empty where none was made
	Wanted   int    `json:"wanted"`
	// Ready are those whose probes passed; none where that is too long ago.
	Ready int `json:"ready"`
	// NotProbed are those that were started, and of which no probe is asked.
	NotProbed int `json:"not_probed"`
	Failed    int `json:"failed"`
	// CheckedAt is when the probes of all were asked; zero where there are none.
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Stale means that this is so long ago that nobody knows how many are ready.
	Stale bool `json:"stale"`
	// Busy means that a scale, a switch or a rollback is under way.
	Busy bool `json:"busy"`
	// Error is why it is not known how many there are.
	Error string `json:"error,omitempty"`
}

// How long a check counts: scale asks each minute, and not while it, or a switch, is under way.
const (
	checkCounts     = 10 * time.Minute
	checkCountsBusy = time.Hour
)

// Age has none count as ready when it is too long ago that they were asked.
func (i *Instances) Age(now time.Time) {
	limit := checkCounts
	if i.Busy {
		limit = checkCountsBusy
	}
	if i.Stale = i.Ready+i.Failed > 0 && now.Sub(i.CheckedAt).Abs() > limit; i.Stale {
		i.Ready = 0
	}
}

// Text is how many there are in one sentence: 2 of 3 instances of web@42 are ready, 1
// failed, checked 20 s ago.
func (i *Instances) Text(now time.Time) string {
	return i.count() + i.checked(now)
}

func (i *Instances) count() string {
	switch {
	case i.Error != "":
		return "it is not known which instances there are: " + i.Error
	case i.Snapshot == "":
		return fmt.Sprintf("no instance is there, and at least %d should be", i.Wanted)
	case i.Stale:
		return fmt.Sprintf("it is not known how many of %d instances of %s are ready", i.Wanted, i.Snapshot)
	}
	text := fmt.Sprintf("%d of %d instances of %s are ready", i.Ready, i.Wanted, i.Snapshot)
	if i.NotProbed > 0 && i.Ready == 0 {
		text = fmt.Sprintf("%d of %d instances of %s were started, not probed", i.NotProbed, i.Wanted, i.Snapshot)
	} else if i.NotProbed > 0 {
		text += fmt.Sprintf(", %d not probed", i.NotProbed)
	}
	if i.Failed > 0 {
		text += fmt.Sprintf(", %d failed", i.Failed)
	}
	return text
}

func (i *Instances) checked(now time.Time) string {
	if i.CheckedAt.IsZero() {
		return ""
	}
	return ", checked " + Span(max(0, now.Sub(i.CheckedAt))) + " ago"
}

// Lacking reports whether fewer run than there should be, or nobody knows.
func (i *Instances) Lacking() bool {
	return i != nil && (i.Error != "" || i.Failed > 0 || i.Ready+i.NotProbed < i.Wanted)
}

// Lack is what is wrong with the instances of an environment, and what to do.
func (e *Environment) Lack(now time.Time) string {
	if e.Instances.Stale {
		return fmt.Sprintf("%s. Next: knowngood scale %s; systemctl enable --now knowngood-scale@%[2]s.timer does that each minute", e.Instances.Text(now), e.Name)
	}
	if e.Instances.Snapshot == "" && e.Instances.Error == "" {
		return fmt.Sprintf("%s. Next: knowngood scale %s", e.Instances.Text(now), e.Name)
	}
	return fmt.Sprintf("%s. Next: knowngood generations %s", e.Instances.Text(now), e.Name)
}

// WarnOfInstances adds to the warnings where some are lacking.
func (r *Report) WarnOfInstances() {
	for n := range r.Environments {
		if i := r.Environments[n].Instances; i.Lacking() {
			at := i.CheckedAt
			if at.IsZero() {
				at = r.Now
			}
			r.Warnings = append(r.Warnings, Warning{Time: at, Text: r.Environments[n].Name + ": " + r.Environments[n].Lack(r.Now), Degraded: i.Stale})
		}
	}
}
