package retention

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden file anew")

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// items are numbered from 1 in the order of their times, which are written as
// "2026-11-20 10:00" with "good" after a known-good one and "partial" after a partial
// one.
func items(t *testing.T, loc *time.Location, times ...string) []Item {
	t.Helper()
	var out []Item
	for i, s := range times {
		s, good := strings.CutSuffix(s, " good")
		s, partial := strings.CutSuffix(s, " partial")
		at, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
		if err != nil {
			at, err = time.Parse(time.RFC3339, s)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Item{Number: uint64(i + 1), Time: at, KnownGood: good, Partial: partial})
	}
	return out
}

// lines are verdicts as the tables below write them: "3: newest, daily".
func lines(verdicts []Verdict) string {
	var out []string
	for _, v := range verdicts {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d: %s", v.Number, strings.Join(v.Reasons, ", "))))
	}
	return strings.Join(out, " | ")
}

func TestRetention(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"each rule keeps what it names": eachRuleKeepsWhatItNames,
		"nothing is kept of nothing":    nothingIsKeptOfNothing,
		"known-good without other rules forgets nothing where nothing is attested": knownGoodAloneForgetsNothingWhereNothingIsAttested,
		"a year of snapshots is thinned as in the golden file":                     aYearOfSnapshotsIsThinnedAsTheGoldenFileSays,
		"raising a number forgets no more":                                         raisingANumberForgetsNoMore,
		"what was kept is kept again":                                              whatWasKeptIsKeptAgain,
		"an older snapshot does not take the place of a newer one":                 anOlderSnapshotTakesNoNewerOnesPlace,
		"a time ahead of the clock changes nothing for others":                     aTimeAheadOfTheClockChangesNothingForOthers,
		"the newest is always kept and all are judged":                             theNewestIsAlwaysKeptAndAllAreJudged,
		"suspect snapshots have places of their own":                               suspectSnapshotsHavePlacesOfTheirOwn,
	} {
		t.Run(name, test)
	}
}

func eachRuleKeepsWhatItNames(t *testing.T) {
	for name, c := range map[string]struct {
		policy Policy
		zone   string
		times  []string
		want   string
	}{
		"a policy without rules keeps everything": {
			Policy{}, "UTC", []string{"2026-01-01 10:00", "2026-01-02 10:00"},
			"2: newest, no policy | 1: no policy",
		},
		"last counts snapshots": {
			Policy{Last: 2}, "UTC", []string{"2026-01-01 10:00", "2026-01-01 10:01", "2026-01-01 10:02"},
			"3: newest, last | 2: last | 1:",
		},
		"the newest is kept though no rule names it": {
			Policy{KnownGood: 1}, "UTC", []string{"2026-01-01 10:00 good", "2026-01-01 11:00 good", "2026-01-01 12:00"},
			"3: newest | 2: known-good | 1:",
		},
		"hours without snapshots are not counted": {
			Policy{Hourly: 2}, "UTC", []string{"2026-01-01 09:59", "2026-01-01 10:00", "2026-01-01 10:59", "2026-01-03 11:00"},
			"4: newest, hourly | 3: hourly | 2: | 1:",
		},
		"days are those of the zone": {
			Policy{Daily: 2}, "Asia/Tokyo", []string{"2026-01-01T14:59:00Z", "2026-01-01T15:00:00Z", "2026-01-02T14:59:00Z", "2026-01-02T15:00:00Z"},
			"4: newest, daily | 3: daily | 2: | 1:",
		},
		"weeks begin on Monday, and one of them lies in two years": {
			Policy{Weekly: 2}, "UTC", []string{"2026-12-27 10:00", "2026-12-28 10:00", "2027-01-03 10:00", "2027-01-04 10:00"},
			"4: newest, weekly | 3: weekly | 2: | 1:",
		},
		"months and years keep their last snapshot": {
			Policy{Monthly: 3, Yearly: 2}, "UTC", []string{"2025-11-30 10:00", "2025-12-31 10:00", "2026-01-01 10:00", "2026-01-31 23:59", "2026-02-01 00:00"},
			"5: newest, monthly, yearly | 4: monthly | 3: | 2: monthly, yearly | 1:",
		},
		"within counts from the newest, not from today": {
			Policy{Within: 24 * time.Hour}, "UTC", []string{"2020-01-01 09:59", "2020-01-01 10:00", "2020-01-02 10:00"},
			"3: newest, within | 2: within | 1:",
		},
		"known-good counts the attested ones alone": {
			Policy{KnownGood: 2}, "UTC", []string{"2026-01-01 10:00 good", "2026-01-02 10:00 good", "2026-01-03 10:00", "2026-01-04 10:00 good"},
			"4: newest, known-good | 3: | 2: known-good | 1:",
		},
		"the hour that daylight saving repeats is two hours": {
			Policy{Hourly: 3}, "Europe/Berlin", []string{"2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"},
			"4: newest, hourly | 3: hourly | 2: hourly | 1:",
		},
		"a day of 25 hours is one day": {
			Policy{Daily: 2}, "America/New_York", []string{"2026-10-31 12:00", "2026-11-01 00:00", "2026-11-01 23:59"},
			"3: newest, daily | 2: | 1: daily",
		},
		"a time ahead of the clock is kept, and takes no other's place": {
			Policy{Last: 1, Daily: 2, KnownGood: 1, Within: time.Hour}, "UTC",
			[]string{"2026-01-01 10:00 good", "2026-01-02 10:00", "2099-01-01 10:00 good", "2026-01-03 10:00"},
			"4: newest, last, daily, within | 3: ahead of the clock | 2: daily | 1: known-good",
		},
		"newer partial ones do not push out the newest complete one": {
			Policy{Last: 2, Daily: 1}, "UTC", []string{"2026-01-01 10:00", "2026-01-02 10:00", "2026-01-03 10:00 partial", "2026-01-03 11:00 partial", "2026-01-03 12:00 partial"},
			"5: newest, last, daily | 4: last | 3: | 2: newest complete | 1:",
		},
		"a partial one takes a place where a newer one is complete": {
			Policy{Last: 2}, "UTC", []string{"2026-01-01 10:00", "2026-01-02 10:00 partial", "2026-01-03 10:00"},
			"3: newest, last | 2: last | 1:",
		},
		"a complete one ahead of the clock does not stand for the newest complete one": {
			Policy{Last: 1}, "UTC", []string{"2026-01-01 10:00", "2099-01-01 10:00", "2026-01-03 10:00 partial"},
			"3: newest, last | 2: ahead of the clock | 1: newest complete",
		},
		"where all are partial the rules alone decide": {
			Policy{Last: 1}, "UTC", []string{"2026-01-01 10:00 partial", "2026-01-02 10:00 partial"},
			"2: newest, last | 1:",
		},
		"the newest is the one of the highest number, though a clock was set back": {
			Policy{Last: 1, Daily: 1}, "UTC", []string{"2026-01-01 10:00", "2026-01-02 10:00", "1970-01-01 00:00"},
			"3: newest, last | 2: daily | 1:",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loc := zone(t, c.zone)
			given := items(t, loc, c.times...)
			// The order in which they are given means nothing.
			slices.Reverse(given)
			given = append(given[len(given)/2:], given[:len(given)/2]...)
			now := time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)
			if got := lines(Apply(c.policy, given, now, loc)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func nothingIsKeptOfNothing(t *testing.T) {
	t.Parallel()
	if v := Apply(Policy{Last: 1}, nil, time.Now(), nil); len(v) != 0 {
		t.Errorf("%v", v)
	}
}

func knownGoodAloneForgetsNothingWhereNothingIsAttested(t *testing.T) {
	at := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	items := []Item{{Number: 1, Time: at}, {Number: 2, Time: at.Add(time.Hour)}, {Number: 3, Time: at.Add(2 * time.Hour)}}
	for _, v := range Apply(Policy{KnownGood: 5}, items, at.Add(24*time.Hour), nil) {
		if !v.Kept() {
			t.Errorf("%d is forgotten", v.Number)
		}
	}
}

// A host of Berlin that takes a snapshot each six hours, and proves the one of
// four in the morning on Sundays.
func aYearOfSnapshotsIsThinnedAsTheGoldenFileSays(t *testing.T) {
	t.Parallel()
	loc := zone(t, "Europe/Berlin")
	var given []Item
	at := time.Date(2025, 9, 1, 4, 0, 0, 0, loc)
	end := time.Date(2026, 11, 20, 17, 0, 0, 0, loc)
	for n := uint64(1); at.Before(end); n++ {
		given = append(given, Item{Number: n, Time: at, KnownGood: at.Weekday() == time.Sunday && at.Hour() == 4})
		at = time.Date(at.Year(), at.Month(), at.Day(), at.Hour()+6, 0, 0, 0, loc)
	}
	p := Policy{Last: 3, Hourly: 6, Daily: 7, Weekly: 5, Monthly: 6, Yearly: 3, Within: 36 * time.Hour, KnownGood: 2}
	var b strings.Builder
	for _, v := range Apply(p, given, end, loc) {
		if v.Kept() {
			fmt.Fprintf(&b, "%d %s: %s\n", v.Number, v.Time.Format("Mon 2006-01-02 15:04 MST"), strings.Join(v.Reasons, ", "))
		}
	}
	const file = "testdata/year.golden"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func drawPolicy(t *rapid.T) Policy {
	n := func(name string) int { return rapid.IntRange(0, 5).Draw(t, name) }
	p := Policy{Last: n("last"), Hourly: n("hourly"), Daily: n("daily"), Weekly: n("weekly"), Monthly: n("monthly"), Yearly: n("yearly"), KnownGood: n("known-good")}
	p.Within = time.Duration(n("within")) * 12 * time.Hour
	return p
}

// drawItems takes snapshots of a host whose clock goes wrong where it may.
func drawItems(t *rapid.T, wrong bool) []Item {
	var out []Item
	at := now.AddDate(-3, 0, 0)
	for i := range rapid.IntRange(1, 60).Draw(t, "items") {
		step := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 7 * time.Hour, 26 * time.Hour, 20 * 24 * time.Hour}).Draw(t, "step")
		at = at.Add(step)
		if at.After(now) && !wrong {
			break
		}
		it := Item{Number: uint64(i + 1), Time: at, KnownGood: rapid.Bool().Draw(t, "good"), Suspect: rapid.Bool().Draw(t, "suspect"), Partial: rapid.Bool().Draw(t, "partial")}
		if wrong && rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
			it.Time = now.AddDate(rapid.IntRange(-60, 60).Draw(t, "years"), 0, 0)
		}
		out = append(out, it)
	}
	return out
}

func kept(p Policy, given []Item) map[uint64]bool {
	out := make(map[uint64]bool)
	for _, v := range Apply(p, given, now, time.UTC) {
		if v.Kept() {
			out[v.Number] = true
		}
	}
	return out
}

// missing is a number of a that b lacks.
func missing(a, b map[uint64]bool) (uint64, bool) {
	for n := range a {
		if !b[n] {
			return n, true
		}
	}
	return 0, false
}

func only(given []Item, which map[uint64]bool) []Item {
	return slices.DeleteFunc(slices.Clone(given), func(it Item) bool { return !which[it.Number] })
}

func raisingANumberForgetsNoMore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, given := drawPolicy(t), drawItems(t, true)
		if p.Empty() {
			p.Last = 1
		}
		more := p
		switch rapid.IntRange(0, 7).Draw(t, "rule") {
		case 0:
			more.Last++
		case 1:
			more.Hourly++
		case 2:
			more.Daily++
		case 3:
			more.Weekly++
		case 4:
			more.Monthly++
		case 5:
			more.Yearly++
		case 6:
			more.KnownGood++
		case 7:
			more.Within += time.Hour
		}
		if n, ok := missing(kept(p, given), kept(more, given)); ok {
			t.Fatalf("%+v keeps %d, and %+v does not", p, n, more)
		}
	})
}

func whatWasKeptIsKeptAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, given := drawPolicy(t), drawItems(t, true)
		first := kept(p, given)
		if n, ok := missing(first, kept(p, only(given, first))); ok {
			t.Fatalf("%+v kept %d, and does not the second time", p, n)
		}
	})
}

func anOlderSnapshotTakesNoNewerOnesPlace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, given := drawPolicy(t), drawItems(t, false)
		if len(given) == 0 {
			return
		}
		if n, ok := missing(kept(p, given[1:]), kept(p, given)); ok {
			t.Fatalf("%+v keeps %d, but not once %d is there", p, n, given[0].Number)
		}
	})
}

func aTimeAheadOfTheClockChangesNothingForOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, given := drawPolicy(t), drawItems(t, false)
		if len(given) == 0 {
			return
		}
		ahead := Item{Number: uint64(rapid.IntRange(0, len(given)).Draw(t, "number")), Time: now.Add(time.Duration(rapid.Int64Range(1, 1<<60).Draw(t, "ahead"))), KnownGood: true}
		if n, ok := missing(kept(p, given), kept(p, append(slices.Clone(given), ahead))); ok && n != ahead.Number {
			t.Fatalf("%+v keeps %d, but not beside one of %s", p, n, ahead.Time)
		}
	})
}

func theNewestIsAlwaysKeptAndAllAreJudged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, given := drawPolicy(t), drawItems(t, true)
		out := Apply(p, given, now, time.UTC)
		if len(out) != len(given) || !slices.Contains(out[0].Reasons, Newest) || out[0].Number != uint64(len(given)) {
			t.Fatalf("%d of %d judged, the first %+v", len(out), len(given), out[0])
		}
		for i, v := range out[1:] {
			if v.Number >= out[i].Number {
				t.Fatalf("%d comes after %d", v.Number, out[i].Number)
			}
		}
	})
}

func suspectSnapshotsHavePlacesOfTheirOwn(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	items := func(suspect ...uint64) (out []Item) {
		for n := uint64(1); n <= 6; n++ {
			out = append(out, Item{Number: n, Time: at.Add(time.Duration(n) * time.Minute), Suspect: slices.Contains(suspect, n)})
		}
		return out
	}
	for name, c := range map[string]struct {
		policy  Policy
		suspect []uint64
		kept    []uint64 // the newest first
		waits   bool
	}{
		"none is":                          {Policy{Last: 2}, nil, []uint64{6, 5}, false},
		"the newest are":                   {Policy{Last: 2}, []uint64{4, 5, 6}, []uint64{6, 5, 3, 2}, true},
		"all but the first are":            {Policy{Last: 3}, []uint64{2, 3, 4, 5, 6}, []uint64{6, 5, 4, 1}, true},
		"some before the newest are":       {Policy{Last: 1}, []uint64{3, 4}, []uint64{6, 4}, false},
		"the newest of the hour is one":    {Policy{Hourly: 1}, []uint64{6}, []uint64{6, 5}, true},
		"one that no rule keeps, but last": {Policy{Within: time.Minute}, []uint64{6}, []uint64{6, 5, 4}, true},
	} {
		t.Run(name, func(t *testing.T) {
			verdicts := Apply(c.policy, items(c.suspect...), at.Add(time.Hour), nil)
			var kept []uint64
			for _, v := range verdicts {
				if v.Kept() {
					kept = append(kept, v.Number)
				}
			}
			if !slices.Equal(kept, c.kept) {
				t.Errorf("kept are %v, want %v", kept, c.kept)
			}
			if got := Wait(verdicts); got != c.waits {
				t.Errorf("it waits: %v", got)
			}
			for _, v := range verdicts {
				if c.waits && !v.Kept() {
					t.Errorf("%d is not kept while the newest is suspect", v.Number)
				}
			}
		})
	}
}
