package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/storage/statement"
)

// showStatus prints the status for people: one sentence, a table, and in full
// what is amiss.
func (a *app) showStatus(s *statusReport) error {
	if len(s.Environments) == 0 && s.Source == "repository" {
		a.printf("No snapshots yet. Take one: %s snapshot --repo %s --env NAME PATH...\n", self(), quoted(s.Repository))
		a.showTroubles(s)
		return nil
	}
	if s.Unusable != "" {
		a.printf("THE CONFIGURATION CANNOT BE USED. A daemon that reads it as it is does not start again:\n%s  Next: fix it, knowngood config check, systemctl reload knowngood\n\nWith the configuration that the daemon took before: ", indented(s.Unusable))
	}
	a.printf("%s.\n\n", printable.Line(s.Summary))
	w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
	daemon := s.Source == "daemon"
	if daemon {
		fmt.Fprintln(w, "ENVIRONMENT\tNEWEST\tAGE\tRPO\tNEXT RUN\tLAST RUN\tSIZE\tPROTECTED, THE HOST SAYS\tKEPT")
	} else {
		fmt.Fprintln(w, "ENVIRONMENT\tHOST\tNEWEST\tAGE\tRPO\tSTATUS\tFILES\tSIZE\tPROTECTED, THE HOST SAYS")
	}
	for i := range s.Environments {
		l := &s.Environments[i]
		ref, status, files, size, age := "none", "-", "-", "-", "-"
		if n := l.Newest; n != nil {
			ref, status = printable.Line(n.Ref), n.Status
			files, size, _ = n.columns()
		}
		if l.AgeSeconds >= 0 {
			if l.Newest == nil { // not one of the daemon's runs
				ref = "-"
			}
			age = report.Span(time.Duration(l.AgeSeconds * float64(time.Second)))
		}
		if daemon {
			kept := "-"
			if l.Kept > 0 {
				kept = strconv.Itoa(l.Kept)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable.Line(l.Name), ref, age, rpoText(l), nextText(l, s.Now), printable.Line(lastText(l, s.Now)), size, protectedText(l, s.Now), kept)
		} else {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Host, ref, age, rpoText(l), status, files, size, protectedText(l, s.Now))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	a.showTroubles(s)
	return nil
}

// showTroubles prints what is amiss, in full, and how full the store is.
func (a *app) showTroubles(s *statusReport) {
	if s.Degraded != "" {
		a.printf("\nThe daemon cannot do its work:\n%s", indented(s.Degraded))
	}
	for i := range s.Environments {
		l := &s.Environments[i]
		if l.Suspect != nil {
			a.printf("\n%s is SUSPECT since %s, %s:\n%s", printable.Line(l.Name), localTime(l.Suspect.Since), printable.Line(l.Suspect.Snapshot), indented(strings.Join(l.Suspect.Reasons, "\n")))
			a.printf("  Next: %s\n", printable.Line(l.AcceptStep().String()))
		}
		if l.Last == nil || l.Last.Error == "" {
			continue
		}
		a.printf("\n%s %s at %s:\n%s", printable.Line(l.Name), printable.Line(string(l.Last.Result)), localTime(l.Last.Finished), indented(l.Last.Error))
		l.Next = l.Next.Local()
		a.printf("  Next: %s\n", l.NextStep())
	}
	if p := s.Prune; p != nil && p.Last != nil && p.Last.Error != "" {
		a.printf("\npruning %s at %s:\n%s", printable.Line(string(p.Last.Result)), localTime(p.Last.Finished), indented(p.Last.Error))
	}
	if c := s.Check; c != nil && c.Last != nil && c.Last.Error != "" && c.Damaged == 0 {
		a.printf("\nthe check %s at %s:\n%s", printable.Line(string(c.Last.Result)), localTime(c.Last.Finished), indented(c.Last.Error))
	}
	for _, w := range s.Warnings {
		kind := "Warning"
		switch {
		case w.Tampering:
			kind = "TAMPERING"
		case w.Degraded:
			kind = "DEGRADED"
		}
		a.printf("\n%s, %s:\n%s", kind, localTime(w.Time), indented(w.Text))
	}
	a.showCheck(s)
	if st := s.Storage; st.UsedBytes > 0 {
		text := bytesText(st.UsedBytes) + " used by this host"
		if st.LimitBytes > 0 {
			text += fmt.Sprintf(", %s of %s left", bytesText(st.FreeBytes), bytesText(st.LimitBytes))
		}
		if st.BytesPerDay >= 1 {
			text += fmt.Sprintf("; grows by %s a day", bytesText(uint64(st.BytesPerDay)))
		}
		if !st.FullAt.IsZero() {
			text += fmt.Sprintf(", full in %s", report.Span(st.FullAt.Sub(s.Now)))
		}
		a.printf("\nStore: %s.\n", text)
	}
	if at := s.Storage.UnprotectedAt; !at.IsZero() {
		a.printf("\n")
		a.printUnprotected(&statement.Probe{At: at})
	}
	if s.Storage.UnprovenPuts {
		a.printf("\nThis store does not prove puts: its replies name no hash of what was put, so the end of each object is read back.\n")
	}
}

// showCheck prints how the check of what is stored stands.
func (a *app) showCheck(s *statusReport) {
	c := s.Check
	if c == nil {
		return
	}
	_, text := c.Verdict(s.Now)
	text = "Check: " + text
	if !c.Began.IsZero() {
		text += fmt.Sprintf(", %s ago", report.Span(s.Now.Sub(c.Began)))
		if c.Command != "" {
			text += " by knowngood " + c.Command
		}
		text += " (" + c.Data.Scope(s.Now.Local()) + ")"
	}
	switch {
	case c.Running != nil:
		text += "; one is under way"
	case c.Schedule == "":
		text += "; none is scheduled"
	case c.Next.After(s.Now):
		text += "; next in " + report.Span(c.Next.Sub(s.Now))
	}
	a.printf("\n%s.\n", printable.Line(text))
	for _, n := range c.Notes {
		a.printf("  note: %s\n", printable.Line(n))
	}
}

func rpoText(l *statusLine) string {
	switch {
	case l.RPOSeconds == 0:
		return "-"
	case l.Broken():
		return "BROKEN, " + report.Span(l.RPO())
	}
	return "ok, " + report.Span(l.RPO())
}

func nextText(l *statusLine, now time.Time) string {
	switch {
	case l.Next.IsZero():
		return "by hand"
	case l.Next.Before(now):
		return "due"
	}
	return "in " + report.Span(l.Next.Sub(now))
}

func lastText(l *statusLine, now time.Time) string {
	switch {
	case l.Running != nil:
		return fmt.Sprintf("running for %s: %s", report.Span(now.Sub(l.Running.Started)), cmp.Or(l.Running.Phase, "waiting"))
	case l.Last == nil:
		return "never"
	}
	ago := report.Span(now.Sub(l.Last.Finished)) + " ago"
	switch {
	case l.Last.Died:
		return "DIED, found " + ago
	case l.Failures > 1 && l.Last.Result == report.Failed:
		return fmt.Sprintf("FAILED %d times, %s", l.Failures, ago)
	case l.Last.Result == report.Failed:
		return "FAILED " + ago
	}
	return fmt.Sprintf("%s %s", l.Last.Result, ago)
}

func protectedText(l *statusLine, now time.Time) string {
	if l.ProtectedUntil.After(now) {
		return report.Span(l.ProtectedUntil.Sub(now))
	}
	return "no lock"
}

func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

// indented is text of several lines below a heading.
func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(printable.Text(text)), "\n", "\n  ") + "\n"
}
