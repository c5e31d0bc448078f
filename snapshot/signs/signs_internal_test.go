package signs

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestClass(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 4096)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write([]byte(base64.StdEncoding.EncodeToString(noise)))
	w.Close()

	for name, c := range map[string]struct {
		content []byte
		want    class
	}{
		"random":                       {noise, random},
		"random, and short":            {noise[:leastHead], random},
		"too short to know":            {noise[:leastHead-1], unknown},
		"nothing":                      {nil, unknown},
		"text":                         {[]byte(strings.Repeat("the quick brown fox jumps over it\n", 9)), plain},
		"base64 of random":             {[]byte(base64.StdEncoding.EncodeToString(noise)), plain},
		"zeros":                        {make([]byte, 4096), plain},
		"gzip":                         {zipped.Bytes(), packed},
		"the magic bytes of another":   {append([]byte("\x89PNG\r\n"), noise...), packed},
		"magic bytes that come later":  {append([]byte("\x00\x00\x00\x20ftyp"), noise...), packed},
		"gzip without its magic bytes": {zipped.Bytes()[10:], random},
		"neither":                      {append(make([]byte, 15), noise...), vague},
	} {
		t.Run(name, func(t *testing.T) {
			var s Sampler
			s.Add(c.content)
			if got := s.Mark().class(); got != c.want {
				t.Errorf("class %d, want %d", got, c.want)
			}
		})
	}
}

func TestMark(t *testing.T) {
	t.Parallel()

	t.Run("the largest fits its bound", func(t *testing.T) {
		t.Parallel()
		r := rand.NewChaCha8([32]byte{2})
		for range 1000 {
			b := make([]byte, 1024)
			r.Read(b)
			var s Sampler
			s.Add(b)
			if m := s.Mark(); m>>36 != 0 || m.part() != 255 {
				t.Fatalf("mark %x", m)
			}
		}
	})
}

func TestNames(t *testing.T) {
	t.Parallel()

	t.Run("that are alike", func(t *testing.T) {
		t.Parallel()
		for names, want := range map[[2]string]bool{
			{"d/a.doc", "d/a.doc.locked"}:           true,
			{"d/a.doc", "d/a.locked"}:               true,
			{"d/a.doc", "d/a.doc.id[7].x@y.z.lock"}: true,
			{"d/a.doc.locked", "d/a.doc"}:           true,
			{"d/a", "d/a.x"}:                        true,
			{"d/a.doc", "d/ab.doc"}:                 false,
			{"d/a.doc", "e/a.doc.locked"}:           false,
			{"d/a.doc", "d/a.d/b"}:                  false,
			{"d/.hidden", "d/other"}:                false,
		} {
			if got := alike(names[0], names[1]); got != want {
				t.Errorf("%q: %v", names, got)
			}
		}
	})
}

func TestRules(t *testing.T) {
	t.Parallel()
	same := func(n int, c Counts) (out []Counts) {
		for range n {
			out = append(out, c)
		}
		return out
	}
	for name, c := range map[string]struct {
		runs []Counts
		want bool
	}{
		"no run":                                   {nil, false},
		"nothing":                                  {same(50, Counts{}), false},
		"just enough":                              {same(1, Counts{Encrypted: 20, Changed: 100}), true},
		"a file less":                              {same(1, Counts{Encrypted: 19, Changed: 19}), false},
		"less than a fifth":                        {same(1, Counts{Encrypted: 20, Changed: 101}), false},
		"a few in many runs":                       {same(40, Counts{Encrypted: 2, Changed: 20}), true},
		"one file in each run":                     {same(500, Counts{Encrypted: 1, Changed: 1}), false},
		"few of many":                              {same(500, Counts{Encrypted: 9, Changed: 100}), false},
		"as many come that look random as went":    {same(1, Counts{Gone: 30, NewRandom: 30}), true},
		"others came, too":                         {same(1, Counts{Gone: 30, New: 30, NewRandom: 30}), false},
		"random ones went, too":                    {same(1, Counts{Gone: 30, GoneRandom: 30, NewRandom: 30}), false},
		"half of them are back":                    {[]Counts{{Encrypted: 40, Changed: 40}, {Restored: 20, Changed: 20}}, false},
		"nearly half of them are back":             {[]Counts{{Encrypted: 40, Changed: 40}, {Restored: 19, Changed: 20}}, true},
		"half of them are back, under other names": {[]Counts{{Encrypted: 40, Changed: 40}, {GoneRandom: 20, New: 20}}, false},
		"unchanged since":                          {append(same(1, Counts{Encrypted: 40, Changed: 40}), same(100, Counts{})...), true},
		"more since, then half of the first":       {[]Counts{{Encrypted: 40, Changed: 40}, {Encrypted: 40, Changed: 40}, {Restored: 20}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			for i := range c.runs {
				s = s.After(&c.runs[i])
			}
			if s.Suspect() != c.want {
				t.Errorf("%+v", s)
			}
		})
	}
}
