// Package schedule computes when jobs run. It is pure: it reads no clock and starts
// nothing.
//
// The expressions are those of robfig/cron: five fields or a descriptor such
// as @daily, with weekday 7 for Sunday, as in crontab(5), besides 0. When the clocks change, its own reckoning leaves runs out and
// repeats others, so this package asks it only about a clock face that never
// changes, and maps what it answers to the clocks of the zone:
//
//   - A local time that does not exist fires at the end of the gap; several
//     such times, and the end of the gap itself, are one run.
//   - A local time that comes twice fires the first time.
//   - An expression for all 24 hours, such as "*/15 * * * *", means an interval,
//     and follows real time: it fires in both of two equal hours, and what falls
//     into a gap is left out, because the time did not pass. (Vixie cron makes the
//     same difference.)
//
// "@every 90m", or "@every 1d", fires at the multiples of its interval since 1970 in UTC, so
// that neither restarts nor zones move it.
package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"knowngood/internal/duration"
)

// Schedule is a parsed expression. It is immutable.
type Schedule struct {
	every time.Duration      // of @every; else
	face  *cron.SpecSchedule // in UTC, standing for any clock face
	loc   *time.Location
	real  bool // follows real time
}

// Parse reads a cron expression, to be understood in a time zone ("" is UTC).
// It refuses what the parser takes but no job can use: a zone in the
// expression (the parser panics on an empty one), dates that never come, and
// intervals that are not of whole seconds, which it would change.
func Parse(expr, zone string) (*Schedule, error) {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time zone, such as Europe/Berlin or UTC", zone)
	}
	if strings.HasPrefix(expr, "TZ=") || strings.HasPrefix(expr, "CRON_TZ=") {
		return nil, fmt.Errorf("%q: the time zone goes into time_zone", expr)
	}
	if every, ok := strings.CutPrefix(expr, "@every "); ok {
		return parseEvery(expr, every, loc)
	}

	parsed, err := cron.ParseStandard(sundays(expr))
	if err != nil {
		return nil, fmt.Errorf("%q is not a schedule, such as \"*/15 * * * *\" (minute hour day month weekday) or \"@every 1h\": %w", expr, err)
	}
	s := &Schedule{loc: loc, face: parsed.(*cron.SpecSchedule)}
	s.face.Location = time.UTC
	const all = 1<<24 - 1
	s.real = s.face.Hour&all == all
	if slices.Contains([]uint64{s.face.Minute, s.face.Hour, s.face.Dom, s.face.Month, s.face.Dow}, 0) {
		return nil, fmt.Errorf("%q never comes: one of its fields is empty", expr)
	}
	if _, ok := s.next(0); !ok {
		return nil, fmt.Errorf("%q never comes", expr)
	}
	return s, nil
}

// parseEvery reads an interval, the duration after "@every ".
func parseEvery(expr, every string, loc *time.Location) (*Schedule, error) {
	d, err := duration.Parse(every)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a schedule: %w", expr, err)
	case d < time.Second:
		return nil, fmt.Errorf("%q is less than a second", expr)
	case d%time.Second != 0:
		return nil, fmt.Errorf("%q is not a number of whole seconds", expr)
	}
	return &Schedule{every: d, loc: loc}, nil
}

// Next is the first time after another at which the schedule fires, in its
// zone.
func (s *Schedule) Next(after time.Time) time.Time {
	from := after.Unix() + 1
	if every := int64(s.every / time.Second); every > 0 {
		return time.Unix(floor(from-1, every)+every, 0).In(s.loc)
	}
	for {
		p := s.period(from)
		low := from + p.offset
		if !s.real {
			low = max(low, p.reached)
			if from == p.start {
				low = p.reached // what the gap left out fires now
			}
		}
		c, ok := s.next(low)
		if !ok {
			return time.Time{}
		}
		if at := max(c-p.offset, p.start); at < p.end {
			return time.Unix(at, 0).In(s.loc)
		}
		from = p.end
	}
}

// next is the first matching time of the clock face that is not before low.
func (s *Schedule) next(low int64) (int64, bool) {
	t := time.Unix(low-1, 0).UTC()
	// The parser looks five years ahead. Leap days are eight apart around
	// 2100, and nothing that comes at all comes less often.
	for range 3 {
		if n := s.face.Next(t); !n.IsZero() {
			return n.Unix(), true
		}
		t = t.AddDate(5, 0, 0)
	}
	return 0, false
}

// floor is the greatest multiple of n that is not above x.
func floor(x, n int64) int64 {
	m := x % n
	if m < 0 {
		m += n
	}
	return x - m
}
