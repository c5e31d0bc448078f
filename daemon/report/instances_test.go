package report_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

func TestTrials(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.Local)
	for _, c := range []struct {
		is            report.Trial
		text, overdue string
	}{
		{report.Trial{Deadline: now.Add(time.Minute)}, "has generation 2-5d on trial until 2026-11-20 12:01:00: it goes back then, unless it is committed (knowngood commit web)", ""},
		{report.Trial{Deadline: now.Add(-time.Minute), Back: true}, "goes back from generation 2-5d since 2026-11-20 11:59:00", ""},
		{report.Trial{Deadline: now.Add(-time.Hour)}, "", "has generation 2-5d on trial, which was not committed by 2026-11-20 11:00:00 and has not gone back. Next: knowngood generations web --recover, "},
		{report.Trial{Deadline: now.Add(-time.Hour), Back: true}, "", "goes back from generation 2-5d since 2026-11-20 11:00:00, and has not yet. Next: knowngood generations web --recover, "},
	} {
		c.is.Generation = "2-5d"
		e := &report.Environment{Name: "web", Trial: &c.is}
		if c.text != "" && e.TrialText() != c.text {
			t.Errorf("%+v: %s", c.is, e.TrialText())
		}
		if got := e.TrialOverdue(now); !strings.HasPrefix(got, c.overdue) || (got == "") != (c.overdue == "") {
			t.Errorf("%+v is overdue: %s", c.is, got)
		}
	}
}

func TestInstances(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what     string
		is       report.Instances
		checked  time.Duration // ago; 0: never
		lacking  bool
		degraded bool
		text     string
	}{
		{"all are ready", report.Instances{Wanted: 3, Ready: 3}, 9 * time.Minute, false, false, "3 of 3 instances of web@42 are ready, checked 9 min ago"},
		{"one failed", report.Instances{Wanted: 3, Ready: 2, Failed: 1}, time.Minute, true, false, "2 of 3 instances of web@42 are ready, 1 failed, checked 1 min ago"},
		{"nobody asks any more", report.Instances{Wanted: 3, Ready: 3}, 11 * time.Minute, true, true, "it is not known how many of 3 instances of web@42 are ready, checked 11 min ago"},
		{"a switch takes its time", report.Instances{Wanted: 3, Ready: 3, Busy: true}, 11 * time.Minute, false, false, "3 of 3 instances of web@42 are ready, checked 11 min ago"},
		{"a switch takes too long", report.Instances{Wanted: 3, Ready: 3, Busy: true}, 61 * time.Minute, true, true, "it is not known how many of 3 instances of web@42 are ready, checked 1 h 1 min ago"},
		{"the clock was wrong", report.Instances{Wanted: 3, Ready: 3}, -time.Hour, true, true, "it is not known how many of 3 instances of web@42 are ready, checked 0 s ago"},
		{"none is probed", report.Instances{Wanted: 3, NotProbed: 3}, 0, false, false, "3 of 3 instances of web@42 were started, not probed"},
		{"fewer were started than are wanted", report.Instances{Wanted: 3, NotProbed: 2}, 0, true, false, "2 of 3 instances of web@42 were started, not probed"},
		{"none is wanted", report.Instances{}, time.Hour, false, false, "0 of 0 instances of web@42 are ready, checked 1 h ago"},
	} {
		i := c.is
		i.Snapshot = "web@42"
		if c.checked != 0 {
			i.CheckedAt = now.Add(-c.checked)
		}
		i.Age(now)
		if i.Lacking() != c.lacking || i.Text(now) != c.text || i.Stale != c.degraded || i.Stale && i.Ready > 0 {
			t.Errorf("%s: lacking %t, %+v: %s", c.what, i.Lacking(), i, i.Text(now))
		}
		r := report.Report{Now: now, Environments: []report.Environment{{Name: "web", Instances: &i, Newest: now}}}
		r.WarnOfInstances()
		if level, text := r.Verdict(); len(r.Warnings) > 0 != c.lacking || level == report.Well == c.lacking || c.degraded != strings.Contains(text, "Next: knowngood scale web; systemctl enable --now knowngood-scale@web.timer") {
			t.Errorf("%s: %v, %s; %+v", c.what, level, text, r.Warnings)
		}
		if slices.ContainsFunc(r.Warnings, func(w report.Warning) bool { return w.Degraded }) != c.degraded {
			t.Errorf("%s: degraded should be %t: %+v", c.what, c.degraded, r.Warnings)
		}
	}
}
