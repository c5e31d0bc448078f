package status

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/storage/statement"
)

// Print prints a status for people: one sentence, a table, and in full
// what is wrong.
func Print(out *console.Console, s *Report) error {
	if len(s.Environments) == 0 && s.Source == "repository" {
		out.Printf("No snapshots yet. Take one: %s snapshot --repo %s --env NAME PATH...\n", console.Self(), printable.Word(s.Repository))
		showTroubles(out, s)
		return nil
	}
	if s.Unusable != "" {
		out.Printf("THE CONFIGURATION CANNOT BE USED. A daemon that reads it as it is does not start again:\n%s  Next: fix it, knowngood config check, systemctl reload knowngood\n\nWith the configuration that the daemon took before: ", indented(s.Unusable))
	}
	out.Printf("%s.\n\n", printable.Line(s.Summary))
	w := tabwriter.NewWriter(out.Stdout, 0, 4, 2, ' ', 0)
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
			files, size, _ = n.Columns()
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
	for i := range s.Environments {
		e := &s.Environments[i]
		if e.Proof != nil {
			out.Printf("\n%s %s.\n", printable.Line(e.Name), printable.Line(e.Proof.String()))
		}
		if e.Trial != nil && e.TrialOverdue(s.Now) == "" {
			out.Printf("\n%s %s.\n", printable.Line(e.Name), printable.Line(e.TrialText()))
		}
		if e.Instances != nil {
			out.Printf("\n%s: %s.\n", printable.Line(e.Name), printable.Line(e.Instances.Text(s.Now)))
		}
	}
	for i := range s.Environments {
		if e := &s.Environments[i]; len(e.Uncaptured) > 0 {
			next := "knowngood snapshot " + e.Name
			if missing := slices.DeleteFunc(slices.Clone(e.Uncaptured), isThere); len(missing) > 0 {
				next = fmt.Sprintf("%s cannot be captured, for it is not there: bring it back, or take it out of the configuration; then %s", strings.Join(missing, ", "), next)
			}
			out.Printf("\nNot in the newest good snapshot of %s: %s. Next: %s\n", printable.Line(e.Name), printable.Line(strings.Join(e.Uncaptured, ", ")), printable.Line(next))
		}
	}
	showTroubles(out, s)
	return nil
}

// isThere reports whether a source of this host can be captured, as far as this user sees. The
// output of a command is no path, and is always there.
func isThere(source string) bool {
	if !filepath.IsAbs(source) {
		return true
	}
	_, err := os.Lstat(source)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR)
}

// showTroubles prints what is wrong, in full, and how full the store is.
func showTroubles(out *console.Console, s *Report) {
	if s.Degraded != "" {
		out.Printf("\nThe daemon cannot do its work:\n%s", indented(s.Degraded))
	}
	for i := range s.Environments {
		l := &s.Environments[i]
		if l.Suspect != nil {
			out.Printf("\n%s is SUSPECT since %s, %s:\n%s", printable.Line(l.Name), human.Time(l.Suspect.Since), printable.Line(l.Suspect.Snapshot), indented(strings.Join(l.Suspect.Reasons, "\n")))
			out.Printf("  Next: %s\n", printable.Line(l.AcceptStep().String()))
		}
		if l.Proof != nil && l.Proof.BadCount > 0 {
			out.Printf("\nMarked bad of %s:\n%s", printable.Line(l.Name), indented(l.Proof.BadText()))
		}
		if r := l.Running; r != nil {
			if failed := r.FailedAttempt(time.Local); failed != "" {
				out.Printf("\n%s is running:\n%s", printable.Line(l.Name), indented(failed))
			}
		}
		if l.Last == nil || l.Last.Error == "" {
			continue
		}
		out.Printf("\n%s %s at %s:\n%s", printable.Line(l.Name), printable.Line(string(l.Last.Result)), human.Time(l.Last.Finished), indented(l.Last.Error))
		l.Next = l.Next.Local()
		out.Printf("  Next: %s\n", l.NextStep())
	}
	if p := s.Prune; p != nil && p.Last != nil && p.Last.Error != "" {
		out.Printf("\npruning %s at %s:\n%s", printable.Line(string(p.Last.Result)), human.Time(p.Last.Finished), indented(p.Last.Error))
	}
	if c := s.Check; c != nil && c.Last != nil && c.Last.Error != "" && c.Damaged == 0 {
		out.Printf("\nthe check %s at %s:\n%s", printable.Line(string(c.Last.Result)), human.Time(c.Last.Finished), indented(c.Last.Error))
	}
	for _, w := range s.Warnings {
		kind := "Warning"
		switch {
		case w.Tampering:
			kind = "TAMPERING"
		case w.Degraded:
			kind = "DEGRADED"
		}
		out.Printf("\n%s, %s:\n%s", kind, human.Time(w.Time), indented(w.Text))
	}
	showCheck(out, s)
	if st := s.Storage; st.UsedBytes > 0 {
		text := human.Bytes(st.UsedBytes) + " used by the packs of this host"
		if st.LimitBytes > 0 {
			text += fmt.Sprintf(", %s of %s left", human.Bytes(st.FreeBytes), human.Bytes(st.LimitBytes))
		}
		if st.BytesPerDay >= 1 {
			text += fmt.Sprintf("; grows by %s a day", human.Bytes(uint64(st.BytesPerDay)))
		}
		if !st.FullAt.IsZero() {
			text += fmt.Sprintf(", full in %s", report.Span(st.FullAt.Sub(s.Now)))
		}
		out.Printf("\nStore: %s.\n", text)
	}
	if at := s.Storage.UnprotectedAt; !at.IsZero() {
		out.Printf("\n")
		present.Unprotected(out, s.Repository, &statement.Probe{At: at})
	}
	if s.Storage.UnprovenPuts {
		out.Printf("\nThis store does not prove puts: its replies name no hash of what was put, so the end of each object is read back.\n")
	}
}

// showCheck prints the progress and the result of the check of what is stored.
func showCheck(out *console.Console, s *Report) {
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
	out.Printf("\n%s.\n", printable.Line(text))
	for _, n := range c.Notes {
		out.Printf("  note: %s\n", printable.Line(n))
	}
}

func rpoText(l *Line) string {
	switch {
	case l.RPOSeconds == 0:
		return "-"
	case l.Broken():
		return "BROKEN, " + report.Span(l.RPO())
	}
	return "ok, " + report.Span(l.RPO())
}

func nextText(l *Line, now time.Time) string {
	switch {
	case l.Next.IsZero():
		return "by hand"
	case l.Next.Before(now):
		return "due"
	}
	return "in " + report.Span(l.Next.Sub(now))
}

func lastText(l *Line, now time.Time) string {
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

func protectedText(l *Line, now time.Time) string {
	if l.ProtectedUntil.After(now) {
		return report.Span(l.ProtectedUntil.Sub(now))
	}
	return "no lock"
}

// indented is text of several lines below a heading.
func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(printable.Text(text)), "\n", "\n  ") + "\n"
}
