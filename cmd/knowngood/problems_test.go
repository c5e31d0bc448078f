package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"knowngood/snapshot/manifest"
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
			"knowngood: /d: permission denied\nknowngood: 4 problems, by cause:\n" +
				"knowngood: /a: permission denied\nknowngood: /b: permission denied\nknowngood: /c: permission denied\nknowngood: /d: permission denied\n"},
		"of one cause are counted from the fourth on when there are more": {many(68, func(add func(string, error), i int) { add(fmt.Sprintf("%02d", 67-i), denied) }),
			"knowngood: /67: permission denied\nknowngood: 68 problems, by cause:\n" +
				"knowngood: /00: permission denied\nknowngood: /01: permission denied\nknowngood: /02: permission denied\nknowngood: and 65 more: permission denied\n"},
		"with the most frequent cause come first": {func(add func(string, error)) {
			add("a", errors.New("vanished"))
			many(5, func(add func(string, error), i int) { add(fmt.Sprint(i), denied) })(add)
		}, "knowngood: /a: vanished\nknowngood: /0: permission denied\nknowngood: 6 problems, by cause:\n" +
			"knowngood: /0: permission denied\nknowngood: /1: permission denied\nknowngood: /2: permission denied\nknowngood: and 2 more: permission denied\n" +
			"knowngood: /a: vanished\n"},
		"that name their path or object in the text are of one cause": {many(9, func(add func(string, error), i int) {
			add(fmt.Sprint(i), fmt.Errorf("%q: %w", fmt.Sprintf("/%d", i), lost(fmt.Sprintf("packs/%d", i))))
		}), `knowngood: /0: "/0": damaged pack packs/0: gone
knowngood: 9 problems, by cause:
knowngood: /0: "/0": damaged pack packs/0: gone
knowngood: /1: "/1": damaged pack packs/1: gone
knowngood: /2: "/2": damaged pack packs/2: gone
knowngood: and 6 more: …: damaged pack …: gone
`},
		"that name their path without quotes are of one cause, and other paths stay": {many(5, func(add func(string, error), i int) {
			add(fmt.Sprint(i), fmt.Errorf("as /%d.incomplete: see /%d0 and /x/%d (/%d)", i, 0, 0, i))
		}), `knowngood: /0: as /0.incomplete: see /00 and /x/0 (/0)
knowngood: 5 problems, by cause:
knowngood: /0: as /0.incomplete: see /00 and /x/0 (/0)
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
				b.WriteString("knowngood: 30 problems, by cause:\n")
				for i := range shownCauses {
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
			l := (&app{stderr: &stderr}).problems()
			c.found(l.add)
			l.end()
			l.end()
			if stderr.String() != c.want {
				t.Errorf("printed\n%swant\n%s", stderr.String(), c.want)
			}
		})
	}
	t.Run("are kept within bounds, and counted, by many at once", func(t *testing.T) {
		t.Parallel()
		var stderr bytes.Buffer
		l := (&app{stderr: &stderr}).problems()
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 5000 {
					l.add(fmt.Sprint(i), fmt.Errorf("cause %d", i*4+w))
				}
			})
		}
		wg.Wait()
		l.end()
		if len(l.causes) != maxCauses || !strings.HasSuffix(stderr.String(), fmt.Sprintf("and %s more of other causes: --json lists all\n", count(uint64(20000-shownCauses)))) {
			t.Errorf("%d causes are kept\n%s", len(l.causes), stderr.String())
		}
	})
}

func TestTimesInText(t *testing.T) {
	t.Parallel()
	for want, at := range map[string]manifest.Time{
		"1970-01-01T00:00:00Z":            {},
		"2026-11-28T12:00:00.123456789Z":  {Sec: 1795867200, Nsec: 123456789},
		"9999-12-31T23:59:59.999999999Z":  {Sec: 253402300799, Nsec: 999999999},
		"+10000-01-01T00:00:00Z":          {Sec: 253402300800},
		"0000-01-01T00:00:00Z":            {Sec: -62167219200},
		"-0001-12-31T23:59:59Z":           {Sec: -62167219201},
		"+36534630048-05-13T13:56:16Z":    {Sec: 1 << 60},
		"@1152921504606846977.000000005":  {Sec: 1<<60 + 1, Nsec: 5},
		"@9223372036854775807.999999999":  {Sec: math.MaxInt64, Nsec: 999999999},
		"@-9223372036854775808.000000000": {Sec: math.MinInt64},
	} {
		if got := timeText(at, time.UTC, time.RFC3339Nano); got != want {
			t.Errorf("%+v is %s, want %s", at, got, want)
		}
		b, err := timeJSON(at).MarshalJSON()
		if err != nil || string(b) != `"`+want+`"` {
			t.Errorf("%+v is %s in JSON: %v", at, b, err)
		}
	}
}
