package daemon

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
)

func TestSlow(t *testing.T) {
	if !enginetest.Slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("a nightly run of a year is taken once a night whatever the clock does", testANightlyRunOfAYearIsTakenOnceANightWhateverTheClockDoes)
	t.Run("each minute of a year is looked at, of waking sleeping and stepped clocks", func(t *testing.T) { aYearOfWakingSleepingAndSteppedClocksRunByRun(t, true) })
}

// A year of nightly runs in New York, by the daemon itself and on a real
// repository: each run is for the time that it should be for, whatever the
// clocks, the machine and the daemon do.
func testANightlyRunOfAYearIsTakenOnceANightWhateverTheClockDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone, err := time.LoadLocation("America/New_York")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(time.Date(2026, 1, 1, 12, 0, 0, 0, zone)))
		w := newWorld(t)
		var wrong atomic.Int64 // what the wall clock is ahead, in nanoseconds
		now := func() time.Time { return time.Now().Add(time.Duration(wrong.Load())).Round(0) }
		start := func() (*Daemon, func()) {
			d := w.daemon(w.config(`  web: {schedule: "30 2 * * *", time_zone: America/New_York, catch_up: 30h, sources: [{path: $SOURCE}]}
`))
			d.Now = now
			return d, w.run(d)
		}
		until := func(month time.Month, day, hour int) {
			t.Helper()
			at := time.Date(2026, month, day, hour, 0, 0, 0, zone)
			if now().After(at) {
				t.Fatalf("it is %v already", now())
			}
			time.Sleep(at.Sub(now()))
		}
		night := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 2, 30, 0, 0, zone) }
		var runs []report.Run
		d, stop := start()
		gather := func() { runs = append(runs, d.jobs.byName["web"].history.Runs...) }

		// The clocks go forward on 8 March: 2:30 is no time, 3:00 comes instead.
		until(time.April, 10, 12)
		// The machine is suspended for two nights; timers stand still.
		wrong.Add(int64(49 * time.Hour))
		time.Sleep(2 * time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Trigger != "catch-up" || e.Last.Missed != 1 || !e.Last.Scheduled.Equal(night(time.April, 12)) {
			t.Errorf("after a suspend: %+v", e.Last)
		}
		// The daemon is off for six hours around a run, and makes up for it.
		until(time.June, 1, 0)
		stop()
		time.Sleep(6 * time.Hour)
		d, stop = start()
		time.Sleep(2 * time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Trigger != "catch-up" || e.Last.Missed != 0 {
			t.Errorf("after downtime: %+v", e.Last)
		}
		// And off for three nights and a day: the newest is within catch_up.
		until(time.July, 1, 12)
		stop()
		until(time.July, 5, 1)
		d, stop = start()
		time.Sleep(2 * time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Missed != 2 || !e.Last.Scheduled.Equal(night(time.July, 4)) {
			t.Errorf("after three nights off: %+v", e.Last)
		}
		// The clock steps back over a run that was, and forward again.
		until(time.August, 10, 3)
		before := len(d.jobs.byName["web"].history.Runs)
		wrong.Add(-int64(2 * time.Hour))
		time.Sleep(90 * time.Minute)
		wrong.Add(int64(2 * time.Hour))
		time.Sleep(2 * time.Minute)
		if after := len(d.jobs.byName["web"].history.Runs); after != before {
			t.Errorf("a step back made %d runs", after-before)
		}
		// It stands years ahead for an hour, and is fixed: the next night is as ever.
		wrong.Add(int64(3 * 365 * 24 * time.Hour))
		time.Sleep(time.Hour)
		ahead := len(d.jobs.byName["web"].history.Runs)
		wrong.Add(-int64(3 * 365 * 24 * time.Hour))
		until(time.August, 11, 4)
		if list := d.jobs.byName["web"].history.Runs; len(list) != ahead+1 || !list[ahead].Scheduled.Equal(night(time.August, 11)) {
			t.Errorf("after a clock that was years ahead there are %d runs, the last %+v", len(list)-ahead, list[len(list)-1])
		}
		// The clocks go back on 1 November.
		until(time.December, 31, 12)
		gather()
		stop()

		seen := map[time.Time]int{}
		for _, r := range runs {
			if r.Result != report.Success {
				t.Errorf("%v: %s %s", r.Scheduled, r.Result, r.Error)
			}
			seen[r.Scheduled.UTC()]++
		}
		missing := map[string]bool{"2026-04-11": true, "2026-07-02": true, "2026-07-03": true} // made up for by one run
		for day := night(time.January, 2); day.Before(time.Date(2026, 12, 31, 12, 0, 0, 0, zone)); day = night(day.Month(), day.Day()+1) {
			want := 1
			name := day.Format(time.DateOnly)
			if missing[name] {
				want = 0
			}
			at := day
			if name == "2026-03-08" {
				at = time.Date(2026, 3, 8, 3, 0, 0, 0, zone)
			}
			if n := seen[at.UTC()]; n != want {
				t.Errorf("%s: %d runs, want %d", name, n, want)
			}
		}
	})
}
