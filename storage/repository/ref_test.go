package repository_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

func ref(t *testing.T, text string) history.Ref {
	t.Helper()
	r, _, err := history.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReferences(t *testing.T) {
	t.Run("references are read as people write them", func(t *testing.T) {
		day := time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local)
		for text, want := range map[string]struct {
			history.Ref
			path string
		}{
			"web":                             {history.Ref{Environment: "web"}, ""},
			"web@latest":                      {history.Ref{Environment: "web"}, ""},
			"web@42":                          {history.Ref{Environment: "web", Selector: history.ByNumber, Number: 42}, ""},
			"web@known-good":                  {history.Ref{Environment: "web", Selector: history.KnownGood}, ""},
			"host-1/web@42":                   {history.Ref{Host: "host-1", Environment: "web", Selector: history.ByNumber, Number: 42}, ""},
			"host/web":                        {history.Ref{Host: "host", Environment: "web"}, ""},
			"web@42:/etc/passwd":              {history.Ref{Environment: "web", Selector: history.ByNumber, Number: 42}, "etc/passwd"},
			"web:/a:/b/../c/":                 {history.Ref{Environment: "web"}, "a:/c"},
			"web:/":                           {history.Ref{Environment: "web"}, ""},
			"web:/../../etc":                  {history.Ref{Environment: "web"}, "etc"},
			"web@2026-11-20":                  {history.Ref{Environment: "web", Selector: history.NotLater, Before: day.AddDate(0, 0, 1)}, ""},
			"web@2026-11-20T10:00":            {history.Ref{Environment: "web", Selector: history.NotLater, Before: day.Add(10*time.Hour + time.Minute)}, ""},
			"web@2026-11-20T10:00:/x":         {history.Ref{Environment: "web", Selector: history.NotLater, Before: day.Add(10*time.Hour + time.Minute)}, "x"},
			"web@2026-11-20T10:00:07":         {history.Ref{Environment: "web", Selector: history.NotLater, Before: day.Add(10*time.Hour + 8*time.Second)}, ""},
			"web@2026-11-20T10:00:07Z":        {history.Ref{Environment: "web", Selector: history.NotLater, Before: time.Date(2026, 11, 20, 10, 0, 8, 0, time.UTC)}, ""},
			"h/web@2026-11-20T10:00:07+02:00": {history.Ref{Host: "h", Environment: "web", Selector: history.NotLater, Before: time.Date(2026, 11, 20, 8, 0, 8, 0, time.UTC)}, ""},
			"3fa9c1":                          {history.Ref{Environment: "3fa9c1", ID: "3fa9c1"}, ""},
			"3FA9C17":                         {history.Ref{ID: "3fa9c17"}, ""},
			"3fa9c1:/etc":                     {history.Ref{Environment: "3fa9c1", ID: "3fa9c1"}, "etc"},
			"3fa9c":                           {history.Ref{Environment: "3fa9c"}, ""},
		} {
			got, path, err := history.ParseRef(text)
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			if !got.Before.Equal(want.Before) {
				t.Errorf("%s: before %v, want %v", text, got.Before, want.Before)
			}
			if got.Host != want.Host || got.Environment != want.Environment || got.Selector != want.Selector || got.Number != want.Number || got.ID != want.ID || path != want.path {
				t.Errorf("%s: %+v %q, want %+v", text, got, path, want)
			}
			if shown, _, _ := strings.Cut(text, ":/"); got.String() != shown {
				t.Errorf("%s prints as %s", text, got)
			}
		}
	})

	t.Run("what is no reference is refused", func(t *testing.T) {
		for text, want := range map[string]string{
			"": "name", "@": "name", "@3": "name", "web@": "neither", "web@0": "start from 1", "web@042": "start from 1", "web@-1": "neither",
			"web@yesterday": "neither", "web@2026-13-01": "neither", "Web": "name", "a/b/c": "name", "/web": "a path follows a reference", "web:etc": `must begin with "/"`, "web@4:etc": `must begin with "/"`, "web:/a\x00b": "NUL",
			"web@99999999999999999999": "neither",
		} {
			if _, _, err := history.ParseRef(text); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
		}
	})

	t.Run("resolve finds the snapshot or reports why not", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		var made []*history.Snapshot
		for i := range 3 {
			s, err := h.Commit(t.Context(), "web", func(n uint64) *statement.RootBody {
				b := body(n)
				b.Started = time.Date(2026, 11, 20, 10+i, 0, 30, 0, time.Local)
				return b
			}, now)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, s)
		}
		m := machine{t.TempDir(), "second"}
		second := m.open(t, w.store)
		second.Unlock(w.id)
		h2, err := second.Join(t.Context(), join("web-2"))
		if err != nil {
			t.Fatal(err)
		}
		other := commit(t, host{h2, second}, "web")
		only := commit(t, host{h2, second}, "only")
		id := func(s *history.Snapshot) string { return hex.EncodeToString(s.ID[:]) }
		r := w.m.open(t, w.store)
		for text, want := range map[string]*history.Snapshot{
			"web": made[2], "web@2": made[1], "web@3": made[2], "web@2026-11-20T10:00": made[0], "web@2026-11-20T11:59": made[1], "web@2026-11-20": made[2],
			"web@2026-11-20T11:00:29": made[0], "web-2/web": other, "only": only, "only@1": only, id(made[0])[:10]: made[0], strings.ToUpper(id(other)): other,
		} {
			if s, err := r.Resolve(t.Context(), ref(t, text), "web-1"); err != nil || s.ID != want.ID {
				t.Errorf("%s: %v, %v; want %s/%s", text, s, err, want.Host, want.Ref())
			}
		}
		for text, want := range map[string]error{
			"nothing": history.ErrNoSnapshot, "web@4": history.ErrNoSnapshot, "web@18446744073709551615": history.ErrNoSnapshot, "web@known-good": history.ErrNoSnapshot,
			"web@2020-01-01": history.ErrNoSnapshot, "aaaaaaaaaaaa": history.ErrNoSnapshot, "nobody/web": history.ErrNoSnapshot,
			"web-2/web@2026-11-20": trust.ErrNoUsableIdentity,
		} {
			if s, err := r.Resolve(t.Context(), ref(t, text), "web-1"); !errors.Is(err, want) {
				t.Errorf("%s: %v, %v; want %v", text, s, err, want)
			}
		}
		if _, err := r.Resolve(t.Context(), ref(t, "web@2"), "elsewhere"); !errors.Is(err, history.ErrAmbiguous) || !strings.Contains(err.Error(), "web-1/web@2, web-2/web@2") {
			t.Errorf("two hosts: %v", err)
		}
		_, err = r.Resolve(t.Context(), ref(t, "web@known-good"), "web-1")
		if err == nil || !strings.Contains(err.Error(), "no snapshot of web is known-good (web@3, web@2, web@1: no drill has passed). ") {
			t.Errorf("known-good: %v", err)
		}
	})
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"web", "h/web@42:/x", "web@2026-11-20T10:00:/a", "3fa9c1", "web@known-good", "web@2026-11-20T10:00:07+02:00", "0@0000-01-10T0:00+00:01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, path, err := history.ParseRef(text)
		if err != nil {
			return
		}
		if strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || path == ".." || strings.HasPrefix(path, "../") || strings.Contains(path, "/../") {
			t.Errorf("path %q", path)
		}
		if r.Environment == "" && r.ID == "" || r.Environment != "" && layout.ValidName(r.Environment) != nil || r.Host != "" && layout.ValidName(r.Host) != nil {
			t.Errorf("%q: %+v", text, r)
		}
		again, _, err := history.ParseRef(r.String())
		if again.Before.Equal(r.Before) { // each has a zone of its own
			again.Before = r.Before
		}
		if err != nil || again != r {
			t.Errorf("%q prints as %q, which reads as %+v, %v", text, r, again, err)
		}
	})
}
