package schedule

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func parse(t testing.TB, expr, zone string) *Schedule {
	t.Helper()
	s, err := Parse(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// local is a time as the clocks of a zone show it. Of a time that comes twice
// it is the first.
func local(t testing.TB, zone, s string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// runs are the first n after a local time.
func runs(t testing.TB, expr, zone, after string, n int) []string {
	t.Helper()
	s, at := parse(t, expr, zone), local(t, zone, after)
	var out []string
	for range n {
		at = s.Next(at)
		out = append(out, at.Format("01-02 15:04 -0700"))
	}
	return out
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"the edges of daylight saving run by run":          theEdgesOfDaylightSavingRunByRun,
		"leap days are found across a century without one": leapDaysAreFoundAcrossACenturyWithoutOne,
		"the last day of a leap year ends":                 theLastDayOfALeapYearEnds,
		"@every keeps its phase":                           everyKeepsItsPhaseWhateverItIsAskedFrom,
		"a fraction of a second is not a run of its own":   aFractionOfASecondIsNotARunOfItsOwn,
		"schedules that no job can use are refused":        whatNoJobCanUseIsRefused,
		"sunday is weekday seven too":                      sundayIsWeekdaySevenToo,
		"an interval is a duration like all others":        anIntervalIsADurationLikeAllOthers,
	} {
		t.Run(name, test)
	}
}

func theEdgesOfDaylightSavingRunByRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		expr, zone, after string
		want              []string
	}{
		"New York goes forward: a missing time fires at the end of the gap": {
			"30 2 * * *", "America/New_York", "2026-03-06 12:00",
			[]string{"03-07 02:30 -0500", "03-08 03:00 -0400", "03-09 02:30 -0400"},
		},
		"New York goes forward: several missing times and the end of the gap are one run": {
			"*/20 2-3 * * *", "America/New_York", "2026-03-07 03:20",
			[]string{"03-07 03:40 -0500", "03-08 03:00 -0400", "03-08 03:20 -0400", "03-08 03:40 -0400", "03-09 02:00 -0400"},
		},
		"New York goes forward: each hour is each hour": {
			"0 * * * *", "America/New_York", "2026-03-08 00:00",
			[]string{"03-08 01:00 -0500", "03-08 03:00 -0400", "03-08 04:00 -0400"},
		},
		"New York goes forward: a quarter of an hour stays one": {
			"*/15 * * * *", "America/New_York", "2026-03-08 01:30",
			[]string{"03-08 01:45 -0500", "03-08 03:00 -0400", "03-08 03:15 -0400"},
		},
		"New York goes back: a repeated time fires the first time": {
			"30 1 * * *", "America/New_York", "2026-10-31 12:00",
			[]string{"11-01 01:30 -0400", "11-02 01:30 -0500"},
		},
		"New York goes back: each hour fires in both": {
			"30 * * * *", "America/New_York", "2026-11-01 00:00",
			[]string{"11-01 00:30 -0400", "11-01 01:30 -0400", "11-01 01:30 -0500", "11-01 02:30 -0500"},
		},
		"New York goes back: the last of a fixed hour, then the next of a fixed hour": {
			"*/30 1-2 * * *", "America/New_York", "2026-11-01 00:00",
			[]string{"11-01 01:00 -0400", "11-01 01:30 -0400", "11-01 02:00 -0500", "11-01 02:30 -0500"},
		},
		"Berlin goes forward": {
			"15 2 * * *", "Europe/Berlin", "2026-03-28 00:00",
			[]string{"03-28 02:15 +0100", "03-29 03:00 +0200", "03-30 02:15 +0200"},
		},
		"Berlin goes forward, on each second hour": {
			"0 */2 * * *", "Europe/Berlin", "2026-03-28 22:00",
			[]string{"03-29 00:00 +0100", "03-29 03:00 +0200", "03-29 04:00 +0200"},
		},
		"Berlin goes back": {
			"15 2 * * *", "Europe/Berlin", "2026-10-24 12:00",
			[]string{"10-25 02:15 +0200", "10-26 02:15 +0100"},
		},
		"Berlin goes back, each half hour": {
			"*/30 * * * *", "Europe/Berlin", "2026-10-25 01:30",
			[]string{"10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100", "10-25 03:00 +0100"},
		},
		"Berlin goes back, every two hours of real time": {
			"@every 2h", "Europe/Berlin", "2026-10-24 23:00",
			[]string{"10-25 00:00 +0200", "10-25 02:00 +0200", "10-25 03:00 +0100", "10-25 05:00 +0100"},
		},
		"Lord Howe Island goes forward by half an hour": {
			"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00",
			[]string{"10-04 02:30 +1100", "10-05 02:15 +1100"},
		},
		"Lord Howe Island goes back by half an hour": {
			"*/20 1 * * *", "Australia/Lord_Howe", "2026-04-05 00:00",
			[]string{"04-05 01:00 +1100", "04-05 01:20 +1100", "04-05 01:40 +1100", "04-06 01:00 +1030"},
		},
		"Apia left out a whole day": {
			"0 4 * * *", "Pacific/Apia", "2011-12-28 12:00",
			[]string{"12-29 04:00 -1000", "12-31 00:00 +1400", "12-31 04:00 +1400"},
		},
		"Sao Paulo had no midnight": {
			"@daily", "America/Sao_Paulo", "2018-11-02 12:00",
			[]string{"11-03 00:00 -0300", "11-04 01:00 -0200", "11-05 00:00 -0200"},
		},
		"Sao Paulo had midnight once, but eleven at night twice": {
			"30 23 * * *", "America/Sao_Paulo", "2018-02-16 12:00",
			[]string{"02-16 23:30 -0200", "02-17 23:30 -0200", "02-18 23:30 -0300"},
		},
		"Beirut has no midnight on a weekday of a month": {
			"0 0 29 3 *", "Asia/Beirut", "2025-12-01 00:00",
			[]string{"03-29 01:00 +0300", "03-29 00:00 +0300"},
		},
		"a leap day": {
			"0 4 29 2 *", "Europe/Berlin", "2026-01-01 00:00",
			[]string{"02-29 04:00 +0100", "02-29 04:00 +0100"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runs(t, c.expr, c.zone, c.after, len(c.want))
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func leapDaysAreFoundAcrossACenturyWithoutOne(t *testing.T) {
	t.Parallel()
	s := parse(t, "0 0 29 2 *", "Europe/Berlin")
	for _, c := range [][2]string{{"2026-01-01 00:00", "2028-02-29 00:00"}, {"2096-03-01 00:00", "2104-02-29 00:00"}} {
		if got, want := s.Next(local(t, "Europe/Berlin", c[0])), local(t, "Europe/Berlin", c[1]); !got.Equal(want) {
			t.Errorf("after %s comes %s", c[0], got)
		}
	}
}

func theLastDayOfALeapYearEnds(t *testing.T) {
	t.Parallel()
	got := runs(t, "0 */12 * * *", "Europe/Berlin", "2040-12-30 12:00", 4)
	if want := "12-31 00:00 +0100|12-31 12:00 +0100|01-01 00:00 +0100|01-01 12:00 +0100"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

func everyKeepsItsPhaseWhateverItIsAskedFrom(t *testing.T) {
	t.Parallel()
	s := parse(t, "@every 7m", "Asia/Kathmandu")
	for _, unix := range []int64{1_000_000_000, 1_000_000_001, -1, -420, 0, 419} {
		got := s.Next(time.Unix(unix, 999))
		if d := got.Unix() - unix; got.Unix()%420 != 0 || d <= 0 || d > 420 || got.Nanosecond() != 0 {
			t.Errorf("after %d comes %d", unix, got.Unix())
		}
	}
}

func aFractionOfASecondIsNotARunOfItsOwn(t *testing.T) {
	t.Parallel()
	s, at := parse(t, "* * * * *", "UTC"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after time.Time
		want  time.Time
	}{{at.Add(-1), at}, {at, at.Add(time.Minute)}, {at.Add(1), at.Add(time.Minute)}} {
		if got := s.Next(c.after); !got.Equal(c.want) {
			t.Errorf("after %s comes %s", c.after, got)
		}
	}
}

func whatNoJobCanUseIsRefused(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"TZ=":                "goes into time_zone",
		"CRON_TZ=X":          "goes into time_zone",
		"TZ=UTC * * * * *":   "goes into time_zone",
		"":                   "is not a schedule",
		"hourly":             "is not a schedule",
		"0 0 0 * * *":        "is not a schedule",
		"60 * * * *":         "is not a schedule",
		"0 0 30 2 *":         "never comes",
		"0 0 31 2,4,6,9 *":   "never comes",
		", * * * *":          "one of its fields is empty",
		"* * , * ,":          "one of its fields is empty",
		"@every":             "is not a schedule",
		"@every day":         "is not a duration, such as 90s, 15m, 2h30m, 30d or 2w",
		"0 0 * * 8":          "is not a schedule",
		"0 0 * * 7-2":        "is not a schedule",
		"0 0 * * 5-7/0":      "is not a schedule",
		"0 0 * * -7":         "is not a schedule",
		"0 0 7 7 * 7":        "is not a schedule",
		"@every 1ms":         "less than a second",
		"@every -1h":         "is not a duration",
		"@every 1500ms":      "not a number of whole seconds",
		"@every 99999999999": "is not a schedule",
	} {
		if _, err := Parse(expr, "Europe/Berlin"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", expr, err)
		}
	}
	if _, err := Parse("@daily", "Europe/Berln"); err == nil || !strings.Contains(err.Error(), "not a time zone") {
		t.Errorf("%v", err)
	}
}

func sundayIsWeekdaySevenToo(t *testing.T) {
	t.Parallel()
	for expr, same := range map[string]string{
		"0 4 * * 7":       "0 4 * * 0",
		"0 4 * * 07":      "0 4 * * 0",
		"0 4 * * 7-7":     "0 4 * * 0",
		"0 4 * * 5-7":     "0 4 * * 5,6,0",
		"0 4 * * fri-7":   "0 4 * * 5,6,0",
		"0 4 * * 1-7/2":   "0 4 * * 1,3,5,0",
		"0 4 * * 1-7/3":   "0 4 * * 1,4,0",
		"0 4 * * 2-7/3":   "0 4 * * 2,5",
		"0 4 * * 1,7":     "0 4 * * 1,0",
		"0 4 * * 0-7":     "0 4 * * 0-6",
		"0 4 13 * 7":      "0 4 13 * 0",
		"0 4 13 * 1-7":    "0 4 13 * 0-6",
		"0  4\t7 7 *":     "0 4 7 7 *",
		"0 4 * * */7":     "0 4 * * 0",
		"0 4 * * 3-6":     "0 4 * * 3,4,5,6",
		"0 4 * * SUN,sat": "0 4 * * 0,6",
	} {
		got, want := parse(t, expr, "UTC"), parse(t, same, "UTC")
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for range 400 {
			if a, b := got.Next(at), want.Next(at); !a.Equal(b) {
				t.Errorf("%q comes at %s, and %q at %s", expr, a, same, b)
				break
			}
			at = want.Next(at)
		}
	}
}

func anIntervalIsADurationLikeAllOthers(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]time.Duration{"@every 1d": 24 * time.Hour, "@every 1w2d3h": (9*24 + 3) * time.Hour, "@every 90m": 90 * time.Minute} {
		at := time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
		s := parse(t, expr, "UTC")
		first := s.Next(at)
		if got := s.Next(first).Sub(first); got != want {
			t.Errorf("%q comes every %s, want %s", expr, got, want)
		}
	}
}
