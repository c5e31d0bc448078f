package web

import (
	"strings"
	"time"

	"knowngood/daemon/report"
)

// notice is what is wrong with an environment, and what to do about it.
type notice struct {
	Level string      // attention, broken, or interrupted, which is not bad
	Text  string      // in full
	Next  report.Step // may be none
}

// notices are those of an environment, the worst first.
func notices(e report.Environment, now time.Time) []notice {
	var out []notice
	e.Next = e.Next.In(now.Location())
	last := e.Last
	failed := last != nil && last.Result == report.Failed && last.Error != ""
	stopped := last != nil && last.Result == report.Interrupted

	switch {
	case failed:
		out = append(out, notice{report.Broken.String(), last.Error, e.NextStep()})
	case e.Running != nil: // which may be the end of it
	case stopped:
		out = append(out, notice{string(report.Interrupted), "The last run was stopped: " + last.Error, e.NextStep()})
	case e.Broken():
		text := "No snapshot was taken yet."
		if last != nil {
			text = "No run failed: it did not run in time. See whether the daemon was off, or the schedule is rarer than the RPO."
		}
		out = append(out, notice{report.Broken.String(), text, e.NextStep()})
	}
	if e.Running != nil {
		if failed := e.Running.FailedAttempt(now.Location()); failed != "" {
			out = append(out, notice{Level: report.Attention.String(), Text: "Of the run under way, " + failed})
		}
	}
	if e.Suspect != nil {
		text := e.Suspect.Snapshot + " is suspect:\n" + strings.Join(e.Suspect.Reasons, "\n")
		out = append(out, notice{report.Attention.String(), text, e.AcceptStep()})
	}
	if last != nil && last.Result == report.Partial {
		out = append(out, notice{report.Attention.String(), last.Snapshot + " lacks what could not be read: " + count(last.Problems, "path", "paths") + ".", e.LackStep()})
	}
	if p := e.Proof; p != nil && p.Lacks() != "" {
		out = append(out, notice{report.Attention.String(), e.Name + " " + p.Lacks(), e.ProveStep()})
	}
	if p := e.Proof; p != nil && p.BadCount > 0 {
		out = append(out, notice{Level: report.Attention.String(), Text: p.BadText()})
	}
	return out
}

// shownError bounds what the history has of an error, which the page has in full
// elsewhere.
const shownError = 240

// failure is one run in the history of an environment that fails.
type failure struct {
	runView
	Text string
	Same bool // as of the run that came after it
}

// errorHistory is the last runs of an environment, the newest first. What one reports
// like the one after it is not repeated.
func errorHistory(runs []runView) []failure {
	var out []failure
	for i, r := range runs {
		f := failure{runView: r, Text: summary(&r.Run)}
		f.Same = f.Text != "" && i > 0 && f.Text == summary(&runs[i-1].Run)
		f.Text = cut(f.Text, shownError)
		out = append(out, f)
	}
	return out
}

// summary is what is known of a run, in words.
func summary(r *report.Run) string {
	switch {
	case r.Error != "":
		return r.Error
	case len(r.Suspect) > 0:
		return r.Snapshot + ": " + strings.Join(r.Suspect, "; ")
	case r.Problems > 0:
		return r.Snapshot + ": " + count(r.Problems, "path", "paths") + " not read"
	}
	return r.Snapshot
}

// cut bounds text to n characters.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n]) + "…"
	}
	return text
}
