package report

import (
	"strings"
	"testing"
	"time"
)

func TestCheckOfStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"verdict":                           checkVerdict,
		"the scope describes what was read": theScopeOfACheckSaysWhatWasRead,
	} {
		t.Run(name, test)
	}
}

func checkVerdict(t *testing.T) {
	t.Parallel()
	last := Job{Failures: 2, Last: &Run{Result: Failed, Error: "no route to host"}}
	for name, c := range map[string]struct {
		check Check
		level Level
		want  string
	}{
		"well":                {Check{Began: now}, Well, "found no damage"},
		"never":               {Check{}, Attention, "has not run yet"},
		"failed":              {Check{Began: now, Job: last}, Attention, "failed in its last 2 runs"},
		"overdue":             {Check{Began: now.Add(-5 * 24 * time.Hour), Overdue: true, Job: last}, Attention, "is overdue: what is stored was checked 5 d ago; the last check failed: no route to host"},
		"never, overdue":      {Check{Overdue: true}, Attention, "is overdue: what is stored has never been checked, and no check has run since"},
		"damage":              {Check{Began: now, Damaged: 2, Overdue: true}, Broken, "found that 2 objects are missing or damaged"},
		"locks":               {Check{Began: now, Damaged: 1, Short: 1}, Broken, "found that the locks of 1 snapshot end before the host says"},
		"damage and locks":    {Check{Began: now, Damaged: 3, Short: 2}, Broken, "found that 1 object is missing or damaged, and the locks of 2 snapshots end before the host says"},
		"what affects nobody": {Check{Began: now, Notes: []string{"a", "b"}}, Well, "found no damage, with 2 notes"},
	} {
		level, text := c.check.Verdict(now)
		if level != c.level || !strings.HasPrefix(text, c.want) {
			t.Errorf("%s: %v, %q", name, level, text)
		}
	}
}

func theScopeOfACheckSaysWhatWasRead(t *testing.T) {
	t.Parallel()
	const day = 86400
	for name, c := range map[string]struct {
		data *CheckedData
		want string
	}{
		"none":           {nil, "structure and sizes; stored data is not read"},
		"the first pass": {&CheckedData{Scheduled: true, PassPart: 0.25, CycleSeconds: 90 * day, ExpectedSeconds: 90 * day}, "structure and sizes; not all stored data has been read yet; the pass under way has read 25 % of the data and takes 90 d"},
		"too much for a day": {&CheckedData{Scheduled: true, Oldest: now, PassPart: 0.5, CycleSeconds: 90 * day, ExpectedSeconds: 140 * day, DailyBytes: 1 << 30},
			"structure and sizes; all data stored until 2026-11-20 was read since; the pass under way has read 50 % of the data and takes 140 d in place of 90 d, at 1.0 GiB a day (check.max_data)"},
		"by hand": {&CheckedData{Oldest: now}, "structure and sizes; all data stored until 2026-11-20 was read since; none is read on the schedule"},
	} {
		if got := c.data.Scope(now); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
