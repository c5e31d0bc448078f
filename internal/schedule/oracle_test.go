package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// face is what clocks and calendars show.
type face struct {
	minute, hour, day int
	month             time.Month
	weekday           time.Weekday
}

func faceOf(at time.Time) face {
	return face{at.Minute(), at.Hour(), at.Day(), at.Month(), at.Weekday()}
}

// expressions, and what they mean, written by hand. Those of each hour are kept
// apart, because they follow real time.
var expressions = []struct {
	expr     string
	eachHour bool
	match    func(c face) bool
}{
	{"*/5 * * * *", true, func(c face) bool { return c.minute%5 == 0 }},
	{"*/15 * * * *", true, func(c face) bool { return c.minute%15 == 0 }},
	{"10 0-23 * * *", true, func(c face) bool { return c.minute == 10 }},
	{"@hourly", true, func(c face) bool { return c.minute == 0 }},
	{"5 * * * 0", true, func(c face) bool { return c.minute == 5 && c.weekday == time.Sunday }},
	{"@daily", false, func(c face) bool { return c.hour == 0 && c.minute == 0 }},
	{"30 0 * * *", false, func(c face) bool { return c.hour == 0 && c.minute == 30 }},
	{"30 1 * * *", false, func(c face) bool { return c.hour == 1 && c.minute == 30 }},
	{"15 2 * * *", false, func(c face) bool { return c.hour == 2 && c.minute == 15 }},
	{"45 23 * * *", false, func(c face) bool { return c.hour == 23 && c.minute == 45 }},
	{"*/7 1-3 * * *", false, func(c face) bool { return c.minute%7 == 0 && c.hour >= 1 && c.hour <= 3 }},
	{"0 */2 * * *", false, func(c face) bool { return c.minute == 0 && c.hour%2 == 0 }},
	{"*/10 0-22 * * *", false, func(c face) bool { return c.minute%10 == 0 && c.hour <= 22 }},
	{"0 3 * * sun", false, func(c face) bool { return c.hour == 3 && c.minute == 0 && c.weekday == time.Sunday }},
	{"0 0 1 * *", false, func(c face) bool { return c.hour == 0 && c.minute == 0 && c.day == 1 }},
	{"20 2 13 * 5", false, func(c face) bool {
		return c.hour == 2 && c.minute == 20 && (c.day == 13 || c.weekday == time.Friday)
	}},
	{"0 12 30,31 12 *", false, func(c face) bool { return c.hour == 12 && c.minute == 0 && c.month == 12 && c.day >= 30 }},
}

// A walk through each real minute of a year, with the clock face beside it,
// knows nothing of how Next finds its way.
func TestZones(t *testing.T) {
	t.Parallel()
	for _, z := range []struct {
		zone    string
		year    int
		changes int // how often its clocks change in the year
	}{
		{"UTC", 2028, 0},
		{"America/New_York", 2026, 2},
		{"Europe/Berlin", 2026, 2},
		{"Australia/Lord_Howe", 2026, 2},
		{"Pacific/Apia", 2011, 3},
		{"America/Sao_Paulo", 2018, 2},
		{"Asia/Beirut", 2026, 2},
		{"Africa/Casablanca", 2026, 2},
		{"Antarctica/Troll", 2026, 2},
		{"Pacific/Chatham", 2026, 2},
		{"Asia/Pyongyang", 2015, 1},
		{"Asia/Kathmandu", 2026, 0},
		// Beyond what is written out in zone files, in leap years.
		{"Europe/Berlin", 2040, 2},
		{"Australia/Lord_Howe", 2044, 2},
	} {
		t.Run(fmt.Sprint(z.zone, " ", z.year), func(t *testing.T) {
			t.Parallel()
			loc, err := time.LoadLocation(z.zone)
			if err != nil {
				t.Fatal(err)
			}
			// The clock face as minutes, had it never changed.
			count := func(at time.Time) int64 {
				_, offset := at.Zone()
				return (at.Unix() + int64(offset)) / 60
			}
			begin := time.Date(z.year, 1, 1, 0, 0, 0, 0, loc)
			schedules, next := make([]*Schedule, len(expressions)), make([]time.Time, len(expressions))
			for i, e := range expressions {
				schedules[i] = parse(t, e.expr, z.zone)
				next[i] = schedules[i].Next(begin)
			}
			var changed time.Time
			shown, last, changes, fired := count(begin), count(begin), 0, 0
			for at := begin.Add(time.Minute); at.Year() == z.year; at = at.Add(time.Minute) {
				c, f := count(at), faceOf(at)
				if c != last+1 {
					changes++
					changed = at
				}
				near := at.Sub(changed) < 4*time.Hour
				last = c
				var left []face // what the clocks left out
				for n := shown + 1; n < c; n++ {
					left = append(left, faceOf(time.Unix(n*60, 0).UTC()))
				}
				for i, e := range expressions {
					fires := e.match(f) && (e.eachHour || c > shown)
					if !e.eachHour && slices.ContainsFunc(left, e.match) {
						fires = true
					}
					if fires != next[i].Equal(at) {
						t.Fatalf("%q at %s: fires is %t, but Next says %s", e.expr, at, fires, next[i])
					}
					if fires {
						fired++
						next[i] = schedules[i].Next(at)
					} else if near && !next[i].Equal(schedules[i].Next(at)) {
						t.Fatalf("%q after %s: Next says %s, and said %s before", e.expr, at, schedules[i].Next(at), next[i])
					}
				}
				shown = max(shown, c)
			}
			if changes != z.changes || fired < 200_000 {
				t.Errorf("%d changes of the clocks, %d runs", changes, fired)
			}
		})
	}
}
