package schedule

import (
	"math"
	"time"
)

// The zero times of time.ZoneBounds. They leave room for offsets.
const (
	ever  = math.MinInt64 / 2
	never = math.MaxInt64 / 2
)

// period is a time in which the clocks of a zone do not change: from start on,
// and before end, in seconds since 1970. The clock face shows offset more.
// Periods may be parts of longer ones.
type period struct {
	start, end, offset int64
	// reached is where the clock face had come before start. It is less than
	// start+offset when the clocks went forward, and more when they went back.
	reached int64
}

// lookBack is longer than clocks have ever been set back: times that lie
// further before a change cannot come again after it.
const lookBack = 2 * day

const day = 24 * 60 * 60

// period finds the one that a moment lies in.
func (s *Schedule) period(at int64) period {
	p := s.bounds(at)
	p.reached = p.start + p.offset
	if p.start == ever {
		return p
	}
	p.reached = ever
	for change := p.start; change > p.start-lookBack; {
		before := s.bounds(change - 1)
		p.reached = max(p.reached, change+before.offset)
		change = before.start
	}
	return p
}

// bounds are what the time package returns, which is right about starts. Where a
// zone file leaves the future to a rule, it ends each period with its year, and
// takes that for 365 days: on the last of a leap year, the end has passed.
func (s *Schedule) bounds(at int64) period {
	t := time.Unix(at, 0).In(s.loc)
	_, offset := t.Zone()
	p := period{start: ever, end: never, offset: int64(offset)}
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		p.start = start.Unix()
	}
	if !end.IsZero() {
		p.end = end.Unix()
	}
	if p.end <= at {
		p.end = floor(at, day) + day
	}
	return p
}
