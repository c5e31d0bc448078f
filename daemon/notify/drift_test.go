package notify

import (
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

func TestInstancesThatAreLacking(t *testing.T) {
	t.Parallel()
	w := &Watch{Host: "web-7", Repeat: 24 * time.Hour}
	for _, c := range []struct {
		at   time.Duration
		is   *report.Instances
		kind Kind
		text string
	}{
		{0, &report.Instances{Wanted: 3, Ready: 2, Failed: 1}, "", ""},
		{4 * time.Minute, &report.Instances{Wanted: 3, Ready: 2, Failed: 1}, "", ""},
		{5 * time.Minute, &report.Instances{Wanted: 3, Ready: 3}, "", ""}, // it was replaced
		{6 * time.Minute, &report.Instances{Wanted: 3, Ready: 2}, "", ""},
		{11 * time.Minute, &report.Instances{Wanted: 3, Ready: 2}, Degraded, "web-7/web: 2 of 3 instances of web@42 are ready. Next: knowngood generations web."},
		{12 * time.Minute, &report.Instances{Wanted: 3, Stale: true}, "", ""},
		{25 * time.Hour, &report.Instances{Wanted: 3, Stale: true}, Degraded, "web-7/web: it is not known how many of 3 instances of web@42 are ready. Next: knowngood scale web; "},
		{26 * time.Hour, &report.Instances{Wanted: 3, Ready: 3}, Recovery, "web-7/web: 3 of 3 instances of web@42 are ready. Some were lacking since "},
		{27 * time.Hour, &report.Instances{Wanted: 3, Ready: 3}, "", ""},
		{28 * time.Hour, &report.Instances{Error: "no access"}, "", ""},
		{29 * time.Hour, &report.Instances{Error: "no access"}, Degraded, "web-7/web: it is not known which instances there are: no access. Next: "},
		{30 * time.Hour, nil, Recovery, "web-7/web: no instances are wanted any more. Some were lacking since "},
	} {
		if c.is != nil {
			c.is.Snapshot = "web@42"
		}
		got := w.Counted(start.Add(c.at), &report.Environment{Name: "web", Instances: c.is})
		if c.kind == "" && len(got) > 0 || c.kind != "" && (len(got) != 1 || got[0].Kind != c.kind || !strings.HasPrefix(got[0].Text, c.text)) {
			t.Errorf("after %v: %+v", c.at, got)
		}
	}
	w.Counted(start, &report.Environment{Name: "web", Instances: &report.Instances{Wanted: 1}})
	if w.Keep([]string{"other"}); w.State.Size() != 0 {
		t.Errorf("an environment that is not configured any more is remembered: %+v", w.State)
	}
}

func TestDrift(t *testing.T) {
	t.Parallel()

	t.Run("is reported once and so is its end", func(t *testing.T) {
		t.Parallel()
		now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
		w := &Watch{Host: "web-7", Repeat: 24 * time.Hour}
		run := func(d ...report.Drifted) report.Run {
			now = now.Add(time.Hour)
			r := report.Run{Finished: now}
			if len(d) > 0 {
				r.SetDrifted(d)
			} else {
				r.Result, r.Error = report.Failed, "it was killed"
			}
			return r
		}
		well := report.Drifted{Environment: "web", From: "web@1"}
		other := report.Drifted{Environment: "web", From: "web@1", To: "this machine", Paths: 1, First: []string{"changed /etc/passwd"}, ExitCode: 14}
		unknown := report.Drifted{Environment: "web", Error: "no identity", ExitCode: 12}
		for i, c := range []struct {
			run  report.Run
			kind Kind
			text string
		}{
			{run(well), "", ""},
			{run(other), Drift, "web-7/web: not as the known-good state: web: 1 path differs from web@1 to this machine: changed /etc/passwd; next: knowngood drift web"},
			{run(other), "", ""},
			{run(unknown), "", ""},
			{run(well), Recovery, "web-7/web: as the known-good state again."},
			{run(unknown), Drift, "web-7/web: could not be compared with the known-good state: web could not be compared: no identity."},
			{report.Run{Result: report.Interrupted, Finished: now}, "", ""},
			{run(well), Recovery, "web-7/web: as the known-good state again."},
			{run(), Drift, "web-7/web: could not be compared with the known-good state: it was killed."},
		} {
			got := w.Drifted("web", c.run, 0)
			switch {
			case c.kind == "" && len(got) > 0:
				t.Errorf("run %d is reported: %+v", i, got)
			case c.kind != "" && (len(got) != 1 || got[0].Kind != c.kind || !strings.HasPrefix(got[0].Text, c.text) || got[0].Environment != "web"):
				t.Errorf("run %d: %+v, want %s %s", i, got, c.kind, c.text)
			}
		}
		if got := w.Drifted("web-*/web", run(other), 0); len(got) != 1 || got[0].Environment != "" {
			t.Errorf("of other hosts: %+v", got)
		}
		if w.Keep([]string{"web"}); len(w.State.Drift) != 1 || w.State.Size() != 1 {
			t.Errorf("what is kept: %+v", w.State)
		}
	})
}
