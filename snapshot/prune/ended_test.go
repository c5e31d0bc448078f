package prune_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	capture "knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/replay"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// reenrol is what is done after a break-in: the host has another key and
// domain from here on. It gives the one whose key ended.
func (w *world) reenrol() *trust.Host {
	w.t.Helper()
	old, err := w.host().Host(w.Ctx)
	w.check(err)
	state := treetest.TempDir(w.t)
	again := w.Open(state)
	again.Unlock(w.ID)
	_, err = again.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
	w.check(err)
	w.State = state
	return old
}

// signed is a pending deletion in the host's present domain, signed by the key
// of a host that may have ended.
func (w *world) signed(by *trust.Host, serial uint64, edit func(*statement.Deletion)) []byte {
	w.t.Helper()
	d := &statement.Deletion{Repository: w.Bare().ID(), Host: enginetest.Host, Domain: w.domain(), Serial: serial, Since: 1, Made: time.Now(), Certificate: by.Certificate}
	edit(d)
	object, err := d.Encode(by.SigningKey())
	w.check(err)
	return object
}

// take removes a file of the tree, and gives what puts it back.
func (w *world) take(name string) (back func()) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	b, err := os.ReadFile(path)
	w.check(err)
	w.check(os.Remove(path))
	return func() { w.t.Helper(); w.check(os.WriteFile(path, b, 0o644)) }
}

// present prunes on another machine, and gives what came of the host's present
// domain.
func (w *world) present() (out prune.Domain) {
	w.t.Helper()
	report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
	w.check(err)
	for _, b := range report.Blocked {
		w.t.Fatal(b)
	}
	for _, d := range report.Domains {
		if d.ID == w.domain() {
			out = d
		}
	}
	return out
}

func TestEndedKey(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("what an ended key announced waits from when it counts", testWhatAnEndedKeyAnnouncedWaitsFromWhenItCounts)
	t.Run("an ended key replaces no statement", testAnEndedKeyReplacesNoStatement)
	t.Run("putting over a statement delays nothing", testPuttingOverAStatementDelaysNothing)
	t.Run("statements of one store are not taken for those of another", testStatementsOfOneStoreAreNotTakenForThoseOfAnother)
	t.Run("only statements that count are kept in the state directory", testOnlyStatementsThatCountAreKeptInTheStateDirectory)
}

// A writer passes over what an ended key announces above the statements that
// count. With the next of those it counts, as announced from then on.
func testWhatAnEndedKeyAnnouncedWaitsFromWhenItCounts(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("stays", 100<<10)
		w.capture("web")
		old := w.reenrol()
		w.write("junk", 1<<20)
		w.capture("web") // 2
		w.take("junk")
		w.write("precious", 2<<20)
		w.capture("web") // 3
		back := w.take("precious")
		w.capture("web") // 4
		w.forget("web", 2)
		time.Sleep(3 * day)
		w.present()
		w.put(layout.KeyDeletion(enginetest.Host, w.domain(), 2), w.signed(old, 2, func(d *statement.Deletion) {
			for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, w.domain())}) {
				w.check(err)
				id, _ := deletion.ParseKey(o.Key)
				d.Announced = append(d.Announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: 1})
			}
		}))
		time.Sleep(9 * day)

		// A daemon looks, and relies on that for hours.
		replies := &replay.Replies{}
		run := func() *history.Snapshot {
			daemon := w.Child(replies)
			host, err := daemon.Host(w.Ctx)
			w.check(err)
			res, err := capture.Capture(w.Ctx, daemon, host, capture.Options{Environment: "web", StateDir: daemon.State.Dir(), Sources: []walk.Source{{Path: w.dir}}})
			w.check(err)
			return res.Snapshot
		}
		run() // 5
		time.Sleep(time.Hour)
		if d := w.present(); d.Deleted.Objects == 0 {
			t.Fatalf("the junk is not deleted: %+v", d)
		}
		w.forget("web", 3)
		time.Sleep(time.Minute)
		if d := w.present(); d.Deleted.Objects > 0 {
			t.Errorf("deleted a minute after it was first heeded: %+v", d.Deleted)
		}
		back()
		s := run()
		w.Restores(s.Ref(), w.dir, treetest.Snapshot(t, w.dir))
		w.Clean()
	})
}

func testAnEndedKeyReplacesNoStatement(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.write("stays", 1000)
		w.capture("web") // 1
		old := w.reenrol()
		w.capture("web") // 2
		w.write("goes", 1<<20)
		w.capture("web") // 3
		back := w.take("goes")
		w.capture("web") // 4
		w.forget("web", 3)
		for range 3 {
			time.Sleep(8 * day)
			w.present()
		}
		for serial := uint64(1); serial <= 2; serial++ {
			w.copyOf(layout.KeyDeletion(enginetest.Host, w.domain(), serial)) // it is there
			m.Overwrite(layout.KeyDeletion(enginetest.Host, w.domain(), serial), w.signed(old, serial, func(d *statement.Deletion) {
				d.Spared = []statement.Object{{Kind: 5}}
			}))
		}
		back()
		s := w.capture("web")
		w.Restores(s.Ref(), w.dir, treetest.Snapshot(t, w.dir))
	})
}

func testPuttingOverAStatementDelaysNothing(t *testing.T) {
	for name, by := range map[string]func(w *world, object []byte) []byte{
		"rubbish":        func(*world, []byte) []byte { return []byte("rubbish") },
		"the same again": func(_ *world, object []byte) []byte { return object },
	} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.write("stays", 1000)
				w.capture("web")
				w.write("goes", 1<<20)
				w.capture("web")
				w.take("goes")
				w.capture("web")
				w.forget("web", 2)
				time.Sleep(3 * day)
				w.present()
				key := layout.KeyDeletion(enginetest.Host, w.domain(), 1)
				object := w.copyOf(key)
				deleted := uint64(0)
				for range 14 {
					m.Overwrite(key, by(w, object))
					time.Sleep(day)
					deleted += w.present().Deleted.Objects
				}
				if deleted == 0 {
					t.Error("in 14 days nothing was deleted")
				}
			})
		})
	}
}

// The host goes on with a copy of the repository, after it worked with the
// original for a while; somebody else prunes the copy.
func testStatementsOfOneStoreAreNotTakenForThoseOfAnother(t *testing.T) {
	for name, url := range map[string]string{"at another place": "copy", "at the same place": "test"} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.write("stays", 1000)
				w.capture("web") // 1
				w.write("x", 1<<20)
				w.capture("web") // 2
				back := w.take("x")
				w.write("y", 1<<20)
				w.capture("web") // 3
				w.take("y")
				w.capture("web") // 4
				time.Sleep(3 * day)
				c := w.copy()
				// In the original y is deleted.
				w.forget("web", 3)
				for range 2 {
					w.free()
					time.Sleep(8 * day)
				}
				// In the copy it is x.
				v := w.over(c)
				v.URL = url
				_, err := v.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(2), Now: time.Now()})
				w.check(err)
				for range 2 {
					v.elsewhere()
					time.Sleep(8 * day)
				}
				back()
				s := v.capture("web")
				v.Restores(s.Ref(), v.dir, treetest.Snapshot(t, v.dir))
				v.Clean()
			})
		})
	}
}

// Who has a key that ended can sign any number of statements, as long as may be.
func testOnlyStatementsThatCountAreKeptInTheStateDirectory(t *testing.T) {
	log := storagetest.NewFaulty(storagetest.NewMemory())
	simulated(t, func() storage.Store { return log }, func(w *world) {
		w.write("stays", 1000)
		w.capture("web") // 1
		old := w.reenrol()
		w.write("goes", 1<<20)
		w.capture("web") // 2
		w.take("goes")
		w.capture("web") // 3
		w.forget("web", 2)
		time.Sleep(3 * day)
		for _, serial := range []uint64{1, 3} {
			w.put(layout.KeyDeletion(enginetest.Host, w.domain(), serial), w.signed(old, serial, func(*statement.Deletion) {}))
		}
		kept := func() (serials []uint64) {
			w.check(filepath.WalkDir(w.State, func(path string, d os.DirEntry, err error) error {
				for serial := range uint64(5) {
					if err == nil && d.Name() == layout.Inverted(serial) && strings.Contains(path, "/pending/") {
						serials = append(serials, serial)
					}
				}
				return err
			}))
			slices.Sort(serials)
			return serials
		}
		want := func(want string, gets int) {
			t.Helper()
			before := len(log.Log())
			w.capture("web")
			for _, op := range log.Log()[before:] {
				if op.Op == storagetest.Get && strings.Contains(op.Key, "/pending/") {
					gets--
				}
			}
			if got := fmt.Sprint(kept()); got != want || gets != 0 {
				t.Errorf("kept are %s, want %s; %d statements were read less than should be", got, want, gets)
			}
		}
		want("[]", 4) // none counts: each is read, and taken in
		if d := w.present(); d.Announced.Objects == 0 {
			t.Fatalf("not announced: %+v", d)
		}
		want("[2]", 3)
		want("[2]", 2)
		w.Clean()
	})
}
