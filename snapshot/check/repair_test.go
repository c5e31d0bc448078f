package check_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// repair is a check with repair, on the host with the identity.
func (w *world) repair() *check.Report {
	w.t.Helper()
	r, err := repository.Open(w.Ctx, w.Store, repository.Options{Options: trust.Options{StateDir: w.State, URL: w.URL, Now: time.Now()}})
	w.Check(err)
	r.Unlock(w.ID)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	report, err := check.Run(w.Ctx, r, check.Options{Repair: host})
	w.Check(err)
	return report
}

func verify(o *snapshot.Options) { o.Verify.Listing = true }

// forgetCopies removes the copies of index runs on the host.
func (w *world) forgetCopies() {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.State, "repos", "*", "index"))
	w.Check(err)
	for _, dir := range found {
		w.Check(os.RemoveAll(dir))
	}
}

// maybe are the keys of a prefix, of which there may be none.
func (w *world) maybe(prefix string) map[string]bool {
	keys := map[string]bool{}
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: prefix}) {
		w.Check(err)
		keys[o.Key] = true
	}
	return keys
}

func TestRepair(t *testing.T) {
	t.Parallel()
	const index = "hosts/h/index/"
	build := func(t *testing.T) *world {
		t.Parallel()
		w := newWorld(t)
		for i := range 3 {
			w.write(i, uint64(20+i))
			w.MustCapture("e", w.src)
		}
		return w
	}
	flip := func(w *world, key string) { w.memory.Edit(key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) }
	forget := func(w *world, key string) { w.memory.Forget(key) }
	for name, c := range map[string]struct {
		harm   func(w *world, key string)
		copies bool // the host has them
		all    bool // runs are harmed
	}{
		"of a missing run, from the packs":                {forget, false, false},
		"of a missing run, from the host's copy":          {forget, true, false},
		"of a damaged run, of which the host has a copy":  {flip, true, false},
		"of all runs, that are damaged, without a copy":   {flip, false, true},
		"of all runs, that are missing, without any copy": {forget, false, true},
	} {
		t.Run(name+", makes the index whole and writes nothing else", func(t *testing.T) {
			w := build(t)
			harmed := w.keys(index)[1:2]
			if c.all {
				harmed = w.keys(index)
			}
			for _, key := range harmed {
				c.harm(w, key)
			}
			if !c.copies {
				w.forgetCopies()
			}
			if r := w.run(check.Options{}); len(r.Damage) != len(harmed) {
				t.Fatalf("before: %q", damage(r))
			}

			before := w.maybe("")
			r := w.repair()
			if len(r.Damage) > 0 || len(r.Lost) > 0 || len(r.Repaired) != len(harmed) {
				t.Errorf("damage %q, lost %q, repaired %q", damage(r), r.Lost, r.Repaired)
			}
			for _, key := range harmed {
				if !contains(r.Repaired, key[strings.LastIndex(key, "-"):]) {
					t.Errorf("%s is not in %q", key, r.Repaired)
				}
			}
			for key := range w.maybe("") {
				if !before[key] && !strings.HasPrefix(key, index) {
					t.Errorf("it wrote %s", key)
				}
			}
			w.Clean() // for a machine that has only the identity

			again := w.maybe("")
			if r := w.repair(); len(r.Damage)+len(r.Repaired) > 0 || len(w.maybe("")) != len(again) {
				t.Errorf("again: damage %q, repaired %q", damage(r), r.Repaired)
			}
			if res := w.MustCapture("f", w.src); res.NewBytes > 0 {
				t.Errorf("the next snapshot stores %d bytes again", res.NewBytes)
			}
		})
	}

	t.Run("names the files of each snapshot that are lost for good", func(t *testing.T) {
		w := build(t)
		w.Check(os.Remove(filepath.Join(w.src, "file-7"))) // which only the older ones have
		w.MustCapture("e", w.src)
		for key := range w.maybe("hosts/h/packs/") {
			w.memory.Forget(key)
		}
		r := w.repair()
		if len(r.Heals) != 1 || len(r.LostFiles) != 3 || len(r.Damage) == 0 {
			t.Fatalf("heals %v, lost %+v, damage %q", r.Heals, r.LostFiles, damage(r))
		}
		for i, l := range r.LostFiles {
			file := filepath.Join(w.src, "file-7")
			if !slices.Contains(l.Files, file) || l.Ref != r.Lost[i] || l.Count != len(l.Files) || slices.Contains(l.Files, filepath.Join(w.src, "file-5")) {
				t.Errorf("lost of %s: %d, %q", l.Ref, l.Count, l.Files)
			}
		}
	})

	t.Run("leaves damage to the check that affects nothing", func(t *testing.T) {
		w := build(t)
		key := w.keys("hosts/h/packs/")[0]
		flip(w, w.keys(index)[0])
		w.memory.Edit(key, func(b []byte) []byte { return b[:len(b)/2] })
		if res, err := w.Capture("e", verify, w.src); err != nil || res.Healed.Packs == 0 {
			t.Fatalf("healed %+v, %v", res, err)
		}
		r := w.repair()
		for _, d := range r.Damage {
			if d.Count == 0 {
				t.Errorf("%s: %v", d.Object, d.Err)
			}
		}
	})
}
