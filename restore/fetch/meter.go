package fetch

import (
	"sync"
	"time"
)

// Meter measures for how long at least one range was being read from the store. Its
// zero value is ready, and safe for concurrent use.
type Meter struct {
	mu       sync.Mutex
	underWay int
	since    time.Time
	total    time.Duration
}

func (m *Meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underWay++; m.underWay == 1 {
		m.since = time.Now()
	}
}

func (m *Meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underWay--; m.underWay == 0 {
		m.total += time.Since(m.since)
	}
}

// Total is the time until now, without the reads that are under way.
func (m *Meter) Total() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}
