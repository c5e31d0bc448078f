package check_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/snapshot/check"
	"knowngood/storage"
)

// add puts an object that nothing names beside another one.
func (w *world) add(beside, content string) {
	w.t.Helper()
	sum := sha256.Sum256([]byte(content))
	key := beside[:strings.LastIndex(beside, "/")+1] + hex.EncodeToString(sum[:])
	w.Check(w.Store.Put(w.Ctx, key, []byte(content), storage.PutOptions{}))
}

func TestUnknownObjects(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T, f func(t *testing.T, w *world)) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			time.Sleep(100 * 365 * 24 * time.Hour) // files are older than the bubble
			w.MustCapture("e", w.src)
			time.Sleep(72 * time.Hour)
			f(t, w)
		})
	}

	t.Run("are counted once they are too old for a run under way", func(t *testing.T) {
		in(t, func(t *testing.T, w *world) {
			w.Clean()
			w.add(w.keys("hosts/h/packs/")[0], strings.Repeat("a pack", 1000))
			w.add(w.keys("hosts/h/manifests/")[0], strings.Repeat("a container", 1000))
			if r := w.run(check.Options{}); len(r.Unneeded) > 0 {
				t.Errorf("at once: %v", r.Unneeded)
			}
			time.Sleep(49 * time.Hour)
			want := "host h: 2 packs and manifest containers older than 48 hours, needed by no kept snapshot and named by no index run: knowngood prune frees 17 KiB"
			if r := w.run(check.Options{}); len(r.Unneeded) != 1 || r.Unneeded[0].String() != want || len(r.Damage) > 0 {
				t.Errorf("after 49 hours: %v, damage %q", r.Unneeded, damage(r))
			}
			w.add(w.keys("hosts/h/packs/")[0], "a pack of the same run")
			if r := w.run(check.Options{}); len(r.Unneeded) > 0 {
				t.Errorf("while the run may go on: %v", r.Unneeded)
			}
		})
	})

	t.Run("are not counted while it is not known what a snapshot needs", func(t *testing.T) {
		in(t, func(t *testing.T, w *world) {
			w.add(w.keys("hosts/h/packs/")[0], "a pack")
			w.memory.Edit(w.keys("hosts/h/roots/")[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			time.Sleep(49 * time.Hour)
			if r := w.run(check.Options{}); len(r.Unneeded) > 0 || len(r.Damage) == 0 {
				t.Errorf("%v, damage %q", r.Unneeded, damage(r))
			}
		})
	})

	t.Run("are named when their kind is unknown, and are no damage", func(t *testing.T) {
		in(t, func(t *testing.T, w *world) {
			pack := w.keys("hosts/h/packs/")[0]
			for _, key := range []string{"hosts/h/README", "hosts/h/new/a/b", pack[:strings.LastIndex(pack, "/")] + "/x", "hosts/h/packs/other/y", "hosts/h/audit/ffff"} {
				w.Check(w.Store.Put(w.Ctx, key, bytes.Repeat([]byte("x"), 10), storage.PutOptions{}))
			}
			r := w.run(check.Options{})
			for _, key := range []string{"4 objects of no kind", "hosts/h/README", "hosts/h/new/a/b", pack[:strings.LastIndex(pack, "/")] + "/x", "hosts/h/packs/other/y"} {
				if !contains(r.Notes, key) {
					t.Errorf("%q is not in %q", key, r.Notes)
				}
			}
			if contains(r.Notes, "audit") || len(r.Damage) > 0 {
				t.Errorf("notes %q, damage %q", r.Notes, damage(r))
			}
		})
	})
}
