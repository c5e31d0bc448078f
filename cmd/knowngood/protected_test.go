package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

var claimed = time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)

// claimALock lets a taken host sign a root that claims a lock until 2199.
func claimALock(t *testing.T, w *enginetest.World) *statement.RootBody {
	t.Helper()
	src := t.TempDir()
	w.Check(os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o600))
	w.MustCapture("web", src)
	_, s, err := w.Snapshot("web@1")
	w.Check(err)
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	body := *s.Body
	body.ProtectedUntil = claimed
	commit, err := r.Begin(w.Ctx, host, "web")
	w.Check(err)
	_, err = commit.Next(w.Ctx)
	w.Check(err)
	_, _, err = commit.Put(w.Ctx, &body, nil, time.Now())
	w.Check(err)
	return &body
}

func TestProtectedUntil(t *testing.T) {
	t.Parallel()
	t.Run("is not shown where the repository has no lock mode", func(t *testing.T) {
		t.Parallel()
		at := t.TempDir()
		store, err := dir.Create(filepath.Join(at, "repo"))
		if err != nil {
			t.Fatal(err)
		}
		w := enginetest.New(t, store)
		claimALock(t, w)
		m := &machine{repo: filepath.Join(at, "repo"), identity: filepath.Join(at, "identity"), state: filepath.Join(at, "state")}
		w.Check(os.WriteFile(m.identity, []byte(w.Key), 0o600))
		for _, args := range [][]string{{"show", "web@2"}, {"show", "web@2", "--json"}, {"list"}, {"list", "--json"}, {"status", "--no-daemon"}, {"status", "--no-daemon", "--json"}} {
			out := m.must(t, append(args, "--host", enginetest.Host)...)
			if strings.Contains(out, "2199") || strings.Contains(out, "protected_until") || !strings.Contains(out, "web@2") {
				t.Errorf("%v:\n%s", args, out)
			}
			if args[0] == "status" && len(args) == 2 && !strings.Contains(out, "no lock") {
				t.Errorf("%v:\n%s", args, out)
			}
		}
	})
	t.Run("is the word of the host where it has one", func(t *testing.T) {
		t.Parallel()
		for mode, want := range map[storage.RetentionMode]time.Time{"": {}, storage.Compliance: claimed} {
			lock := trust.Lock{Mode: mode}
			if mode != "" {
				lock.Keep = 24 * time.Hour
			}
			w := enginetest.NewLocked(t, storagetest.NewMemory(), lock)
			if got := w.Open("").ClaimedProtection(claimALock(t, w)); !got.Equal(want) {
				t.Errorf("with lock mode %q: %v, want %v", mode, got, want)
			}
		}
	})
}
