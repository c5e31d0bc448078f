package inventory

import (
	"math"
	"time"
)

// Moment is a point in time on two clocks: people set the one, and a machine
// that starts again begins the other again.
type Moment struct {
	Wall time.Time
	// Boot is the time since the machine started, sleep included.
	Boot time.Duration
	// BootID names that start; zero when it is not known.
	BootID [16]byte
}

// Since is how long ago an earlier moment was, by the clock that shows longer. A
// moment that lies in the future by the only clock that there is was very long
// ago: nobody knows when.
func (m Moment) Since(earlier Moment) time.Duration {
	wall := m.Wall.Round(0).Sub(earlier.Wall.Round(0))
	if m.BootID == earlier.BootID && m.BootID != [16]byte{} {
		return max(wall, m.Boot-earlier.Boot)
	}
	if wall < 0 {
		return math.MaxInt64
	}
	return wall
}
