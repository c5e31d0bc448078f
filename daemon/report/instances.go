package report

import (
	"fmt"
	"time"
)

// Instances are the instances of an environment on this host, as its last scale left them.
type Instances struct {
	Snapshot string `json:"snapshot,omitempty"` // that new ones are made of
	Wanted   int    `json:"wanted"`
	Ready    int    `json:"ready"`
	Failed   int    `json:"failed"`
	// CheckedAt is when the probes of all were asked; zero where there are none.
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Error is why it is not known how many there are.
	Error string `json:"error,omitempty"`
}

// Text is how many there are in one sentence: 2 of 3 instances of web@42 are ready, 1
// failed, checked 20 s ago.
func (i *Instances) Text(now time.Time) string {
	if i.Error != "" {
		return "it is not known which instances there are: " + i.Error
	}
	text := fmt.Sprintf("%d of %d instances of %s are ready, %d failed", i.Ready, i.Wanted, i.Snapshot, i.Failed)
	if i.CheckedAt.IsZero() {
		return text + ", and no probe is asked"
	}
	return text + ", checked " + Span(max(0, now.Sub(i.CheckedAt))) + " ago"
}

// Lacking reports whether fewer are ready than there should be, or nobody knows.
func (i *Instances) Lacking() bool {
	return i != nil && (i.Error != "" || i.Failed > 0 || i.Ready < i.Wanted)
}

// WarnOfInstances adds to the warnings where some are lacking.
func (r *Report) WarnOfInstances() {
	for n := range r.Environments {
		if i := r.Environments[n].Instances; i.Lacking() {
			at := i.CheckedAt
			if at.IsZero() {
				at = r.Now
			}
			r.Warnings = append(r.Warnings, Warning{Time: at, Text: r.Environments[n].Name + ": " + i.Text(r.Now) + " (knowngood generations " + r.Environments[n].Name + ")"})
		}
	}
}
