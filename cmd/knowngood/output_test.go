package main

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRatesCountWhatTheCommandDid(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &progress{start: start, began: start}
	for _, look := range []struct {
		at                  time.Duration
		bytes, found, total uint64
		perSecond           uint64
		left                float64
	}{
		{10 * time.Second, 800, 800, 1000, 0, -1}, // all of it found by a run that goes on
		{20 * time.Second, 810, 800, 1000, 1, 190},
		{30 * time.Second, 950, 900, 1000, 2, 20},
		{40 * time.Second, 1000, 900, 1000, 3, 0},
		{50 * time.Second, 1000, 900, 0, 2, -1},
		{60 * time.Second, 1000, 2000, 0, 0, -1}, // the two are not read at once
	} {
		perSecond, left := p.rate(progressState{Bytes: look.bytes, Found: look.found, Total: look.total}, start.Add(look.at))
		if perSecond != look.perSecond || left != look.left {
			t.Errorf("after %v: %d bytes a second, %v seconds left; want %d, %v", look.at, perSecond, left, look.perSecond, look.left)
		}
	}
}

func TestCommandLines(t *testing.T) {
	t.Parallel()
	for want, argv := range map[string][]string{
		"pg_restore --clean -d web":           {"pg_restore", "--clean", "-d", "web"},
		"sh -c 'cat >\"$1\"' sh '' --db=x":    {"sh", "-c", `cat >"$1"`, "sh", "", "--db=x"},
		`echo 'it'\''s'`:                      {"echo", "it's"},
		`echo $'a\033[2J\012\302\205b\'c\\d'`: {"echo", "a\x1b[2J\n\u0085b'c\\d"},
		`echo $'\3771' $'\342\200\256x' grün`: {"echo", "\xff1", "\u202ex", "grün"},
		`'A=b' c=d`:                           {"A=b", "c=d"},
		"$'�\\377' � 'a b' '~' '{a}'":         {"�\xff", "�", "a b", "~", "{a}"},
	} {
		if got := commandLine(argv); got != want {
			t.Errorf("%q is %s, want %s", argv, got, want)
		}
	}
	t.Run("are one printable line that bash takes for the same words", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("bash"); err != nil {
			t.Skip("there is no bash")
		}
		word := rapid.Custom(func(t *rapid.T) string {
			return strings.ReplaceAll(string(rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("'\"\\$`\n\x1b 1=!"))), 0, 12).Draw(t, "bytes")), "\x00", "")
		})
		rapid.Check(t, func(t *rapid.T) {
			argv := rapid.SliceOfN(word, 1, 5).Draw(t, "argv")
			line := commandLine(argv)
			for _, r := range line {
				if !strconv.IsPrint(r) {
					t.Fatalf("%q has %q in it", line, r)
				}
			}
			out, err := exec.Command("bash", "-c", "printf '%s\\0' "+line).Output()
			if err != nil || string(out) != strings.Join(argv, "\x00")+"\x00" {
				t.Fatalf("bash takes %s for %q, want %q (%v)", line, out, argv, err)
			}
		})
	})
}
