// Package places bounds how many runs do their work at once.
package places

import (
	"context"
	"slices"
	"sync"
)

// Places are slots for so many runs at once. Those that wait get one in turn.
type Places struct {
	mu      sync.Mutex
	limit   int
	taken   int             // may be above a limit that was lowered since
	waiting []chan struct{} // closed when a place was given; none waits while one is free
}

// Resize changes how many there are. Nobody loses a place.
func (p *Places) Resize(limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = limit
	p.give()
}

// give gives free places to those who wait; mu is held.
func (p *Places) give() {
	for p.taken < p.limit && len(p.waiting) > 0 {
		p.taken++
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// Leave gives a place back.
func (p *Places) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.give()
}

// Try takes a place if one is free.
func (p *Places) Try() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.taken < p.limit
	if free {
		p.taken++
	}
	return free
}

// Take waits for a place.
func (p *Places) Take(ctx context.Context) error {
	if p.Try() {
		return nil
	}
	given := make(chan struct{})
	p.mu.Lock()
	p.waiting = append(p.waiting, given)
	p.give() // one may have become free in between
	p.mu.Unlock()
	select {
	case <-given:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	at := slices.Index(p.waiting, given)
	if at >= 0 {
		p.waiting = slices.Delete(p.waiting, at, at+1)
	}
	p.mu.Unlock()
	if at < 0 { // it was given meanwhile
		p.Leave()
	}
	return context.Cause(ctx)
}
