package bisect_test

import (
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"knowngood/snapshot/bisect"
)

// run searches among snapshots with these answers, and returns which it tested.
func run(t *rapid.T, contents []int, answer func(i int) bisect.Answer) (*bisect.Search, []int) {
	s := bisect.New(contents)
	var tested []int
	for i := s.Next(); i >= 0; i = s.Next() {
		if s.Known(i) != bisect.Unknown {
			t.Fatalf("%d is tested again", i)
		}
		if before := s.AtMost(); before < 1 {
			t.Fatalf("%d is tested, and at most %d tests were left", i, before)
		}
		tested = append(tested, i)
		s.Set(i, answer(i))
	}
	if s.AtMost() != 0 {
		t.Fatalf("at most %d tests are left after the end", s.AtMost())
	}
	return s, tested
}

// distinct are the contents of n snapshots that are all different.
func distinct(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func TestBisect(t *testing.T) {
	t.Run("good up to one point is found in logarithmically many tests", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(1, 3000).Draw(t, "snapshots")
			newest := rapid.IntRange(0, n-1).Draw(t, "newest good")
			first := bisect.New(distinct(n)).AtMost()
			s, tested := run(t, distinct(n), func(i int) bisect.Answer {
				if i <= newest {
					return bisect.Good
				}
				return bisect.Bad
			})
			if s.Newest() != newest {
				t.Fatalf("newest good is %d, want %d", s.Newest(), newest)
			}
			if s.Scanning() {
				t.Fatal("the answers contradict nothing")
			}
			if most := 2 + bits.Len(uint(max(0, n-2))); len(tested) > most || len(tested) > first {
				t.Fatalf("%d tests of %d snapshots, want at most %d (%d were announced)", len(tested), n, most, first)
			}
			if newest == n-1 && len(tested) != 1 {
				t.Fatalf("%d tests, though the newest is good", len(tested))
			}
		})
	})

	t.Run("runs of equal snapshots count as one", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			var contents []int
			groups := rapid.IntRange(1, 60).Draw(t, "groups")
			for g := range groups {
				for range rapid.IntRange(1, 20).Draw(t, "length") {
					contents = append(contents, g)
				}
			}
			good := rapid.IntRange(0, groups-1).Draw(t, "newest good group")
			s, tested := run(t, contents, func(i int) bisect.Answer {
				if contents[i] <= good {
					return bisect.Good
				}
				return bisect.Bad
			})
			if got := s.Newest(); contents[got] != good || got+1 < len(contents) && contents[got+1] == good {
				t.Fatalf("found %d of %v, want the last of group %d", got, contents, good)
			}
			if most := 2 + bits.Len(uint(max(0, groups-2))); len(tested) > most {
				t.Fatalf("%d tests of %d groups, want at most %d", len(tested), groups, most)
			}
		})
	})

	t.Run("whatever the answers the result is proven", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			contents := rapid.SliceOfN(rapid.IntRange(0, 12), 1, 24).Draw(t, "contents")
			answers := rapid.SliceOfN(rapid.SampledFrom([]bisect.Answer{bisect.Good, bisect.Bad, bisect.Untestable}), 13, 13).Draw(t, "answers")
			answer := func(i int) bisect.Answer { return answers[contents[i]] }
			s, tested := run(t, contents, answer)

			var distinct []int
			for _, i := range tested {
				if slices.Contains(distinct, contents[i]) {
					t.Fatalf("content %d was tested twice", contents[i])
				}
				distinct = append(distinct, contents[i])
			}
			got := s.Newest()
			if got < 0 {
				// No good one: nothing that can be tested was left out.
				for i := range contents {
					if answer(i) == bisect.Good || s.Known(i) == bisect.Unknown {
						t.Fatalf("no good one was found, and %d is %v, known as %v", i, answer(i), s.Known(i))
					}
				}
				return
			}
			if answer(got) != bisect.Good {
				t.Fatalf("%d is %v", got, answer(got))
			}
			// Between it and the next bad one there is nothing that could be tested, and
			// in a scan nothing that is newer.
			for i := got + 1; i < len(contents); i++ {
				if s.Known(i) == bisect.Unknown && !(slices.Contains(known(s, got, i), bisect.Bad) && !s.Scanning()) {
					t.Fatalf("%d was found, and %d was not tested", got, i)
				}
				if s.Scanning() && answer(i) == bisect.Good {
					t.Fatalf("%d was found by a scan, and %d is good", got, i)
				}
			}
		})
	})

	t.Run("contradictions are noticed", func(t *testing.T) {
		const g, b, u = bisect.Good, bisect.Bad, bisect.Untestable
		for _, c := range []struct {
			name     string
			contents []int
			answers  []bisect.Answer
			newest   int
			scanning bool
			tests    int
		}{
			{"the oldest is bad", []int{0, 1, 2, 3, 4}, []bisect.Answer{b, g, g, b, b}, 2, true, 4},
			{"all are bad", []int{0, 1, 2, 3}, []bisect.Answer{b, b, b, b}, -1, true, 4},
			{"the only one is bad", []int{0}, []bisect.Answer{b}, -1, true, 1},
			{"a good content comes back after a bad one", []int{0, 1, 2, 3, 1, 4}, []bisect.Answer{g, g, b, b, g, b}, 4, true, 5},
			{"nothing can be tested", []int{0, 1}, []bisect.Answer{u, u}, -1, false, 2},
			{"only a bad one can be tested", []int{0, 1, 2}, []bisect.Answer{u, b, u}, -1, true, 3},
			{"ends that cannot be tested", []int{0, 1, 2, 3, 4}, []bisect.Answer{u, g, g, b, u}, 2, false, 5},
			{"no snapshots", nil, nil, -1, false, 0},
		} {
			s, tests := bisect.New(c.contents), 0
			for i := s.Next(); i >= 0; i = s.Next() {
				tests++
				s.Set(i, c.answers[i])
			}
			if s.Newest() != c.newest || s.Scanning() != c.scanning || tests != c.tests {
				t.Errorf("%s: newest %d, scanning %v, %d tests; want %d, %v, %d", c.name, s.Newest(), s.Scanning(), tests, c.newest, c.scanning, c.tests)
			}
		}
	})
}

// known are the answers between two snapshots.
func known(s *bisect.Search, from, to int) (out []bisect.Answer) {
	for i := from + 1; i < to; i++ {
		out = append(out, s.Known(i))
	}
	return out
}
