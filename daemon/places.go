package daemon

import (
	"context"
	"slices"
	"sync"
)

// places bounds how many runs do their work at once. Who waits gets one in turn.
type places struct {
	mu      sync.Mutex
	limit   int
	taken   int             // may be above a limit that was lowered since
	waiting []chan struct{} // closed when a place was given; none waits while one is free
}

// resize changes how many there are. Nobody loses a place.
func (p *places) resize(limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = limit
	p.give()
}

// give gives free places to those who wait; mu is held.
func (p *places) give() {
	for p.taken < p.limit && len(p.waiting) > 0 {
		p.taken++
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// leave gives a place back.
func (p *places) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.give()
}

// try takes a place if one is free.
func (p *places) try() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.taken < p.limit
	if free {
		p.taken++
	}
	return free
}

// take waits for a place.
func (p *places) take(ctx context.Context) error {
	if p.try() {
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
		p.leave()
	}
	return context.Cause(ctx)
}
