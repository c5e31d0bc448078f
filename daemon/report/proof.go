package report

import (
	"fmt"
	"strings"
	"time"
)

// Proof is what drills proved of an environment.
type Proof struct {
	// Snapshot is the newest that is known-good, such as web@42, and Started when that
	// began; empty for none. The fields after it are of its proof.
	Snapshot   string    `json:"snapshot,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	Level      string    `json:"level,omitempty"`
	Base       string    `json:"base,omitempty"`
	Isolation  string    `json:"isolation,omitempty"`
	Machine    string    `json:"machine,omitempty"` // that drilled
	RTOSeconds float64   `json:"rto_seconds,omitempty"`
	Proven     time.Time `json:"proven,omitzero"` // when the store took it
	AgeSeconds float64   `json:"age_seconds,omitempty"`
	// SelfAttested means that the machine that captured the snapshot drilled it.
	SelfAttested bool `json:"self_attested,omitempty"`

	// Newest is the newest snapshot, and Reason why it is not known-good; empty where it
	// is, and where an older one is and nobody drilled this one yet.
	Newest string `json:"newest,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Bad are snapshots that are marked bad, the newest first, BadCount how many.
	Bad      []Bad `json:"bad,omitempty"`
	BadCount int   `json:"bad_count,omitempty"`

	// Wanted means that the configuration has known_good or drill for the environment,
	// so that a proof should be there, LimitSeconds how old it may be; 0 for any age.
	Wanted       bool    `json:"wanted"`
	LimitSeconds float64 `json:"not_older_than_seconds,omitempty"`
	// Error is why it is not known what is proven.
	Error string `json:"error,omitempty"`
}

// Bad is a snapshot that is marked bad.
type Bad struct {
	Snapshot string `json:"snapshot"`
	Reason   string `json:"reason"` // with who marked it
}

// MaxBad is how many snapshots are named that are marked bad.
const MaxBad = 5

// Proven is how far something is proven: probed 6 h ago on drill-1, RTO 41 s.
func Proven(level string, age time.Duration, machine string, rto time.Duration) string {
	return fmt.Sprintf("%s %s ago on %s, RTO %s", level, Span(max(0, age)), machine, Took(rto))
}

// String is the proof in one sentence: known-good: web@42, probed 6 h ago on drill-1,
// RTO 41 s.
func (p *Proof) String() string {
	switch {
	case p.Error != "":
		return "known-good: not known: " + p.Error
	case p.Snapshot == "" && p.Newest == "":
		return "known-good: none, there is no snapshot"
	case p.Snapshot == "":
		return fmt.Sprintf("known-good: none; %s: %s", p.Newest, p.Reason)
	}
	text := fmt.Sprintf("known-good: %s, %s", p.Snapshot, Proven(p.Level, seconds(p.AgeSeconds), p.Machine, seconds(p.RTOSeconds)))
	if p.SelfAttested {
		text += ", self-attested"
	}
	if p.Reason != "" {
		text += fmt.Sprintf("; %s is not: %s", p.Newest, p.Reason)
	}
	return text
}

// Lacks is what a proof that is wanted lacks, in words that continue after the name of
// the environment; empty for nothing.
func (p *Proof) Lacks() string {
	switch {
	case p == nil || !p.Wanted:
		return ""
	case p.Snapshot == "" && p.Newest == "" && p.Error == "": // there is no snapshot
		return ""
	case p.Error != "":
		return "may be proven or not: " + p.Error
	case p.Snapshot == "":
		return fmt.Sprintf("is not proven: %s: %s", p.Newest, p.Reason)
	case p.LimitSeconds > 0 && p.AgeSeconds > p.LimitSeconds:
		return fmt.Sprintf("is not proven for %s: %s was the last, and known_good allows %s", Span(seconds(p.AgeSeconds)), p.Snapshot, Span(seconds(p.LimitSeconds)))
	}
	return ""
}

// BadText names the snapshots that are marked bad, a line each; empty for none.
func (p *Proof) BadText() string {
	var lines []string
	for _, b := range p.Bad {
		lines = append(lines, b.Snapshot+": "+b.Reason)
	}
	if more := p.BadCount - len(p.Bad); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// ProveStep is what a person can do about an environment that is not proven.
func (e *Environment) ProveStep() Step {
	return Step{Do: "where the identity is, run", Command: "knowngood drill " + e.Name}
}
