package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"knowngood/internal/schedule"
)

func newTestTiming(t *testing.T, expr, zone string, offset, catchUp time.Duration) *timing {
	t.Helper()
	s, err := schedule.Parse(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return &timing{schedule: s, offset: offset, catchUp: catchUp}
}

func TestClock(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"what is due at a moment":                                 whatIsDueAtAMoment,
		"a new job begins with wall clock time":                   whatANewJobBeginsWithIsWallClockTime,
		"a year of waking sleeping and stepped clocks run by run": func(t *testing.T) { aYearOfWakingSleepingAndSteppedClocksRunByRun(t, false) },
		"a busy loop runs once for what it missed":                aLoopThatIsBusyRunsOnceForWhatItMissedMeanwhile,
		"each scheduled time is accounted for once":               eachScheduledTimeIsAccountedForOnce,
	} {
		t.Run(name, test)
	}
}

func whatIsDueAtAMoment(t *testing.T) {
	t.Parallel()
	const day = "2026-06-15 " // a Monday
	for name, c := range map[string]struct {
		expr            string
		offset, catchUp time.Duration
		last, now       string
		want            string
	}{
		"nothing before its time":      {"0 4 * * *", 0, 24 * time.Hour, day + "04:00:00", day + "12:00:00", "next 16 04:00:00"},
		"its time":                     {"*/15 * * * *", 0, 24 * time.Hour, day + "04:00:00", day + "04:15:00", "run 15 04:15:00, next 15 04:30:00"},
		"not before jitter has passed": {"*/15 * * * *", 90 * time.Second, 0, day + "04:00:00", day + "04:16:29", "next 15 04:16:30"},
		"when jitter has passed":       {"*/15 * * * *", 90 * time.Second, 0, day + "04:00:00", day + "04:16:30", "run 15 04:15:00, next 15 04:31:30"},
		"jitter longer than the interval puts all off, loses none": {"*/15 * * * *", time.Hour, 0, day + "04:00:00", day + "05:15:00", "run 15 04:15:00, next 15 05:30:00"},
		"two minutes behind is on time, though nothing is made up": {"0 * * * *", 0, 0, day + "04:00:00", day + "05:02:00", "run 15 05:00:00, next 15 06:00:00"},
		"later, nothing is made up":                                {"0 * * * *", 0, 0, day + "04:00:00", day + "05:02:01", "skip 1 up to 15 05:00:00, next 15 06:00:00"},
		"the night is one run":                                     {"0 * * * *", 0, 24 * time.Hour, "2026-06-14 20:00:00", day + "07:30:00", "late run 15 07:00:00 for 10 more, next 15 08:00:00"},
		"as late as may be":                                        {"0 4 * * *", 0, 6 * time.Hour, "2026-06-12 04:00:00", day + "10:00:00", "late run 15 04:00:00 for 2 more, next 16 04:00:00"},
		"too late":                                                 {"0 4 * * *", 0, 6 * time.Hour, "2026-06-12 04:00:00", day + "10:00:01", "skip 3 up to 15 04:00:00, next 16 04:00:00"},
		"a new job begins with now":                                {"0 4 * * *", 0, 24 * time.Hour, "", day + "04:00:01", "from 15 04:00:01, next 16 04:00:00"},
		"set back a little, the same time is not run for again":    {"0 4 * * *", 0, 24 * time.Hour, day + "04:00:00", day + "03:30:00", "next 16 04:00:00"},
		"set back within jitter":                                   {"0 4 * * *", time.Hour, 24 * time.Hour, day + "04:00:00", day + "04:30:00", "next 16 05:00:00"},
		"set back to just after the time before":                   {"0 4 * * *", 0, 24 * time.Hour, day + "04:00:00", "2026-06-14 04:00:00", "next 16 04:00:00"},
		"set back to before the time before":                       {"0 4 * * *", 0, 24 * time.Hour, day + "04:00:00", "2026-06-14 03:59:59", "from 14 03:59:59, next 14 04:00:00"},
		"a last time of a clock that was years ahead":              {"*/15 * * * *", time.Minute, 24 * time.Hour, "2099-01-01 00:00:00", day + "04:16:00", "from 15 04:16:00, next 15 04:31:00"},
		"a moment far ahead":                                       {"*/15 * * * *", 0, 24 * time.Hour, day + "04:00:00", "2099-01-01 00:05:00", "late run 01 00:00:00 for 999 more, next 01 00:15:00"},
	} {
		parse := func(s string) time.Time {
			at, err := time.Parse(time.DateTime, s)
			if err != nil && s != "" {
				t.Fatal(err)
			}
			return at
		}
		d := newTestTiming(t, c.expr, "UTC", c.offset, c.catchUp).due(parse(c.last), parse(c.now))
		if got := describe(d); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Times with a monotonic part are compared only by that, which would hide that
// the clock was set back.
func whatANewJobBeginsWithIsWallClockTime(t *testing.T) {
	t.Parallel()
	d := newTestTiming(t, "@daily", "UTC", 0, 0).due(time.Time{}, time.Now())
	if d.from.IsZero() || strings.Contains(d.from.String(), "m=") {
		t.Errorf("it is %s", d.from)
	}
}

func describe(d dueNow) string {
	const form = "02 15:04:05"
	var out []string
	if !d.from.IsZero() {
		out = append(out, "from "+d.from.Format(form))
	}
	if d.skipped > 0 {
		out = append(out, fmt.Sprintf("skip %d up to %s", d.skipped, d.skippedAt.Format(form)))
	}
	if !d.at.IsZero() {
		run := "run " + d.at.Format(form)
		if d.late {
			run = "late " + run
		}
		if d.missed > 0 {
			run += fmt.Sprintf(" for %d more", d.missed)
		}
		out = append(out, run)
	}
	return strings.Join(append(out, "next "+d.next.Format(form)), ", ")
}

// A timer of the daemon's loop counts monotonic time; the wall clock may do
// what it wants meanwhile. simulated is such a loop, with a job that takes no
// time, as its log shows.
type simulated struct {
	timing *timing
	zone   *time.Location
	ahead  time.Duration // of the wall clock before the bubble's
	last   time.Time     // what the state on disk holds
	check  time.Duration // how often it looks at the clock
	log    []string
}

func (s *simulated) now() time.Time { return time.Now().Add(s.ahead).In(s.zone) }

// tick is one look at the clock, and the sleep after it.
func (s *simulated) tick() {
	now := s.now()
	d := s.timing.due(s.last, now)
	const form = "2006-01-02 15:04:05 -0700"
	if !d.from.IsZero() {
		s.last = d.from
		s.log = append(s.log, "from "+now.Format(form))
	}
	if d.skipped > 0 {
		s.last = d.skippedAt
		s.log = append(s.log, fmt.Sprintf("%s skipped, %d in all", d.skippedAt.Format(form), d.skipped))
	}
	if !d.at.IsZero() {
		s.last = d.at
		line := d.at.Format(form) + " run after " + now.Sub(d.at).String()
		if d.late {
			line += fmt.Sprintf(", late, for %d more", d.missed)
		}
		s.log = append(s.log, line)
	}
	time.Sleep(min(s.check, d.next.Sub(now)))
}

// What happens in each zone's year, by its wall clock. The job is daily, so
// that each date without an entry in unusual has its one run.
var script = []struct {
	at string
	// until is what the clock shows next: after downtime, in which nothing
	// looks at it, or at once.
	until string
	down  bool
}{
	{at: "05-10 12:00", until: "05-12 08:00", down: true},
	{at: "06-10 12:00", until: "06-13 09:00", down: true},
	{at: "07-01 01:00", until: "07-03 03:00"}, // suspended
	{at: "07-20 02:45", until: "07-20 02:20"},
	{at: "08-20 12:00", until: "08-17 12:00"},
	{at: "09-20 01:00", until: "09-20 03:00"},
	{at: "12-10 12:00", until: "15-10 12:00"}, // months ahead: 15 is March
	{at: "15-10 12:10", until: "12-10 12:10"},
}

var unusual = map[string][]string{
	"05-11": nil,
	"05-12": {"05-12 02:30:00 run after 5h30m0s, late, for 1 more"},
	"06-11": nil, "06-12": nil,
	"06-13": {"06-13 02:30:00 skipped, 3 in all"},
	"07-01": nil, "07-02": nil,
	"07-03": {"07-03 02:30:00 run after 30m0s, late, for 2 more"},
	"08-20": {
		"08-20 02:30:00 run after 7m0s", "from 08-17 12:00:00",
		"08-18 02:30:00 run after 7m0s", "08-19 02:30:00 run after 7m0s", "08-20 02:30:00 run after 7m0s",
	},
	"09-20": {"09-20 02:30:00 run after 30m0s, late, for 0 more"},
	"12-10": {"12-10 02:30:00 run after 7m0s", "03-10 02:30:00 skipped, 90 in all", "from 12-10 12:10:00"},
}

// Where it is patient, the loop looks each minute of the year, and not only where
// something happens.
func aYearOfWakingSleepingAndSteppedClocksRunByRun(t *testing.T, patient bool) {
	for _, z := range []struct {
		zone  string
		edges map[string]string // dates on which 02:30 does not come, or comes twice
	}{
		{"UTC", nil},
		{"America/New_York", map[string]string{"03-08": "03:00:00 -0400"}},
		{"Europe/Berlin", map[string]string{"03-29": "03:00:00 +0200", "10-25": "02:30:00 +0200"}},
		{"Europe/London", nil},
		{"Australia/Lord_Howe", nil},
		{"Asia/Beirut", nil},
		{"Asia/Kathmandu", nil},
		{"Antarctica/Troll", map[string]string{"03-29": "03:00:00 +0200", "10-25": "02:30:00 +0200"}},
		{"Pacific/Auckland", map[string]string{"04-05": "02:30:00 +1300", "09-27": "03:00:00 +1300"}},
	} {
		t.Run(z.zone, func(t *testing.T) {
			loc, err := time.LoadLocation(z.zone)
			if err != nil {
				t.Fatal(err)
			}
			got := simulateYear(t, z.zone, loc, patient)
			want := expectYear(loc, z.edges)
			for i := range max(len(got), len(want)) {
				var g, w string
				if i < len(got) {
					g = got[i]
				}
				if i < len(want) {
					w = want[i]
				}
				if g != w {
					t.Fatalf("line %d: %q, want %q", i, g, w)
				}
			}
		})
	}
}

// moment is a local time of the year 2026 and the months after.
func moment(loc *time.Location, s string) time.Time {
	var month, day, hour, minute int
	if _, err := fmt.Sscanf(s, "%d-%d %d:%d", &month, &day, &hour, &minute); err != nil {
		panic(err)
	}
	return time.Date(2026, time.Month(month), day, hour, minute, 0, 0, loc)
}

func simulateYear(t *testing.T, zone string, loc *time.Location, patient bool) (log []string) {
	synctest.Test(t, func(t *testing.T) {
		s := &simulated{timing: newTestTiming(t, "30 2 * * *", zone, 7*time.Minute, 6*time.Hour), zone: loc}
		begin := moment(loc, "1-1 0:00")
		s.ahead = time.Until(begin)
		s.last = begin
		for _, e := range script {
			at := moment(loc, e.at)
			for s.now().Before(at) {
				s.check = time.Hour
				if patient || at.Sub(s.now()) < 24*time.Hour {
					s.check = time.Minute
				}
				s.tick()
			}
			until := moment(loc, e.until)
			if e.down {
				time.Sleep(until.Sub(s.now()))
				s.timing = newTestTiming(t, "30 2 * * *", zone, 7*time.Minute, 6*time.Hour)
			} else {
				s.ahead += until.Sub(s.now())
			}
		}
		for s.now().Year() == 2026 {
			s.check = time.Minute
			s.tick()
		}
		log = s.log
	})
	return log
}

func expectYear(loc *time.Location, edges map[string]string) []string {
	var out []string
	for date := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC); date.Year() == 2026; date = date.AddDate(0, 0, 1) {
		day := date.Format("01-02")
		lines, ok := unusual[day]
		if !ok {
			lines = []string{day + " 02:30:00 run after 7m0s"}
		}
		for _, l := range lines {
			from := strings.HasPrefix(l, "from ")
			l = strings.TrimPrefix(l, "from ")
			stamp, rest := l[:14], l[14:]
			year := 2026
			if strings.Contains(rest, "90 in all") {
				year = 2027
			}
			var at string
			if edge := edges[day]; edge != "" {
				at = fmt.Sprintf("%d-%s %s", year, day, edge)
			} else {
				local, err := time.ParseInLocation("2006-01-02 15:04:05", fmt.Sprintf("%d-%s", year, stamp), loc)
				if err != nil {
					panic(err)
				}
				at = local.Format("2006-01-02 15:04:05 -0700")
			}
			if from {
				at = "from " + at
			}
			out = append(out, at+rest)
		}
	}
	return out
}

func aLoopThatIsBusyRunsOnceForWhatItMissedMeanwhile(t *testing.T) {
	t.Parallel()
	tm := newTestTiming(t, "*/15 * * * *", "UTC", 0, 24*time.Hour)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ran []string
	last, now := begin, begin
	for now.Before(begin.Add(3 * time.Hour)) {
		d := tm.due(last, now)
		if d.at.IsZero() {
			now = d.next
			continue
		}
		ran = append(ran, fmt.Sprintf("%s at %s", d.at.Format("15:04"), now.Format("15:04")))
		last, now = d.at, now.Add(40*time.Minute)
	}
	want := []string{"00:15 at 00:15", "00:45 at 00:55", "01:30 at 01:35", "02:15 at 02:15", "02:45 at 02:55"}
	if !slices.Equal(ran, want) {
		t.Errorf("%q", ran)
	}
}

func eachScheduledTimeIsAccountedForOnce(t *testing.T) {
	t.Parallel()
	s, err := schedule.Parse("*/20 0-9 * * *", "Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tm := &timing{schedule: s,
			offset:  time.Duration(rapid.IntRange(0, 3000).Draw(t, "offset")) * time.Second,
			catchUp: time.Duration(rapid.IntRange(0, 48).Draw(t, "catch up")) * time.Hour}
		begin := time.Date(2026, 3, 25, 0, 0, 0, 0, time.UTC)
		last, now, sum := begin, begin, 0
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40*60*60).Draw(t, "seconds")) * time.Second)
			for d := tm.due(last, now); !d.at.IsZero() || d.skipped > 0; d = tm.due(last, now) {
				if !d.at.IsZero() {
					last, sum = d.at, sum+1+d.missed
				} else {
					last, sum = d.skippedAt, sum+d.skipped
				}
				if !d.next.After(now) {
					t.Fatalf("at %s the next is due at %s, and is not run for", now, d.next)
				}
			}
		}
		want := 0
		for at := s.Next(begin); !at.Add(tm.offset).After(now); at = s.Next(at) {
			want++
		}
		if sum != want {
			t.Fatalf("%d of %d times are accounted for", sum, want)
		}
	})
}
