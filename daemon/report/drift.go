package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
)

// Drift is a job that compares with the known-good state: the live tree of an environment
// of this host, or snapshots of those of other hosts that an entry of the configuration
// matches.
type Drift struct {
	Name string `json:"name"` // web, or web-*/web
	Job
}

// Drifted is what a comparison of one environment came to.
type Drifted struct {
	Environment string `json:"environment"` // web, or web-7/web
	From        string `json:"from,omitempty"`
	To          string `json:"to,omitempty"`
	// Paths is how many differ that nothing explains, First some of them with how they
	// do.
	Paths    int      `json:"paths"`
	First    []string `json:"first,omitempty"`
	Problems int      `json:"problems,omitempty"` // paths that could not be compared
	// Error is why nothing could be compared.
	Error string `json:"error,omitempty"`
	// ExitCode is that of knowngood drift.
	ExitCode int `json:"exit_code"`
}

// Bounds of what a run keeps: paths that are named of an environment, bytes of each, and
// environments.
const (
	MaxDrifted  = 3
	maxPath     = 120
	maxCompared = 5
)

// Text is the outcome in words that begin with what was compared.
func (d *Drifted) Text() string {
	switch {
	case d.Error != "":
		return d.Environment + " could not be compared: " + d.Error
	case d.Paths > 0:
		text := fmt.Sprintf("%s: %s from %s to %s: %s", d.Environment, english.Plural(d.Paths, "path differs", "paths differ"), d.From, d.To, strings.Join(d.First, ", "))
		if more := d.Paths - len(d.First); more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		return text + "; next: " + d.command()
	case d.Problems > 0:
		return fmt.Sprintf("%s: %s could not be compared", d.Environment, english.Plural(d.Problems, "path", ""))
	}
	return d.Environment + ": nothing differs from " + d.From
}

// command lists what differs, and how it is put back.
func (d *Drifted) command() string {
	if strings.Contains(d.From, "/") { // two snapshots
		return "knowngood drift " + d.From + " " + d.To
	}
	return "knowngood drift " + d.Environment + " (--fix puts it back)"
}

// SetDrifted records what comparisons came to, what is worst first, as much of it as is
// kept on disk, and the result of the run.
func (r *Run) SetDrifted(all []Drifted) {
	slices.SortStableFunc(all, func(a, b Drifted) int {
		return cmp.Or(Severity(b.ExitCode)-Severity(a.ExitCode), b.Paths-a.Paths)
	})
	r.Drifted, r.Result = all[:min(len(all), maxCompared)], Success
	for i := range r.Drifted {
		d := &r.Drifted[i]
		d.Error = Shorten(d.Error, maxReason)
		for k := range d.First {
			d.First[k] = Shorten(d.First[k], maxPath)
		}
		switch {
		case d.Error != "":
			r.Result, r.Error = Failed, Shorten(strings.TrimPrefix(r.Error+"; "+d.Text(), "; "), MaxError)
		case d.ExitCode != 0 && r.Result == Success:
			r.Result = Partial
		}
	}
}

// WarnOfDrifts adds to the warnings what the newest comparisons found.
func (r *Report) WarnOfDrifts() {
	for i := range r.Drifts {
		last := cmp.Or(r.Drifts[i].Last, &Run{})
		warn := func(text string) {
			r.Warnings = append(r.Warnings, Warning{Time: last.Finished, Text: "drift: " + text})
		}
		if last.Result == Failed && len(last.Drifted) == 0 {
			warn(r.Drifts[i].Name + " " + last.Outcome() + ": " + last.Error)
		}
		for k := range last.Drifted {
			if d := &last.Drifted[k]; d.ExitCode != 0 {
				warn(d.Text())
			}
		}
	}
}
