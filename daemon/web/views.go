package web

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
)

// moment is a time as the page shows it, in the time zone of the daemon.
type moment struct{ t, now time.Time }

// Known reports whether there is such a time.
func (m moment) Known() bool { return !m.t.IsZero() }

// ISO is the form for programs.
func (m moment) ISO() string { return m.t.UTC().Format(time.RFC3339) }

// Full is the complete time.
func (m moment) Full() string { return m.t.In(m.now.Location()).Format("2006-01-02 15:04:05 MST") }

// Short leaves out what is the rule.
func (m moment) Short() string {
	t := m.t.In(m.now.Location())
	if t.YearDay() == m.now.YearDay() && t.Year() == m.now.Year() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// Day is the date.
func (m moment) Day() string { return m.t.In(m.now.Location()).Format("2006-01-02") }

// Relative is how far away it is.
func (m moment) Relative() string {
	d := m.t.Sub(m.now)
	switch {
	case d >= time.Second:
		return "in " + span(d)
	case d > -time.Second:
		return "now"
	}
	return span(-d) + " ago"
}

// jobView is something done on a schedule.
type jobView struct {
	report.Job
	NextAt      moment
	LastEnd     moment
	RunningText string
	RunningPart float64 // of 100; 0 when not known
}

func newJobView(j report.Job, now time.Time) *jobView {
	v := &jobView{Job: j, NextAt: moment{j.Next, now}}
	if j.Last != nil {
		v.LastEnd = moment{j.Last.Finished, now}
	}
	if p := j.Running; p != nil {
		v.RunningText = fmt.Sprintf("%s for %s", p.Phase, span(now.Sub(p.Started)))
		if p.Attempt > 1 {
			v.RunningText += fmt.Sprintf(", attempt %d", p.Attempt)
		}
		if p.Files > 0 || p.Bytes > 0 {
			v.RunningText += fmt.Sprintf(", %s, %s", count(p.Files, "file", "files"), size(p.Bytes))
		}
		if p.Total > 0 {
			v.RunningPart = 100 * min(1, float64(p.Bytes)/float64(p.Total))
			v.RunningText += fmt.Sprintf(" of about %s", size(p.Total))
		}
	}
	return v
}

// checkView is the check of what is stored.
type checkView struct {
	*jobView
	Level, Words string
	Command      string
	Began        moment
	Scope        string
	Notes        []string
	Part         float64 // of 100: of the pass under way; 0 where none is
}

func newCheckView(c *report.Check, now time.Time) *checkView {
	if c == nil {
		return nil
	}
	level, words := c.Verdict(now)
	v := &checkView{jobView: newJobView(c.Job, now), Level: level.String(), Words: unbroken(words), Command: c.Command, Began: moment{c.Began, now}, Scope: unbroken(c.Data.Scope(now)), Notes: c.Notes}
	if c.Data != nil {
		v.Part = 100 * c.Data.PassPart
	}
	return v
}

// envView is one environment on the page.
type envView struct {
	*jobView
	Name    string
	Level   string
	Words   string
	Newest  moment
	Ref     string // of the newest good snapshot; only its number where the name is long
	Age     string
	RPO     string
	RPOPart float64 // of 100: how much of what was promised is used up
	Kept    int
	Locked  string
	Lock    string // that of the repository
	Size    string // of the newest good snapshot
	Files   string
	Sources []report.Source
	More    int // sources that are not shown
	Keeps   string
	Proof   string
	// Trial is that of a generation, Instances how many there are; empty where there are none.
	Trial     string
	Instances string
	Verified  moment // of the newest good snapshot
	How       string // it was verified
	Notices   []notice
	Strip     *strip
	Charts    []*chart  // none of what fails
	Failures  []failure // of what fails, newest first
	Recent    []runView // newest first
}

// recentRuns are listed below the charts, sourcesShown are named.
const (
	recentRuns   = 12
	sourcesShown = 8
)

func newEnvView(e report.Environment, r *report.Report, charts bool) envView {
	now := r.Now
	level, words := e.Verdict()
	v := envView{
		jobView: newJobView(e.Job, now), Name: e.Name, Level: level.String(), Words: unbroken(words),
		Newest: moment{e.Newest, now}, Kept: e.Kept, Locked: locked(e.ProtectedUntil, now), Lock: lockText(r.Lock), Sources: e.Sources, Keeps: e.Retention,
		Notices: notices(e, now), Strip: newStrip(&e, now),
	}
	if extra := len(v.Sources) - sourcesShown; extra > 0 {
		v.Sources, v.More = v.Sources[:sourcesShown], extra
	}
	if e.Proof != nil {
		v.Proof = unbroken(e.Proof.String())
	}
	if e.TrialOverdue(now) == "" {
		v.Trial = unbroken(e.TrialText())
	}
	if e.Instances != nil {
		v.Instances = unbroken(e.Instances.Text(now))
	}
	v.Keeps = cmp.Or(v.Keeps, "everything")
	if !v.Newest.Known() {
		v.Locked = "–"
	} else {
		v.Age = span(time.Duration(e.AgeSeconds * float64(time.Second)))
	}
	if e.RPOSeconds > 0 {
		v.RPO = span(e.RPO())
		switch {
		case v.Newest.Known():
			v.RPOPart = 100 * min(1, e.AgeSeconds/e.RPOSeconds)
		case !e.FirstRun():
			v.RPOPart = 100
		}
	}
	if s := e.LastSuccess; s != nil {
		v.Ref = s.Snapshot
		if i := strings.LastIndexByte(s.Snapshot, '@'); i > 20 {
			v.Ref = s.Snapshot[i:]
		}
		v.Size, v.Files = size(s.Bytes), count(s.Files, "file", "files")
		at, how := e.Verification(r.Check)
		v.Verified, v.How = moment{at, now}, how
	}
	if charts {
		for i := len(e.Runs) - 1; i >= 0 && len(v.Recent) < recentRuns; i-- {
			v.Recent = append(v.Recent, runView{e.Runs[i], moment{e.Runs[i].Started, now}})
		}
		if e.Failures > 0 {
			v.Failures = errorHistory(v.Recent)
		} else {
			v.Charts = newCharts(&e, now)
		}
	}
	return v
}

// lockText is the lock of a repository in words; empty while that is not known.
func lockText(l *report.Lock) string {
	switch {
	case l == nil:
		return ""
	case l.KeepSeconds == 0:
		return l.Mode
	}
	return l.Mode + ", " + span(l.Keep())
}

// count is a number and what it counts.
func count(n uint64, one, many string) string {
	return humanize.Comma(int64(n)) + " " + english.PluralWord(int(n), one, many)
}

// locked is for how long nobody can delete the newest snapshot, which is what
// the host claims.
func locked(until, now time.Time) string {
	switch {
	case until.IsZero():
		return "no lock"
	case until.After(now):
		return "the host says: locked for " + span(until.Sub(now))
	}
	return "the host says: lock ended " + span(now.Sub(until)) + " ago"
}

// runView is one past run in the list of runs.
type runView struct {
	report.Run
	Began moment
}

// Took is how long it took.
func (r runView) Took() string { return spanOfRun(&r.Run) }

// Why is what started it.
func (r runView) Why() string {
	if r.Missed > 0 {
		return fmt.Sprintf("%s for %d missed", r.Trigger, r.Missed)
	}
	return r.Trigger
}

// storeView is how full the store is.
type storeView struct {
	report.Storage
	Part   float64 // of 100
	Level  string
	Growth string
	Full   moment
}

func newStoreView(s report.Storage, now time.Time) *storeView {
	if s.UsedBytes == 0 && s.LimitBytes == 0 {
		return nil
	}
	v := &storeView{Storage: s, Level: report.Well.String(), Full: moment{s.FullAt, now}, Growth: "no growth of late"}
	if s.LimitBytes > 0 {
		v.Part = 100 * (1 - min(1, float64(s.FreeBytes)/float64(s.LimitBytes)))
		switch {
		case v.Part >= 95:
			v.Level = report.Broken.String()
		case v.Part >= 85 || v.Full.Known() && s.FullAt.Sub(now) < 14*24*time.Hour:
			v.Level = report.Attention.String()
		}
	}
	switch {
	case s.BytesPerDay >= 1:
		v.Growth = "grows by " + size(uint64(s.BytesPerDay)) + " a day"
	case s.BytesPerDay <= -1:
		v.Growth = "shrinks by " + size(uint64(-s.BytesPerDay)) + " a day"
	}
	return v
}

// barView is a bar that is filled in part.
type barView struct {
	Part         float64 // of 100
	Level, Label string
}
