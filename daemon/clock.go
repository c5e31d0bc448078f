package daemon

import (
	"time"

	"knowngood/internal/schedule"
)

// onTime is how much later than it is due a run may begin, and not be late: the
// wall clock is looked at once a minute.
const onTime = 2 * time.Minute

// timing computes when a job is due. It reads no clock, and remembers nothing: the
// caller remembers, across crashes, which times are dealt with.
type timing struct {
	schedule *schedule.Schedule
	// offset is how long after each time of the schedule the job is due.
	offset time.Duration
	// catchUp is how late a run may begin: what was missed longer ago is left
	// out. 0 is never late.
	catchUp time.Duration
}

// dueNow is what to do at a moment.
type dueNow struct {
	at     time.Time // the scheduled time to run for; zero when there is none
	late   bool      // it was missed, and is made up for
	missed int       // times before it that the run stands for as well

	skipped   int       // times that were missed too long ago,
	skippedAt time.Time // the newest of them

	// from, unless it is zero, replaces the last scheduled time at once.
	from time.Time
	// next is when the job is due next, were all this done.
	next time.Time
}

// due returns what to do now of a job of which the times up to last are dealt
// with. However many were missed, the answer is one run. Counts end at
// schedule.MostMissed.
//
// Only the wall clock counts. When it was set back, times up to last are not
// run for again. But when another one lies between now and last, then last is
// of a clock that was wrong, or now is, and to wait for it could be to wait for
// years: what counts then is what comes after now. A new job, whose last is
// zero, begins with now likewise.
func (t *timing) due(last, now time.Time) dueNow {
	now = now.Round(0) // the monotonic clock knows no steps
	var d dueNow
	if last.IsZero() || last.After(now) && t.schedule.Next(now).Before(last) {
		last = now
		d.from = now
	}
	newest, count := t.schedule.Missed(last, now.Add(-t.offset))
	if count > 0 {
		last = newest
		behind := now.Sub(newest.Add(t.offset))
		if behind <= max(t.catchUp, onTime) {
			d.at, d.missed, d.late = newest, count-1, behind > onTime
		} else {
			d.skipped, d.skippedAt = count, newest
		}
	}
	d.next = t.schedule.Next(last).Add(t.offset)
	return d
}
