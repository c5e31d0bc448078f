package repository

import (
	"fmt"
	"knowngood/storage/layout"
)

// serials are those of a sequence of statements as a listing shows it, the
// newest first.
type serials struct {
	newest uint64          // the highest that counts; 0 for none
	taken  map[uint64]bool // those above it that are there, and count for nothing
}

// pass notes a serial that is there. What counts for nothing is passed over,
// or whoever may put objects could end the sequence by putting the highest.
func (s *serials) pass(serial uint64, counts bool) {
	switch {
	case counts:
		s.newest = max(s.newest, serial)
	case serial > s.newest:
		if s.taken == nil {
			s.taken = map[uint64]bool{}
		}
		s.taken[serial] = true
	}
}

// next is the serial that a new statement may claim: the lowest free one above
// all that count. It is 0 when there is none.
func (s *serials) next() uint64 {
	for n := s.newest; n < layout.MaxNumber; {
		if n++; !s.taken[n] {
			return n
		}
	}
	return 0
}

// noSerialLeft is what next came to: nobody who keeps the rules gets there.
func noSerialLeft(host string) error {
	return &TamperError{What: "statements of host " + host, Remembered: "numbers that go up by one", Found: fmt.Sprintf("%d, the last there is", uint64(layout.MaxNumber)),
		Hint: "the host's key was taken: enrol it again with `knowngood init --join --reenrol`, which ends what that key signed"}
}
