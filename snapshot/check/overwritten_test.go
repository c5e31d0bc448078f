package check_test

import (
	"errors"
	"testing"

	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/authentic"
)

// Rubbish over a pack changes nothing where the store keeps versions, whatever its
// size is.
func TestOverwrittenPacks(t *testing.T) {
	t.Parallel()
	for name, rubbish := range map[string]func(size int) int{
		"shorter":           func(int) int { return 3 },
		"longer":            func(size int) int { return 2 * size },
		"of the same size":  func(size int) int { return size },
		"without any bytes": func(int) int { return 0 },
	} {
		build := func(t *testing.T) (w *world, keys []string) {
			t.Parallel()
			w = newWorld(t)
			w.MustCapture("e", w.src)
			for _, key := range w.keys("hosts/h/packs/") {
				b, err := storage.Append(w.Ctx, nil, w.Store, key, 0, -1)
				w.Check(err)
				w.memory.Overwrite(key, make([]byte, rubbish(len(b))))
				keys = append(keys, key)
			}
			return w, keys
		}
		tampered := func(w *world) {
			w.t.Helper()
			for _, err := range w.Warnings() {
				if authentic.Tampered(err) {
					return
				}
			}
			w.t.Error("the tampering is not reported")
		}
		loseIndex := func(w *world) {
			for _, key := range w.keys("hosts/h/index/") {
				w.memory.Forget(key)
			}
			w.forgetCopies()
		}
		t.Run(name+": the index is rebuilt with their own sizes", func(t *testing.T) {
			w, keys := build(t)
			loseIndex(w)
			r := w.repair()
			if len(r.Repaired) == 0 || len(r.Lost) > 0 {
				t.Errorf("repaired %q, lost %q", r.Repaired, r.Lost)
			}
			r = w.run(check.Options{ReadData: 1})
			if len(r.Damage) != len(keys) || len(r.Lost) > 0 {
				t.Errorf("damage %q, lost %q", damage(r), r.Lost)
			}
			for _, d := range r.Damage {
				if !errors.As(d.Err, new(*authentic.TamperError)) || d.Count > 0 {
					t.Errorf("%s: %v", d.Object, d.Err)
				}
			}
			if contains(r.Notes, "the index says") {
				t.Errorf("notes %q", r.Notes)
			}
		})
		t.Run(name+": a snapshot without an index stores nothing again", func(t *testing.T) {
			w, _ := build(t)
			loseIndex(w)
			w.Warnings()
			res, err := w.Capture("f", nil, w.src)
			w.Check(err)
			if res.NewBytes > 0 {
				t.Errorf("%d new bytes, healed %+v", res.NewBytes, res.Healed)
			}
			if name != "of the same size" { // else only its content shows it
				tampered(w)
			}
		})
		for how, edit := range map[string]func(*snapshot.Options){"a listing": verify, "all data": func(o *snapshot.Options) { o.Verify.Data = true }} {
			t.Run(name+": a snapshot that verifies "+how+" stores nothing again and names them", func(t *testing.T) {
				w, _ := build(t)
				w.Warnings()
				for range 2 {
					res, err := w.Capture("e", edit, w.src)
					w.Check(err)
					if res.Healed.Packs > 0 {
						t.Errorf("healed %+v", res.Healed)
					}
					if name != "of the same size" || how == "all data" {
						tampered(w)
					}
				}
			})
		}
		t.Run(name+": all is restored", func(t *testing.T) {
			w, keys := build(t)
			w.memory.Forget(keys[0]) // the contents of the others are read to find what it held
			tree := w.Tree("h/e@1")
			defer tree.Reader.Close()
			if _, err := restore.Run(w.Ctx, restore.Options{Tree: tree, Target: treetest.TempDir(t)}); err != nil {
				t.Error(err)
			}
		})
	}
}
