package statement

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestNumbers(t *testing.T) {
	t.Run("numbers are a set", testNumbersAreASet)
}

func testNumbersAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Uint64Range(1, 40), 0, 30)
		a, b := some.Draw(t, "a"), some.Draw(t, "b")
		x, y := NumbersOf(a...), NumbersOf(b...)
		for what, s := range map[string]struct {
			set  Numbers
			want func(n uint64) bool
		}{
			"made of a list":         {x, func(n uint64) bool { return slices.Contains(a, n) }},
			"with another":           {x.With(y), func(n uint64) bool { return slices.Contains(a, n) || slices.Contains(b, n) }},
			"without another":        {x.Without(y), func(n uint64) bool { return slices.Contains(a, n) && !slices.Contains(b, n) }},
			"without what it gained": {x.With(y).Without(y), func(n uint64) bool { return slices.Contains(a, n) && !slices.Contains(b, n) }},
		} {
			count := uint64(0)
			for n := range uint64(45) {
				if s.set.Has(n) != s.want(n) {
					t.Fatalf("%s, %v has %v of %d", what, s.set, s.set.Has(n), n)
				}
				if s.want(n) {
					count++
				}
			}
			if s.set.Count() != count {
				t.Fatalf("%s, %v counts %d, want %d", what, s.set, s.set.Count(), count)
			}
			for i := range s.set {
				if i > 0 && s.set[i].First <= s.set[i-1].Last+1 {
					t.Fatalf("%s, ranges touch: %v", what, s.set)
				}
			}
		}
	})
}
