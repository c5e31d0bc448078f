// Package retention decides which snapshots of an environment a policy keeps.
// It is pure: it reads no clock and no store, and forgets nothing itself.
//
// Every rule adds to what is kept, none takes away, so raising a number never
// forgets more. The newest snapshot is kept by every policy, and a
// policy without rules keeps everything.
//
// Clocks go wrong, numbers do not: "newest", last and known-good go by number,
// and the rules of the calendar by time. A snapshot whose time lies ahead of
// now cannot be judged by its age: it is kept, and takes no place that another
// snapshot would have had. Nor does a suspect one: such snapshots have places of
// their own, by the same rules.
//
// A partial snapshot takes a place like a complete one. So that newer partial ones
// do not push out what they lack, the newest complete snapshot is always kept.
package retention

import (
	"cmp"
	"slices"
	"time"
)

// Policy is how many snapshots are kept; 0 of a rule is none by that rule.
type Policy struct {
	Last int // by number

	// The newest snapshot of each of so many hours, days, weeks, months and
	// years, of those that have any.
	Hourly, Daily, Weekly, Monthly, Yearly int

	// Within keeps all that are at most that much older than the newest: of a
	// host that was off for a year, the last days are kept as they were.
	Within time.Duration

	KnownGood int // of the attested ones, by number
}

// Empty reports whether the policy has no rule, and so keeps everything.
func (p Policy) Empty() bool {
	return max(p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly, p.KnownGood) <= 0 && p.Within <= 0
}

// Item is a snapshot of the one environment that a policy is applied to.
type Item struct {
	Number    uint64
	Time      time.Time
	KnownGood bool
	// Suspect means that a source of it collapsed, and nobody accepted that.
	Suspect bool
	// Doubtful means that its time is not what it claims: it is kept, and takes no
	// place of another.
	Doubtful bool
	// Partial means that it lacks what could not be read.
	Partial bool
}

// Verdict is what becomes of an item. Without reasons it is not kept.
type Verdict struct {
	Item
	Reasons []string
}

// Kept reports whether the item is kept.
func (v Verdict) Kept() bool { return len(v.Reasons) > 0 }

// Reasons that are not the name of a rule.
const (
	Newest   = "newest"
	Complete = "newest complete"
	Ahead    = "ahead of the clock"
	NoPolicy = "no policy"
	// TimesDisagree is why a doubtful one is kept.
	TimesDisagree = "its time is not that of the store"
	// Waiting is what Wait keeps.
	Waiting = "the newest is suspect"
)

// Apply judges all items, and returns them by number, the newest first. Hours,
// days, weeks (which begin on Monday), months and years are those of loc, UTC
// when it is nil; an hour that the end of daylight saving repeats is two.
func Apply(p Policy, items []Item, now time.Time, loc *time.Location) []Verdict {
	loc = cmp.Or(loc, time.UTC)
	out := make([]Verdict, len(items))
	for i, it := range items {
		out[i].Item = it
	}
	slices.SortStableFunc(out, func(a, b Verdict) int {
		return cmp.Or(cmp.Compare(b.Number, a.Number), b.Time.Compare(a.Time))
	})
	// Where nothing is attested, a policy of only known-good snapshots names
	// nothing that is to be kept, which is no reason to forget all the others.
	attested := p.KnownGood > 0 && slices.ContainsFunc(items, func(it Item) bool { return it.KnownGood })
	rest := p
	rest.KnownGood = 0
	none := rest.Empty() && !attested

	var good, suspect []*Verdict
	for i := range out {
		v := &out[i]
		if i == 0 {
			v.keep(Newest)
		}
		switch {
		case none:
			v.keep(NoPolicy)
		case v.Doubtful:
			v.keep(TimesDisagree)
		case v.Time.After(now):
			v.keep(Ahead)
		case v.Suspect:
			suspect = append(suspect, v)
		default:
			good = append(good, v)
		}
	}

	var newestComplete *Verdict
	if i := slices.IndexFunc(good, func(v *Verdict) bool { return !v.Partial }); i >= 0 {
		newestComplete = good[i]
	}
	for _, judged := range [][]*Verdict{good, suspect} {
		byNumber(p, judged)
		slices.SortStableFunc(judged, func(a, b *Verdict) int { return b.Time.Compare(a.Time) })
		byTime(p, judged, loc)
	}
	if newestComplete != nil && !newestComplete.Kept() {
		newestComplete.keep(Complete)
	}
	return out
}

// Wait keeps all that a policy would forget while the newest snapshot is
// suspect, and reports whether it is: nothing is forgotten then, until somebody
// accepts one, or the next is as the good ones were.
func Wait(verdicts []Verdict) bool {
	if len(verdicts) == 0 || !verdicts[0].Suspect {
		return false
	}
	for i := range verdicts {
		if v := &verdicts[i]; !v.Kept() {
			v.keep(Waiting)
		}
	}
	return true
}

func (v *Verdict) keep(reason string) { v.Reasons = append(v.Reasons, reason) }

// byNumber applies the rules that count snapshots, newest first.
func byNumber(p Policy, judged []*Verdict) {
	good := 0
	for i, v := range judged {
		if i < p.Last {
			v.keep("last")
		}
		if v.KnownGood && good < p.KnownGood {
			v.keep("known-good")
			good++
		}
	}
}

// byTime applies the rules of the calendar, latest first.
func byTime(p Policy, judged []*Verdict, loc *time.Location) {
	for _, r := range []struct {
		name   string
		count  int
		period func(time.Time) period
	}{
		{"hourly", p.Hourly, hour}, {"daily", p.Daily, day}, {"weekly", p.Weekly, week},
		{"monthly", p.Monthly, month}, {"yearly", p.Yearly, year},
	} {
		seen := make(map[period]bool)
		for _, v := range judged {
			if len(seen) >= r.count {
				break
			}
			if at := r.period(v.Time.In(loc)); !seen[at] {
				seen[at] = true
				v.keep(r.name)
			}
		}
	}
	for _, v := range judged {
		if p.Within > 0 && judged[0].Time.Sub(v.Time) <= p.Within {
			v.keep("within")
		}
	}
}

// period identifies an hour, a day, … of a calendar.
type period [5]int

func hour(t time.Time) period {
	_, offset := t.Zone()
	return period{t.Year(), int(t.Month()), t.Day(), t.Hour(), offset}
}

func day(t time.Time) period { return period{t.Year(), int(t.Month()), t.Day()} }

func week(t time.Time) period {
	y, w := t.ISOWeek()
	return period{y, w}
}

func month(t time.Time) period { return period{t.Year(), int(t.Month())} }

func year(t time.Time) period { return period{t.Year()} }
