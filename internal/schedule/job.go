package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// MostMissed is where Missed stops counting.
const MostMissed = 1000

// Missed is the newest time in (last, now] at which the schedule fired, and how
// many there are, counted up to MostMissed. Without any, it is the zero time.
func (s *Schedule) Missed(last, now time.Time) (due time.Time, count int) {
	for at := s.Next(last); count < MostMissed && !at.IsZero() && !at.After(now); at = s.Next(at) {
		due = at
		count++
	}
	if count < MostMissed {
		return due, count
	}
	// There may be millions. Before the newest there is always a next one, and
	// from it on none that is not after now.
	before, from := due.Unix()-1, now.Unix()
	for from-before > 1 {
		mid := before + (from-before)/2
		if s.Next(time.Unix(mid, 0)).After(now) {
			from = mid
		} else {
			before = mid
		}
	}
	return time.Unix(from, 0).In(s.loc), count
}

// Offset is how long a job of a machine waits after each time at which it
// fires: whole seconds, less than most. It is always the same, so that the
// times between runs are those of the schedule, and spreads machines of one
// configuration over most. (systemd's FixedRandomDelay= is the model.)
func Offset(machine, job string, most time.Duration) time.Duration {
	seconds := uint64(most / time.Second)
	if most < time.Second {
		return 0
	}
	sum := sha256.Sum256([]byte(machine + "\x00" + job))
	return time.Duration(binary.BigEndian.Uint64(sum[:])%seconds) * time.Second
}
