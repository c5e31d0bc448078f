package report

import (
	"slices"
	"strings"
	"testing"
)

func TestReasons(t *testing.T) {
	t.Parallel()

	t.Run("fit a state", func(t *testing.T) {
		t.Parallel()
		long := strings.Repeat("x", MaxError/2)
		if got := BoundReasons([]string{long, long, "c", "d"}); len(got) != 3 || got[2] != "and 2 more" {
			t.Errorf("%d reasons, the last %q", len(got), got[len(got)-1])
		}
		if got := BoundReasons([]string{"a", "b"}); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("bounded are %q", got)
		}
	})
}
