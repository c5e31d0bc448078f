package prune_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/check"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// wantKept compares what is not forgotten of web, the newest first.
func (w *world) wantKept(want string) {
	w.t.Helper()
	var got []uint64
	for s, err := range w.Bare().Kept(w.Ctx, enginetest.Host, "web") {
		w.check(err)
		got = append(got, s.Number)
	}
	if fmt.Sprint(got) != want {
		w.t.Errorf("kept are %v, want %s", got, want)
	}
}

// ownerForgets changes what is forgotten of web with the owner's signature.
func (w *world) ownerForgets(c history.Change) *statement.Tombstone {
	w.t.Helper()
	c.Now = time.Now()
	x, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", c)
	w.check(err)
	if x.Certificate != nil {
		w.t.Fatal("the host signed")
	}
	return x
}

// TestEndOfAKey is of what stays forgotten when the key of a host ends.
func TestEndOfAKey(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	captured := func(t *testing.T, f func(w *world)) {
		simulated(t, memory, func(w *world) {
			for range 7 {
				w.write("file", 1<<20)
				w.capture("web")
			}
			f(w)
		})
	}
	forget := func(numbers ...uint64) history.Change {
		return history.Change{Forget: statement.NumbersOf(numbers...)}
	}

	t.Run("the owner's tombstone binds only what the owner forgot", func(t *testing.T) {
		captured(t, func(w *world) {
			w.forget("web", 1, 2, 3) // by whoever has the key
			w.ownerForgets(forget(2, 4))
			w.wantKept("[7 6 5]")
			w.reenrol()
			w.wantKept("[7 6 5 3 1]")
		})
	})
	t.Run("and so it is when the host repeated that in between", func(t *testing.T) {
		captured(t, func(w *world) {
			w.forget("web", 1, 2, 3)
			w.ownerForgets(forget(2, 4))
			w.forget("web", 5)
			w.ownerForgets(history.Change{Undo: statement.NumbersOf(3)})
			w.wantKept("[7 6 3]")
			w.reenrol()
			w.wantKept("[7 6 5 3 1]")
			w.ownerForgets(forget(1))
			w.wantKept("[7 6 5 3]")
		})
	})
	t.Run("the owner makes its own what the host forgot", func(t *testing.T) {
		captured(t, func(w *world) {
			w.forget("web", 1, 2)
			first := w.ownerForgets(forget(1))
			if first.Serial != 2 {
				t.Errorf("the serial is %d", first.Serial)
			}
			if again := w.ownerForgets(forget(1)); again.Serial != 2 {
				t.Errorf("nothing changed, and the serial is %d", again.Serial)
			}
			w.reenrol()
			w.wantKept("[7 6 5 4 3 2]")
		})
	})
	t.Run("what the host took back of the owner's is no more forgotten", func(t *testing.T) {
		captured(t, func(w *world) {
			w.ownerForgets(forget(1, 2))
			_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()})
			w.check(err)
			w.ownerForgets(forget(3))
			w.reenrol()
			w.wantKept("[7 6 5 4 1]")
		})
	})
	t.Run("what was deleted stays forgotten, and is neither damage nor in the way of a prune", func(t *testing.T) {
		captured(t, func(w *world) {
			w.forget("web", 1, 2)
			for range 2 {
				time.Sleep(8 * day)
				w.free()
			}
			w.forget("web", 3)
			w.reenrol()
			if named := w.Warnings(); len(named) != 1 || !strings.Contains(named[0].Error(), "2 of web stay forgotten, from web@1 to web@2") {
				t.Errorf("warned of %v", named)
			}
			w.wantKept("[7 6 5 4 3]")
			report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
			w.check(err)
			if len(report.Damage) > 0 {
				t.Errorf("damage: %v", report.Damage)
			}
			w.capture("web")
			_, err = prune.Run(w.Ctx, w.Bare(), prune.Options{})
			w.check(err)
			w.present()
		})
	})
	t.Run("what was deleted stays forgotten when only the list is gone from which its own differs", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			// Until the newest snapshot needs the container of another one, and not the
			// container from whose list that one's differs.
			needs := map[[32]byte]bool{}
			based := map[[32]byte][32]byte{}
			var forgotten []uint64
			for found := false; !found; {
				if len(forgotten) > 400 {
					t.Fatal("there is no such snapshot")
				}
				for j := range 3 {
					w.write(fmt.Sprintf("file-%04d", 3*len(forgotten)+j), 100)
				}
				w.capture("web")
				r, s, err := w.Snapshot(fmt.Sprintf("web@%d", len(forgotten)+1))
				w.check(err)
				reader := r.NewReader(enginetest.Host, s.Domain)
				needed, err := reader.Objects(w.Ctx, s.Body)
				w.check(err)
				clear(needs)
				for _, o := range needed {
					needs[o.Hash] = true
				}
				for container, base := range based {
					found = found || needs[container] && !needs[base]
				}
				m := &s.Body.Manifest
				_, contents, err := reader.Contents(w.Ctx, m.Kind, m.Hash, int64(m.Size))
				w.check(err)
				if contents.List.Differs() {
					based[m.Hash] = contents.List.Base.Hash
				}
				if !found {
					forgotten = append(forgotten, s.Number)
				}
			}
			w.forget("web", forgotten...)
			for range 2 {
				time.Sleep(8 * day)
				w.free()
			}
			w.reenrol()
			report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
			w.check(err)
			if len(report.Blocked) > 0 {
				t.Errorf("blocked: %v", report.Blocked)
			}
		})
	})
	t.Run("what is only hidden is kept again", func(t *testing.T) {
		captured(t, func(w *world) {
			r, s, err := w.Snapshot("web@1")
			w.check(err)
			w.forget("web", 1)
			w.check(w.Store.Delete(w.Ctx, layout.KeyManifest(enginetest.Host, s.Root.Domain, s.Body.Manifest.Hash)))
			for o, err := range r.Store().List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, s.Root.Domain)}) {
				w.check(err)
				w.check(w.Store.Delete(w.Ctx, o.Key))
			}
			w.reenrol()
			w.wantKept("[7 6 5 4 3 2 1]")
		})
	})
}
