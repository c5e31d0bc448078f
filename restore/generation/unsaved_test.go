package generation

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What was added, changed or removed since the newest snapshot is named. When something was
// removed is not known: in a directory that is changed again it counts again.
func TestUnsaved(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, t.TempDir(), "link")
	o := w.options()
	if _, err := Adopt(ctx, o, false); err != nil {
		t.Fatal(err)
	}
	w.must(switchTo(ctx, w, o, 2, passes))

	at := func(name string) string { return filepath.Join(w.root(), name) }
	write := func(name string) { w.must(os.WriteFile(at(name), []byte("new"), 0o644)) }
	for _, c := range []struct {
		name, want string
		do         func()
	}{
		{"nothing", "", func() {}},
		{"data", "", func() { write("var/lib/db"); write("var/lib/more") }},
		{"a file is changed", `changed "d0/0"`, func() { write("d0/0") }},
		{"a file is added", `added "d1/new"`, func() { write("d1/new") }},
		{"a file is removed", `removed "d0/3"`, func() { w.must(os.Remove(at("d0/3"))) }},
		{"a file at the top is removed", `removed "only-2"`, func() { w.must(os.Remove(at("only-2"))) }},
		{"a directory is removed", `removed "d2/11", removed "d2/2", removed "d2/5", removed "d2/8", removed "only-2"`, func() { w.must(os.RemoveAll(at("d2"))) }},
		{"a directory is a link to others", `changed "d1", removed "d1/1", removed "d1/10", removed "d1/4", removed "d1/7", removed "d2/11", removed "d2/2", removed "d2/5", removed "d2/8", removed "only-2"`, func() {
			w.must(os.RemoveAll(at("d1")))
			w.must(os.Symlink(t.TempDir(), at("d1")))
		}},
	} {
		time.Sleep(2 * ClockTick) // a snapshot of all that was done before
		since := time.Now()
		time.Sleep(2 * ClockTick)
		c.do()
		s, err := Open(ctx, o)
		w.must(err)
		unsaved, err := s.Unsaved(ctx, since)
		s.Close()
		if got := unsaved.String(); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

// Records that cannot be read, because they are damaged or of another version, stop neither a
// rollback that is asked for all the same nor a switch, after which they can be read again.
func TestUnreadableRecords(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, t.TempDir(), "link")
	o := w.options()
	if _, err := Adopt(ctx, o, false); err != nil {
		t.Fatal(err)
	}
	w.must(switchTo(ctx, w, o, 2, passes))
	records, err := filepath.Glob(filepath.Join(w.gens(), "*"+recordName))
	if err != nil || len(records) != 2 {
		t.Fatalf("records %v, %v", records, err)
	}
	for _, r := range records {
		w.must(os.WriteFile(r, []byte("KNGR\x00"), 0o600))
	}

	if p, err := Adopt(ctx, o, false); err != nil || !strings.HasPrefix(p.Name, "2-") {
		t.Errorf("adopted again, where there is nothing to do: %+v, %v", p, err)
	}
	err = act(ctx, w, o, "rollback")
	if err == nil || !strings.Contains(err.Error(), w.gens()) || !strings.Contains(err.Error(), "cannot be read by this version") || !strings.Contains(err.Error(), "--anyway") {
		t.Errorf("a rollback to what cannot be compared: %v", err)
	}
	s, err := Open(ctx, o)
	w.must(err)
	_, err = s.Rollback(ctx, true)
	s.Close()
	w.must(err)
	if w.live() != 1 {
		t.Errorf("version %d is live, want 1", w.live())
	}
	w.must(switchTo(ctx, w, o, 3, passes))
	w.must(act(ctx, w, o, "rollback"))
	if w.live() != 1 {
		t.Errorf("version %d is live, want 1", w.live())
	}
}
