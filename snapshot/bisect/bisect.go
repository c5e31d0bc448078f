// Package bisect finds the newest good one of a sequence of snapshots with as few
// tests as possible. It is pure: the caller tests, and reports the answers.
//
// It tests both ends first. Where the oldest is good and the newest is bad, it halves
// what lies between, as if snapshots were good up to one point and bad from there on.
// Where the answers contradict that, it tests from the newest on until one is good.
// Snapshots of the same content have the same answer, and are tested once.
package bisect

import (
	"math/bits"
	"slices"
)

// Answer is what a test of a snapshot gave.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota // it was not tested
	Good
	Bad
	Untestable // it was tried, and nothing can be said of it
)

func (a Answer) String() string {
	return [...]string{"unknown", "good", "bad", "untestable"}[a]
}

// MarshalText returns the word for it.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Search is a search under way.
type Search struct {
	content []int // of each snapshot, the oldest first: equal numbers for equal content
	known   []Answer
}

// New begins a search among snapshots, the oldest first, which are given by what
// identifies their content.
func New[K comparable](contents []K) *Search {
	s := &Search{known: make([]Answer, len(contents))}
	numbers := map[K]int{}
	for _, c := range contents {
		n, ok := numbers[c]
		if !ok {
			n = len(numbers)
			numbers[c] = n
		}
		s.content = append(s.content, n)
	}
	return s
}

// Set reports the answer of the snapshot at i.
func (s *Search) Set(i int, a Answer) {
	for j, c := range s.content {
		if c == s.content[i] {
			s.known[j] = a
		}
	}
}

// Known is what is known of the snapshot at i.
func (s *Search) Known(i int) Answer { return s.known[i] }

// Newest is the newest snapshot that is known to be good; -1 for none.
func (s *Search) Newest() int {
	for i := len(s.known) - 1; i >= 0; i-- {
		if s.known[i] == Good {
			return i
		}
	}
	return -1
}

// Scanning reports whether the answers contradict that snapshots are good up to one
// point and bad from there on.
func (s *Search) Scanning() bool {
	for i, a := range s.known {
		if a == Bad {
			// A good one after it, or no good one before it where the oldest is known.
			return s.Newest() > i || s.Newest() < 0 && s.end(1) == i
		}
	}
	return false
}

// end is the first snapshot from an end of the sequence that can be tested, in steps
// of 1 from the oldest or of -1 from the newest; -1 for none.
func (s *Search) end(step int) int {
	i := 0
	if step < 0 {
		i = len(s.known) - 1
	}
	for ; i >= 0 && i < len(s.known); i += step {
		if s.known[i] != Untestable {
			return i
		}
	}
	return -1
}

// Next is the snapshot that is to be tested next; -1 when the search has ended.
func (s *Search) Next() int {
	newest := s.end(-1)
	switch {
	case newest < 0 || s.known[newest] == Good:
		return -1
	case s.known[newest] == Unknown:
		return newest
	}
	if oldest := s.end(1); s.known[oldest] == Unknown {
		return oldest
	}
	left := s.candidates()
	switch {
	case len(left) == 0:
		return -1
	case s.Scanning():
		return left[len(left)-1]
	}
	return left[len(left)/2]
}

// AtMost is how many tests are left at most, unless the answers contradict each
// other or snapshots cannot be tested.
func (s *Search) AtMost() int {
	left, newest := len(s.candidates()), s.end(-1)
	if newest < 0 || s.known[newest] == Good {
		return 0
	}
	if s.Scanning() {
		return left
	}
	ends := 0
	for _, end := range []int{newest, s.end(1)} {
		if s.known[end] == Unknown {
			ends++
		}
	}
	return min(left, ends+bits.Len(uint(max(left-ends, 0))))
}

// candidates are the snapshots of which one may be the newest good one, and nothing
// is known: of neighbours with the same content the newest.
func (s *Search) candidates() (out []int) {
	first := slices.Index(s.known, Bad)
	if first < 0 || s.Scanning() {
		first = len(s.known)
	}
	for i := s.Newest() + 1; i < first; i++ {
		if s.known[i] != Unknown {
			continue
		}
		if n := len(out); n > 0 && s.content[out[n-1]] == s.content[i] {
			out[n-1] = i
			continue
		}
		out = append(out, i)
	}
	return out
}
