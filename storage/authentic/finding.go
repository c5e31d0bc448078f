package authentic

import (
	"errors"
	"sync"
	"time"
)

// Kind of a finding.
type Kind int

// Kinds, by how bad they are.
const (
	Warning   Kind = iota // something that does not harm what is stored
	Damage                // an object is missing or does not verify
	Tampering             // the store shows something other than what is remembered, or hides it
)

// Finding is something wrong that was found and worked around.
type Finding struct {
	Kind            Kind
	Key             string    // of the object; empty when it is about none
	Expected, Found string    // of Tampering
	Since           time.Time // when the store took what was found; zero when that is not known
	Err             error     // all of it, for people
}

// FindingOf is the finding that an error is about.
func FindingOf(err error) Finding {
	f := Finding{Err: err}
	if damage, ok := errors.AsType[*DamageError](err); ok {
		f.Key = damage.Key
	}
	var tampering *TamperError
	switch {
	case errors.As(err, &tampering):
		f.Kind, f.Key, f.Expected, f.Found, f.Since = Tampering, tampering.Key, tampering.Remembered, tampering.Found, tampering.Since
	case Damaged(err):
		f.Kind = Damage
	}
	return f
}

// maxFindings is how many findings Findings keeps.
const maxFindings = 1000

// Findings collects findings, each text once, until they are taken. The zero value is
// empty; its methods may be called concurrently.
type Findings struct {
	mu   sync.Mutex
	list []Finding
	seen map[string]bool
}

// Add adds a finding.
func (c *Findings) Add(f Finding) {
	text := f.Err.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[text] || len(c.list) >= maxFindings {
		return
	}
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	c.seen[text] = true
	c.list = append(c.list, f)
}

// Take removes and returns what was added.
func (c *Findings) Take() []Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list, c.seen = nil, nil
	return list
}
