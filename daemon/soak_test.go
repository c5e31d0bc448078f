package daemon

import (
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// fileDescriptors counts the open ones of this process.
func fileDescriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// accounted fails for each time of the schedule in (from, to] that no run was
// for, nor made up for.
func accounted(t *testing.T, j *timing, runs []report.Run, from, to time.Time) {
	t.Helper()
	for _, r := range runs {
		for range r.Missed {
			from = j.schedule.Next(from)
		}
		if want := j.schedule.Next(from); !r.Scheduled.Equal(want) {
			t.Fatalf("a run is for %v, want %v", r.Scheduled, want)
		}
		from = r.Scheduled
	}
	if next := j.schedule.Next(from); next.Add(j.offset).Before(to) {
		t.Errorf("no run was for %v", next)
	}
}

// A week of quarter-hourly runs over a store that is slow, throttled, loses
// replies, breaks off and is away for hours.
func TestSoak(t *testing.T) {
	t.Run("every scheduled run of stormy days is accounted for", func(t *testing.T) {
		hours := 60
		if enginetest.Slow() {
			hours = 7 * 24
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			d := w.daemon(w.config(`  web: {schedule: "*/15 * * * *", time_zone: UTC, rpo: 1h, jitter: 1m, sources: [{path: $SOURCE}], keep: {last: 3, hourly: 5}}
`))
			began := time.Now()
			stop := w.run(d)
			random := rand.New(rand.NewPCG(1, 2))
			before := 0
			outages := map[int]bool{30: true, 50: true, 90: true}
			for hour := range hours {
				w.faulty.Clear()
				var after time.Time // when an outage of this hour ended
				switch {
				case outages[hour]:
					w.faulty.Add(storagetest.Rule{Fault: storagetest.FailBefore(storage.ErrUnreachable)})
					time.Sleep(5 * time.Hour)
					w.faulty.Clear()
					after = time.Now()
					time.Sleep(45 * time.Minute)
				default:
					for _, f := range []storagetest.Fault{storagetest.Throttled(), storagetest.LostReply(), storagetest.Delayed(3 * time.Minute), storagetest.Broken(10), storagetest.Truncated(20)} {
						w.faulty.Add(storagetest.Rule{Nth: 1 + random.IntN(40), Fault: f})
					}
					w.write("file", time.Now().String())
					time.Sleep(time.Hour)
				}
				e := w.environment(d, "web")
				if !after.IsZero() && !e.Newest.After(after) {
					t.Errorf("45 minutes after an outage the newest snapshot is of %v; the last run: %+v", e.Newest, e.Last)
				}
				if hour == 24 {
					before = fileDescriptors(t)
				}
			}
			if now := fileDescriptors(t); now > before+2 {
				t.Errorf("%d file descriptors are open, a day after the start it were %d", now, before)
			}
			e := w.environment(d, "web")
			stop()
			runs := d.jobs.byName["web"].history.Runs
			accounted(t, d.jobs.byName["web"].timing, runs, runs[0].Scheduled.Add(-time.Second), time.Now())
			results := map[report.Result]int{}
			retried := 0
			for _, r := range runs {
				results[r.Result]++
				if r.Attempts > 1 && r.Result == report.Success {
					retried++
				}
				if r.Result == report.Failed && r.Error == "" {
					t.Errorf("a failure without a name: %+v", r)
				}
			}
			t.Logf("of %d runs since %v: %v, %d after retries; %d kept", len(runs), began, results, retried, e.Kept)
			if results[report.Success] < 2*hours || results[report.Failed] == 0 || retried == 0 || results[report.Partial]+results[report.Skipped] > 0 {
				t.Errorf("results %v, %d retried: the storm was none, or was not weathered", results, retried)
			}
			if e.Kept < 3 || e.Kept > 20 { // where the last hour let nothing be forgotten
				t.Errorf("%d snapshots are kept", e.Kept)
			}
		})
	})
}
