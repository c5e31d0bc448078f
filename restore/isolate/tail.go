package isolate

import (
	"bytes"
	"slices"
	"sync"
)

// Tail keeps the end of what is written to it, and finds a text anywhere in it. It may
// be used by several goroutines.
type Tail struct {
	Most int    // bytes that are kept
	Want string // to find, of at most Most bytes; "" for nothing

	mu    sync.Mutex
	end   []byte
	found bool
}

// Write implements io.Writer. It never fails.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Want != "" && !t.found {
		before := t.end[max(0, len(t.end)-len(t.Want)+1):]
		t.found = bytes.Contains(slices.Concat(before, b), []byte(t.Want))
	}
	t.end = append(t.end, b[max(0, len(b)-t.Most):]...)
	t.end = t.end[max(0, len(t.end)-t.Most):]
	return len(b), nil
}

// Found reports whether Want was written.
func (t *Tail) Found() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.found
}

// String is what is kept.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}
