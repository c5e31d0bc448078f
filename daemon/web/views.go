package web

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
)

// moment is a time as the page shows it, in the time zone of the daemon.
type moment struct{ t, now time.Time }

// Known says whether there is such a time.
func (m moment) Known() bool { return !m.t.IsZero() }

// ISO is the form for programs.
func (m moment) ISO() string { return m.t.UTC().Format(time.RFC3339) }

// Full is the whole time.
func (m moment) Full() string { return m.t.In(m.now.Location()).Format("2006-01-02 15:04:05 MST") }

// Short leaves out what goes without saying.
func (m moment) Short() string {
	t := m.t.In(m.now.Location())
	if t.YearDay() == m.now.YearDay() && t.Year() == m.now.Year() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// Day is the date alone.
func (m moment) Day() string { return m.t.In(m.now.Location()).Format("2006-01-02") }

// Relative says how far away it is.
func (m moment) Relative() string {
	d := m.t.Sub(m.now)
	switch {
	case d >= time.Second:
		return "in " + report.Span(d)
	case d > -time.Second:
		return "now"
	}
	return report.Span(-d) + " ago"
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
		v.RunningText = fmt.Sprintf("%s for %s", p.Phase, report.Span(now.Sub(p.Started)))
		if p.Attempt > 1 {
			v.RunningText += fmt.Sprintf(", attempt %d", p.Attempt)
		}
		if p.Files > 0 || p.Bytes > 0 {
			v.RunningText += fmt.Sprintf(", %s %s, %s", humanize.Comma(int64(p.Files)), english.PluralWord(int(p.Files), "file", ""), humanize.IBytes(p.Bytes))
		}
		if p.Total > 0 {
			v.RunningPart = 100 * min(1, float64(p.Bytes)/float64(p.Total))
			v.RunningText += fmt.Sprintf(" of about %s", humanize.IBytes(p.Total))
		}
	}
	return v
}

// envView is one environment on the page.
type envView struct {
	*jobView
	Name       string
	Level      string
	Words      string
	Newest     moment
	Ref        string // of the newest good snapshot; its number alone where the name is long
	Age        string
	RPO        string
	RPOPart    float64 // of 100: how much of what was promised is used up
	Kept       int
	Locked     string
	Size       string // of the newest good snapshot
	Files      string
	Error      string // of the last run, when that failed
	Next       string // what to do about it
	Suspect    *report.Suspicion
	Accept     string // what to do about that
	Strip      *strip
	Charts     []*chart
	Recent     []runView // newest first
	WithCharts bool
}

// recentRuns are listed in full below the charts.
const recentRuns = 12

func newEnvView(e report.Environment, now time.Time, charts bool) envView {
	level, words := e.Verdict()
	v := envView{
		jobView: newJobView(e.Job, now), Name: e.Name, Level: level.String(), Words: words,
		Newest: moment{e.Newest, now}, Kept: e.Kept, Locked: locked(e.ProtectedUntil, now), WithCharts: charts,
	}
	if v.Newest.Known() {
		v.Age = report.Span(time.Duration(e.AgeSeconds * float64(time.Second)))
	}
	if e.RPOSeconds > 0 {
		v.RPO = report.Span(e.RPO())
		v.RPOPart = 100
		if v.Newest.Known() {
			v.RPOPart = 100 * min(1, e.AgeSeconds/e.RPOSeconds)
		}
	}
	if s := e.LastSuccess; s != nil {
		v.Ref = s.Snapshot
		if i := strings.LastIndexByte(s.Snapshot, '@'); i > 20 {
			v.Ref = s.Snapshot[i:]
		}
		v.Size, v.Files = humanize.IBytes(s.Bytes), humanize.Comma(int64(s.Files))
	}
	if l := e.Last; l != nil && l.Error != "" && l.Result != report.Interrupted {
		v.Error = l.Error
		e.Next = e.Next.In(now.Location())
		v.Next = e.NextStep()
	}
	if v.Suspect = e.Suspect; v.Suspect != nil {
		v.Accept = e.AcceptStep()
	}
	v.Strip = newStrip(&e, now)
	if charts {
		v.Charts = newCharts(&e, now)
		for i := len(e.Runs) - 1; i >= 0 && len(v.Recent) < recentRuns; i-- {
			v.Recent = append(v.Recent, runView{e.Runs[i], moment{e.Runs[i].Started, now}})
		}
	}
	return v
}

// locked says for how long nobody can delete the newest snapshot.
func locked(until, now time.Time) string {
	switch {
	case until.IsZero():
		return "no lock"
	case until.After(now):
		return "locked for " + report.Span(until.Sub(now))
	}
	return "lock ended " + report.Span(now.Sub(until)) + " ago"
}

// runView is one past run in the list of runs.
type runView struct {
	report.Run
	Began moment
}

// Took is how long it took.
func (r runView) Took() string { return spanOfRun(&r.Run) }

// Why says what made it run.
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
		v.Growth = "grows by " + humanize.IBytes(uint64(s.BytesPerDay)) + " a day"
	case s.BytesPerDay <= -1:
		v.Growth = "shrinks by " + humanize.IBytes(uint64(-s.BytesPerDay)) + " a day"
	}
	return v
}

// barView is a bar that is filled in part.
type barView struct {
	Part         float64 // of 100
	Level, Label string
}
