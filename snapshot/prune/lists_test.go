package prune_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/storagetest"
)

// listsRead is how many containers were read whole or in part since the log began.
func listsRead(f *storagetest.Faulty) (n int) {
	for _, op := range f.Log() {
		if op.Op == storagetest.Get && strings.Contains(op.Key, "/manifests/") {
			n++
		}
	}
	return n
}

func TestRememberedLists(t *testing.T) {
	// remembered has ten snapshots of two environments, and a prune behind it.
	remembered := func(t *testing.T, f func(w *world, store *storagetest.Faulty, file string)) {
		var store *storagetest.Faulty
		simulated(t, func() storage.Store { store = storagetest.NewFaulty(storagetest.NewMemory()); return store }, func(w *world) {
			for i := range 5 {
				w.write("file", 1<<16)
				w.capture("web")
				w.write("other", 1<<10+i)
				w.capture("db")
			}
			w.free()
			files, err := filepath.Glob(filepath.Join(w.State, "repos", "*", "lists", enginetest.Host, "*", "web"))
			w.check(err)
			if len(files) != 1 {
				t.Fatalf("the lists of web are in %q", files)
			}
			store.Clear()
			f(w, store, files[0])
		})
	}

	t.Run("only lists of new snapshots are read", func(t *testing.T) {
		remembered(t, func(w *world, store *storagetest.Faulty, _ string) {
			if w.free(); listsRead(store) > 0 {
				t.Errorf("%d reads of containers though nothing is new", listsRead(store))
			}
			w.write("file", 1<<16)
			w.capture("web")
			store.Clear()
			before := w.free()
			if n := listsRead(store); n != 1 {
				t.Errorf("%d reads of containers for one new snapshot", n)
			}
			if before.Snapshots != 11 {
				t.Errorf("%d snapshots", before.Snapshots)
			}
		})
	})
	t.Run("what is needed is the same with and without them", func(t *testing.T) {
		remembered(t, func(w *world, store *storagetest.Faulty, file string) {
			w.forget("web", 1, 2)
			time.Sleep(3 * day)
			with := w.prune(prune.Options{DryRun: true}).Domains[0]
			w.check(os.RemoveAll(filepath.Dir(file)))
			without := w.prune(prune.Options{DryRun: true}).Domains[0]
			if with != without || with.Announced.Objects == 0 {
				t.Errorf("with them:\n%+v\nwithout:\n%+v", with, without)
			}
		})
	})
	t.Run("what is damaged of them is read again", func(t *testing.T) {
		remembered(t, func(w *world, store *storagetest.Faulty, file string) {
			want := w.free()
			good, err := os.ReadFile(file)
			w.check(err)
			for _, at := range []int{0, len(good) / 2, len(good) - 1} {
				for name, bad := range map[string][]byte{"cut": good[:at], "changed": append(append(append([]byte{}, good[:at]...), good[at]^1), good[at+1:]...)} {
					w.check(os.WriteFile(file, bad, 0o600))
					store.Clear()
					if got := w.free(); got != want {
						t.Errorf("%s at %d:\n%+v, before:\n%+v", name, at, got, want)
					}
					if n := listsRead(store); n == 0 || n > 5 {
						t.Errorf("%s at %d: %d reads of containers", name, at, n)
					}
					store.Clear()
					if w.free(); listsRead(store) > 0 {
						t.Errorf("%s at %d: the next prune reads %d again", name, at, listsRead(store))
					}
				}
			}
		})
	})
	t.Run("they do not stand for a container that is gone", func(t *testing.T) {
		m := storagetest.NewMemory()
		simulated(t, func() storage.Store { return m }, func(w *world) {
			for range 3 {
				w.write("file", 1<<16)
				w.capture("web")
			}
			w.free()
			m.Forget(w.containerOf(2))
			report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
			w.check(err)
			if len(report.Blocked) != 1 || !strings.Contains(report.Blocked[0].Error(), "web@2") {
				t.Errorf("blocked by %v", report.Blocked)
			}
		})
	})
}

// containerOf is the key of the container of a snapshot of web.
func (w *world) containerOf(n uint64) string {
	w.t.Helper()
	for s, err := range w.Bare().Snapshots(w.Ctx, enginetest.Host, "web") {
		w.check(err)
		if s.Number == n {
			return layout.KeyManifest(enginetest.Host, s.Domain.ID, s.Body.Manifest.Hash)
		}
	}
	w.t.Fatalf("no snapshot %d", n)
	return ""
}
