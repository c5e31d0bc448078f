package generation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
)

// crash is an action that is killed at each of its points.
type crash struct {
	before []string // what was done
	act    string
	// after is which version may be live after the next command, by the point at which the
	// process was killed.
	after func(point string, killed bool) []int
	end   int // version after the action is repeated
}

func either(string, bool) []int { return []int{1, 2} }

func only(v int) func(string, bool) []int { return func(string, bool) []int { return []int{v} } }

var crashes = map[string]crash{
	"adopt":                  {nil, "adopt", only(1), 1},
	"switch":                 {[]string{"adopt"}, "switch", either, 2},
	"switch that goes back":  {[]string{"adopt"}, "fails", only(1), 1},
	"commit":                 {[]string{"adopt", "external"}, "commit", only(2), 2},
	"rollback":               {[]string{"adopt", "switch"}, "rollback", either, 1},
	"rollback of a trial":    {[]string{"adopt", "external"}, "rollback", either, 1},
	"release":                {[]string{"adopt", "switch"}, "release", only(2), 2},
	"release after a return": {[]string{"adopt", "switch", "rollback"}, "release", only(1), 1},
}

// After kill -9 at each point of each action, one complete generation is live; the next
// command finishes or cleans, and the action works then.
func TestKilledAtEachPoint(t *testing.T) { killedAtEachPoint(t, "link") }

func killedAtEachPoint(t *testing.T, method string) {
	for name, c := range crashes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.killedAtEachPoint(t, method)
		})
	}
}

// stride is from point to point: 1 where TestSlow runs, which leaves none out.
func stride(otherwise int) int {
	switch {
	case enginetest.Slow():
		return 1
	case testing.Short():
		return 2 * otherwise
	}
	return otherwise
}

func (c *crash) killedAtEachPoint(t *testing.T, method string) {
	met := 0
	for n := 1; ; n += stride(2) {
		w := newWorld(t, t.TempDir(), method)
		w.prepare(c.before)
		killed, out := w.elsewhere(c.act, n)
		w.afterCrash(c, killed, out)
		if killed == "" {
			break
		}
		met = n
	}
	if met == 0 {
		t.Error("no point was met")
	}
	t.Logf("point %d is the last that was met", met)
}

func (w *world) prepare(before []string) {
	w.t.Helper()
	for _, what := range before {
		var env []string
		if what == "external" {
			what, env = "switch", []string{"KNOWNGOOD_TEST_EXTERNAL=1"}
		}
		if _, out := w.elsewhere(what, 0, env...); out != "" {
			w.t.Fatalf("%s: %s", what, out)
		}
	}
}

// afterCrash judges what is there after an action that was killed at a point, or not.
func (w *world) afterCrash(c *crash, killed, out string) {
	t := w.t
	t.Helper()
	ctx := context.Background()
	v := w.live() // one complete version, whatever was done
	if killed == "" {
		if v != c.end {
			t.Errorf("version %d is live after %s, not %d: %s", v, c.act, c.end, out)
		}
		w.clean()
		return
	}
	if err := act(ctx, w, w.options(), "look"); err != nil && !errors.Is(err, ErrNotAdopted) {
		t.Fatalf("killed at %q, the next command fails: %v", killed, err)
	}
	v = w.live()
	if st, err := readState(w.gens()); err == nil && st != nil && st.Transaction != nil { // on trial, which nobody watches
		if !st.Transaction.Watching || v != 2 {
			t.Errorf("killed at %q: version %d is live, and under way is %+v", killed, v, *st.Transaction)
		}
		if c.act == "commit" || c.act == "rollback" {
			return
		}
		if err := act(ctx, w, w.options(), "rollback"); err != nil {
			t.Errorf("killed at %q: %v", killed, err)
		}
		v = w.live()
	}
	may := c.after(killed, true)
	if !strings.Contains(fmt.Sprint(may), fmt.Sprint(v)) {
		t.Errorf("killed at %q: version %d is live, want one of %v", killed, v, may)
	}
	w.clean()
	if c.act == "commit" || c.act == "rollback" {
		return // what it was about may be decided
	}
	err := act(ctx, w, w.options(), c.act)
	switch {
	case c.act == "release" && errors.Is(err, ErrNotAdopted), errors.Is(err, ErrLive), c.act == "fails" && errors.Is(err, ErrBack):
	case err != nil:
		t.Errorf("killed at %q, %s fails the next time: %v", killed, c.act, err)
	}
	if v := w.live(); v != c.end {
		t.Errorf("killed at %q: version %d is live in the end, want %d", killed, v, c.end)
	}
	w.clean()
	if c.act == "release" {
		if info, err := os.Lstat(w.root()); err != nil || !info.IsDir() {
			t.Errorf("killed at %q: the root is no directory after its release", killed)
		}
		if _, err := os.Lstat(w.gens()); err == nil {
			t.Errorf("killed at %q: %s is left", killed, w.gens())
		}
	}
}
