package generation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/snapshot/live"
)

func TestState(t *testing.T) {
	t.Run("one of another version is refused in words", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, live.StateFile), []byte(`{"version": 2}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readState(dir)
		if s != nil || err == nil {
			t.Fatalf("the state %+v is read (%v)", s, err)
		}
		if text := err.Error(); !strings.Contains(text, "it is of version 2") {
			t.Error(text)
		}
	})

	// Whoever wrote it, nothing of it leads elsewhere, and no command ends in a panic.
	t.Run("one that cannot be gone on with is refused", func(t *testing.T) {
		for _, c := range []string{
			`{"kind": "adopt"}`,
			`{"kind": "adopt", "to": "9-00000000", "data": ["../../elsewhere"]}`,
			`{"kind": "adopt", "to": "9-00000000", "data": ["/elsewhere"]}`,
			`{"kind": "release"}`,
			`{"kind": "release", "from": "9-00000000"}`,
			`{"kind": "release", "from": "NAME", "data": ["var/lib/.."]}`,
			`{"kind": "rollback", "from": "NAME"}`,
			`{"kind": "switch", "from": "NAME", "watching": true}`,
			`{"kind": "switch", "from": "NAME", "to": "NAME", "begun": 1}`,
			`{"kind": "else", "from": "NAME", "to": "NAME"}`,
		} {
			w := adopted(t, "link")
			v, err := Look(t.Context(), w.options())
			w.must(err)
			path := filepath.Join(w.gens(), live.StateFile)
			b, err := os.ReadFile(path)
			w.must(err)
			text := strings.Replace(string(b), `"generations":`, `"transaction": `+strings.ReplaceAll(c, "NAME", v.Live)+`, "generations":`, 1)
			w.must(os.WriteFile(path, []byte(text), 0o600))
			for _, what := range []string{"look", "switch", "rollback", "commit", "adopt", "release"} {
				if err := act(t.Context(), w, w.options(), what); err == nil || !strings.Contains(err.Error(), "its transaction is none") {
					t.Errorf("%s: %s: %v", c, what, err)
				}
			}
			if w.live() != 1 {
				t.Errorf("%s: another version is live", c)
			}
		}
	})

	t.Run("an older one that was put back removes nothing that is live", func(t *testing.T) {
		w := adopted(t, "link")
		path := filepath.Join(w.gens(), live.StateFile)
		old, err := os.ReadFile(path)
		w.must(err)
		w.must(switchTo(t.Context(), w, w.options(), 2, passes))
		w.must(os.WriteFile(path, old, 0o600))
		if _, err := Look(t.Context(), w.options()); err == nil || !strings.Contains(err.Error(), "none of its generations") {
			t.Error(err)
		}
		if w.live() != 2 {
			t.Error("another version is live")
		}
	})

	t.Run("one process adopts, and another that began before it does not", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "link")
		s, err := opened(t.Context(), w.options())
		w.must(err)
		defer s.Close()
		_, err = Adopt(t.Context(), w.options(), false)
		w.must(err)
		if err := s.begin(); !errors.Is(err, ErrBusy) {
			t.Errorf("it begins again: %v", err)
		}
	})
}
