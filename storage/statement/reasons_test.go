package statement

import (
	"fmt"
	"strings"
	"testing"
)

func TestReasons(t *testing.T) {
	t.Parallel()
	t.Run("a tombstone carries the reasons of what stays forgotten", testATombstoneCarriesTheReasonsOfWhatStaysForgotten)
	t.Run("reasons stay short and older snapshots lose theirs first", testReasonsStayShortAndOlderSnapshotsLoseTheirsFirst)
}

func testATombstoneCarriesTheReasonsOfWhatStaysForgotten(t *testing.T) {
	t.Parallel()
	var last *Tombstone
	change := func(forgotten Numbers, reason string) {
		x := &Tombstone{Forgotten: forgotten, Reason: reason}
		x.SetReasons(last)
		last = x
	}
	wants := func(wants map[uint64]string) {
		t.Helper()
		for n, want := range wants {
			if got := last.ReasonOf(n); got != want {
				t.Errorf("the reason of %d is %q, want %q", n, got, want)
			}
		}
	}
	change(Numbers{{1, 3}}, "policy")
	change(Numbers{{1, 4}}, "secret")
	change(Numbers{{1, 5}}, "")
	change(Numbers{{1, 7}}, "policy")
	wants(map[uint64]string{1: "policy", 3: "policy", 4: "secret", 5: "", 6: "policy", 7: "policy", 8: ""})

	// What was taken back and forgotten again has its new reason.
	change(Numbers{{1, 2}, {5, 7}}, "")
	wants(map[uint64]string{2: "policy", 3: "", 4: "", 6: "policy"})
	change(Numbers{{1, 7}}, "again")
	wants(map[uint64]string{2: "policy", 3: "again", 4: "again", 5: ""})
}

func testReasonsStayShortAndOlderSnapshotsLoseTheirsFirst(t *testing.T) {
	t.Parallel()
	var last *Tombstone
	for i := range uint64(100) {
		var forgotten Numbers
		if last != nil {
			forgotten = last.Forgotten
		}
		x := &Tombstone{Forgotten: forgotten.With(NumbersOf(2*i + 1)), Reason: strings.Repeat("x", maxReason-10) + fmt.Sprintf("%03d", i)}
		x.SetReasons(last)
		last = x
	}
	if n := reasonBytes(last.Reasons); n > maxReasonBytes || len(last.Reasons) < 10 {
		t.Errorf("%d reasons of %d bytes", len(last.Reasons), n)
	}
	if last.ReasonOf(199) == "" || last.ReasonOf(1) != "" {
		t.Error("the newest lost its reason before the oldest")
	}
}
