package console

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"knowngood/cmd/knowngood/human"
	"knowngood/storage/authentic"
)

func TestProblems(t *testing.T) {
	t.Parallel()
	denied := errors.New("permission denied")
	lost := func(key string) error {
		return &authentic.DamageError{Key: key, What: "pack", Err: errors.New("gone")}
	}
	many := func(n int, each func(add func(string, error), i int)) func(add func(string, error)) {
		return func(add func(string, error)) {
			for i := range n {
				each(add, i)
			}
		}
	}
	for name, c := range map[string]struct {
		found func(add func(path string, err error))
		want  string
	}{
		"none print nothing": {func(func(string, error)) {}, ""},
		"one is printed once": {func(add func(string, error)) { add("a", denied) },
			"knowngood: /a: permission denied\n"},
		"of different causes are each printed once": {func(add func(string, error)) { add("a", denied); add("b", errors.New("vanished")) },
			"knowngood: /a: permission denied\nknowngood: /b: vanished\n"},
		"of one cause are named up to four, in the order of paths": {many(4, func(add func(string, error), i int) { add(string("dcba"[i]), denied) }),
			"knowngood: /d: permission denied\n" +
				"knowngood: /a: permission denied\nknowngood: /b: permission denied\nknowngood: /c: permission denied\n"},
		"of one cause are counted from the fourth on when there are more": {many(68, func(add func(string, error), i int) { add(fmt.Sprintf("%02d", 67-i), denied) }),
			"knowngood: /67: permission denied\n" +
				"knowngood: /00: permission denied\nknowngood: /01: permission denied\nknowngood: /02: permission denied\nknowngood: and 64 more: permission denied\n"},
		"with the most frequent cause come first": {func(add func(string, error)) {
			add("a", errors.New("vanished"))
			many(5, func(add func(string, error), i int) { add(fmt.Sprint(i), denied) })(add)
		}, "knowngood: /a: vanished\nknowngood: /0: permission denied\n" +
			"knowngood: /1: permission denied\nknowngood: /2: permission denied\nknowngood: and 2 more: permission denied\n"},
		"that name their path or object in the text are of one cause": {many(9, func(add func(string, error), i int) {
			add(fmt.Sprint(i), fmt.Errorf("%q: %w", fmt.Sprintf("/%d", i), lost(fmt.Sprintf("packs/%d", i))))
		}), `knowngood: /0: "/0": damaged pack packs/0: gone
knowngood: /1: "/1": damaged pack packs/1: gone
knowngood: /2: "/2": damaged pack packs/2: gone
knowngood: and 6 more: …: damaged pack …: gone
`},
		"that name their path without quotes are of one cause, and other paths stay": {many(5, func(add func(string, error), i int) {
			add(fmt.Sprint(i), fmt.Errorf("as /%d.incomplete: see /%d0 and /x/%d (/%d)", i, 0, 0, i))
		}), `knowngood: /0: as /0.incomplete: see /00 and /x/0 (/0)
knowngood: /1: as /1.incomplete: see /00 and /x/0 (/1)
knowngood: /2: as /2.incomplete: see /00 and /x/0 (/2)
knowngood: and 2 more: as ….incomplete: see /00 and /x/0 (…)
`},
		"of more causes than are shown are counted": {many(30, func(add func(string, error), i int) { add(fmt.Sprintf("%02d", i), fmt.Errorf("cause %d", i)) }),
			func() string {
				var b strings.Builder
				for i := range atOnce {
					fmt.Fprintf(&b, "knowngood: /%02d: cause %d\n", i, i)
				}
				for i := atOnce; i < shownCauses; i++ {
					fmt.Fprintf(&b, "knowngood: /%02d: cause %d\n", i, i)
				}
				return b.String() + "knowngood: and 10 more of other causes: --json lists all\n"
			}()},
		"cannot make a terminal do things": {func(add func(string, error)) { add("a\x1b[2J", errors.New("bad\x1b[2J\nworse")) },
			"knowngood: \"/a\\x1b[2J\": bad\\x1b[2J; worse\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			l := New(&bytes.Buffer{}, &stderr).Problems()
			c.found(l.Add)
			l.End()
			l.End()
			if stderr.String() != c.want {
				t.Errorf("printed\n%swant\n%s", stderr.String(), c.want)
			}
		})
	}
	t.Run("are kept within bounds, and counted, by many at once", func(t *testing.T) {
		t.Parallel()
		var stderr bytes.Buffer
		l := New(&bytes.Buffer{}, &stderr).Problems()
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 5000 {
					l.Add(fmt.Sprint(i), fmt.Errorf("cause %d", i*4+w))
				}
			})
		}
		wg.Wait()
		l.End()
		if len(l.causes) != maxCauses || !strings.HasSuffix(stderr.String(), fmt.Sprintf("and %s more of other causes: --json lists all\n", human.Count(uint64(20001-strings.Count(stderr.String(), "\n"))))) {
			t.Errorf("%d causes are kept\n%s", len(l.causes), stderr.String())
		}
	})
}
