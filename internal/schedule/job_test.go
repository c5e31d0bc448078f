package schedule

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestJob(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"missed runs are counted and the newest is due": missedRunsAreCountedAndTheNewestIsDue,
		"no run lies between the newest missed and now": noRunLiesBetweenTheNewestMissedAndNow,
		"an offset is stable and spreads machines":      anOffsetIsStableAndSpreadsMachines,
	} {
		t.Run(name, test)
	}
}

func missedRunsAreCountedAndTheNewestIsDue(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time { return local(t, "Europe/Berlin", s) }
	for name, c := range map[string]struct {
		expr, last, now, due string
		count                int
	}{
		"none":                         {"0 4 * * *", "2026-01-01 04:00", "2026-01-02 03:59", "", 0},
		"one that is due now":          {"0 4 * * *", "2026-01-01 04:00", "2026-01-02 04:00", "2026-01-02 04:00", 1},
		"a weekend":                    {"0 4 * * *", "2026-01-02 04:00", "2026-01-05 10:00", "2026-01-05 04:00", 3},
		"a missing time":               {"30 2 * * *", "2026-03-28 02:30", "2026-03-29 03:00", "2026-03-29 03:00", 1},
		"a repeated time":              {"30 2 * * *", "2026-10-25 02:30", "2026-10-25 03:30", "", 0},
		"years of minutes":             {"* * * * *", "2020-01-01 00:00", "2026-07-01 12:34", "2026-07-01 12:34", MostMissed},
		"years of minutes of new year": {"* * 1 1 *", "2020-01-01 00:00", "2026-07-01 12:34", "2026-01-01 23:59", MostMissed},
		"now before last":              {"* * * * *", "2026-01-02 00:00", "2026-01-01 00:00", "", 0},
	} {
		due, count := parse(t, c.expr, "Europe/Berlin").Missed(at(c.last), at(c.now))
		if count != c.count || c.due == "" != due.IsZero() || c.due != "" && !due.Equal(at(c.due)) {
			t.Errorf("%s: %s, %d", name, due, count)
		}
	}
	if due, count := parse(t, "@daily", "UTC").Missed(time.Time{}, at("2026-01-01 12:00")); count != MostMissed || !due.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("since ever: %s, %d", due, count)
	}
}

func noRunLiesBetweenTheNewestMissedAndNow(t *testing.T) {
	t.Parallel()
	s := parse(t, "*/3 1-4 * * *", "America/New_York")
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		now := begin.Add(time.Duration(rapid.Int64Range(0, int64(365*24*time.Hour)).Draw(t, "now")))
		due, count := s.Missed(begin, now)
		if count == 0 {
			return
		}
		if due.After(now) || !s.Next(due).After(now) || !s.Next(due.Add(-1)).Equal(due) {
			t.Fatalf("%s is not the newest before %s", due, now)
		}
	})
}

// goldenOffset is of the job web of web-7, within two minutes.
const goldenOffset = 35 * time.Second

func anOffsetIsStableAndSpreadsMachines(t *testing.T) {
	t.Parallel()
	// A change here moves the runs of every host.
	if got := Offset("web-7", "web", 2*time.Minute); got != Offset("web-7", "web", 2*time.Minute) || got != goldenOffset {
		t.Errorf("it is %s now", got)
	}
	if Offset("web-7", "web", 0) != 0 || Offset("web-7", "web", time.Second) != 0 {
		t.Error("no jitter puts off")
	}
	if Offset("a", "bc", time.Hour) == Offset("ab", "c", time.Hour) {
		t.Error("a machine and a job run together")
	}
	const machines, buckets = 6000, 12
	var spread [buckets]int
	for i := range machines {
		d := Offset(string(rune('a'+i%26))+string(rune(0x4e00+i)), "web", buckets*time.Minute)
		if d < 0 || d >= buckets*time.Minute || d%time.Second != 0 {
			t.Fatalf("an offset of %s", d)
		}
		spread[d/time.Minute]++
	}
	for i, n := range spread {
		if n < machines/buckets*3/4 || n > machines/buckets*5/4 {
			t.Errorf("%d of %d machines in minute %d", n, machines, i)
		}
	}
}
