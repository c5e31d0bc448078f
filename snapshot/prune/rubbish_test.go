package prune_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// keys of statements of one kind, by serial.
type keys func(serial uint64) string

// statements are those that are numbered by serials.
func (w *world) statements() map[string]keys {
	w.t.Helper()
	h, err := w.host().Host(w.Ctx)
	w.check(err)
	return map[string]keys{
		"tombstones":        func(n uint64) string { return layout.KeyTombstone(enginetest.Host, "web", n) },
		"pending deletions": func(n uint64) string { return layout.KeyDeletion(enginetest.Host, h.Domain.ID, n) },
	}
}

func (w *world) put(key string, body []byte) {
	w.t.Helper()
	w.check(w.Store.Put(w.Ctx, key, body, storage.PutOptions{}))
}

func (w *world) copyOf(key string) []byte {
	w.t.Helper()
	b, err := storage.Append(w.Ctx, nil, w.Store, key, 0, -1)
	w.check(err)
	return b
}

// prunes forgets, announces and deletes, spoils statements in between, and
// wants nothing to be blocked, nothing lost, and something said.
func (w *world) prunes(pass func(), spoil func(keys)) {
	w.t.Helper()
	t := w.t
	w.write("stays", 10<<10)
	for range 3 {
		w.write("goes", 1<<20)
		w.capture("web")
	}
	tree := treetest.Snapshot(t, w.dir)
	w.forget("web", 1)
	pass()
	if d := w.free(); d.Announced.Objects == 0 {
		t.Fatalf("not announced: %+v", d)
	}
	for _, k := range w.statements() {
		spoil(k)
	}
	told := map[string]bool{}
	hear := func(r *repository.Repository) {
		for _, warning := range w.Warnings() {
			if !authentic.Damaged(warning) {
				t.Errorf("warning: %v", warning)
			}
			for folder := range map[string]int{"tombstones": 0, "pending": 0} {
				told[folder] = told[folder] || strings.Contains(warning.Error(), "/"+folder+"/")
			}
		}
	}
	r := w.host()
	x, err := r.Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(2), Now: time.Now()})
	w.check(err)
	if fmt.Sprint(x.Forgotten) != "[{1 2}]" {
		t.Errorf("forgotten are %v", x.Forgotten)
	}
	hear(r)
	deleted := uint64(0)
	for range 4 {
		pass()
		// Another machine, which remembers nothing of what it read.
		r := w.Bare()
		report, err := prune.Run(w.Ctx, r, prune.Options{})
		w.check(err)
		for _, b := range report.Blocked {
			t.Error(b)
		}
		deleted += report.Domains[0].Deleted.Objects
		hear(r)
	}
	if deleted < 3 {
		t.Errorf("%d objects were deleted", deleted)
	}
	if !told["tombstones"] || !told["pending"] {
		t.Errorf("not all was told: %v", told)
	}
	if packs, containers := w.stored(); packs+containers > 6 {
		t.Errorf("%d packs and %d containers are left", packs, containers)
	}
	w.Restores("web@3", w.dir, tree)
}

func TestRubbish(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("no rubbish among statements blocks forgetting or pruning", testNoRubbishAmongStatementsBlocksForgettingOrPruning)
	t.Run("no rubbish on a server blocks forgetting or pruning", testNoRubbishOnAServerBlocksForgettingOrPruning)
	t.Run("what a key that ended signed last blocks nothing", testWhatAKeyThatEndedSignedLastBlocksNothing)
	t.Run("no rubbish among roots hides an environment", testNoRubbishAmongRootsHidesAnEnvironment)
	t.Run("an environment of rubbish alone is forgotten", testAnEnvironmentOfRubbishAloneIsForgotten)
	t.Run("nothing is read without a limit", testNothingIsReadWithoutALimit)
}

func testNoRubbishAmongStatementsBlocksForgettingOrPruning(t *testing.T) {
	m := storagetest.NewMemory
	for name, spoil := range map[string]func(w *world, m *storagetest.Memory, key keys){
		"at the highest serial": func(w *world, _ *storagetest.Memory, key keys) { w.put(key(layout.MaxNumber), []byte("rubbish")) },
		"above the highest": func(w *world, _ *storagetest.Memory, key keys) {
			w.put(key(layout.MaxNumber+2), []byte("rubbish"))
			w.put(key(layout.MaxNumber), nil)
		},
		"at the serials to come": func(w *world, _ *storagetest.Memory, key keys) {
			w.put(key(2), []byte("rubbish"))
			w.put(key(3), nil)
			w.put(key(5), make([]byte, 2<<20))
		},
		"an older one at the highest serial": func(w *world, _ *storagetest.Memory, key keys) {
			w.put(key(layout.MaxNumber), w.copyOf(key(1)))
		},
		"over the newest": func(w *world, m *storagetest.Memory, key keys) { m.Overwrite(key(1), []byte("rubbish")) },
		"over the newest, and hidden too": func(w *world, m *storagetest.Memory, key keys) {
			m.Overwrite(key(1), nil)
			w.check(m.Delete(w.Ctx, key(1)))
		},
		"a delete marker on the newest": func(w *world, m *storagetest.Memory, key keys) { w.check(m.Delete(w.Ctx, key(1))) },
		"hidden rubbish at the highest": func(w *world, m *storagetest.Memory, key keys) {
			w.put(key(layout.MaxNumber), []byte("rubbish"))
			w.check(m.Delete(w.Ctx, key(layout.MaxNumber)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := m()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.prunes(func() { time.Sleep(8 * day) }, func(k keys) { spoil(w, m, k) })
			})
		})
	}
}

func testNoRubbishOnAServerBlocksForgettingOrPruning(t *testing.T) {
	server := storagetest.VersityGW(t)
	server.Setenv(t)
	server.Bucket(t, "rubbish", storagetest.VersionedBucket)
	s, err := stores.Open(t.Context(), server.URL("rubbish", "repo"), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store := newAged(s)
	dir := filepath.Join(treetest.TempDir(t), "tree")
	w := &world{World: enginetest.New(t, store), t: t, dir: dir, rand: rand.New(rand.NewPCG(1, 2))}
	w.check(os.Mkdir(dir, 0o755))
	w.prunes(func() { store.pass(w) }, func(key keys) {
		w.put(key(layout.MaxNumber), []byte("rubbish"))
		w.put(key(1<<40), w.copyOf(key(1)))
		w.check(s.Delete(w.Ctx, key(1)))
	})
}

func testWhatAKeyThatEndedSignedLastBlocksNothing(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for range 3 {
			w.write("goes", 1<<20)
			w.capture("web")
		}
		// Who took the host over uses up all serials, and announces all.
		old, err := w.host().Host(w.Ctx)
		w.check(err)
		x := &statement.Tombstone{Repository: w.host().ID(), Host: enginetest.Host, Environment: "web", Serial: layout.MaxNumber, Forgotten: statement.NumbersOf(1, 2), Made: time.Now(), Certificate: old.Certificate}
		object, err := x.Encode(old.SigningKey())
		w.check(err)
		w.put(layout.KeyTombstone(enginetest.Host, "web", x.Serial), object)
		d := &statement.Deletion{Repository: x.Repository, Host: enginetest.Host, Domain: old.Domain.ID, Serial: layout.MaxNumber, Since: layout.MaxNumber, Made: time.Now(), Certificate: old.Certificate}
		for key, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/"}) {
			w.check(err)
			if id, ok := deletion.ParseKey(key.Key); ok {
				d.Announced = append(d.Announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: 1})
			}
		}
		manifests := 0
		for d.Announced[manifests].Kind != d.Announced[len(d.Announced)-1].Kind {
			manifests++
		}
		d.Announced = append(d.Announced[manifests:], d.Announced[:manifests]...)
		object, err = d.Encode(old.SigningKey())
		w.check(err)
		w.put(layout.KeyDeletion(enginetest.Host, old.Domain.ID, d.Serial), object)
		if _, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "--reenrol") {
			t.Errorf("after the last serial: %v", err)
		}

		again := w.Open(treetest.TempDir(t))
		again.Unlock(w.ID)
		_, err = again.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
		w.check(err)
		y, err := again.Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(1), Now: time.Now()})
		w.check(err)
		if y.Serial != 1 || fmt.Sprint(y.Forgotten) != "[{1 1}]" {
			t.Errorf("tombstone %d forgets %v", y.Serial, y.Forgotten)
		}
		deleted := uint64(0)
		for range 4 {
			time.Sleep(8 * day)
			report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
			w.check(err)
			for _, b := range report.Blocked {
				t.Fatal(b)
			}
			deleted += report.Domains[0].Deleted.Objects
		}
		if deleted == 0 {
			t.Error("nothing was deleted")
		}
		quiet, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
		w.check(err)
		if d := quiet.Domains[0]; d.Spared.Objects+d.Announced.Objects+d.Deleted.Objects > 0 {
			t.Errorf("it never comes to an end: %+v", d)
		}
		for _, ref := range []string{"web@2", "web@3"} {
			_, s, err := w.Snapshot(ref)
			w.check(err)
			w.check(w.Bare().Whole(w.Ctx, s))
		}
	})
}

func testNoRubbishAmongRootsHidesAnEnvironment(t *testing.T) {
	for name, key := range map[string]string{
		"before all":                     "hosts/h/roots/a",
		"before those of one":            "hosts/h/roots/db/0",
		"between two":                    "hosts/h/roots/e/rubbish",
		"under a name that cannot be":    "hosts/h/roots/dZ/ffffffffffffffff",
		"deeper":                         "hosts/h/roots/db/0/0",
		"above the highest of one":       "hosts/h/roots/web/0000000000000000",
		"beside those of one":            "hosts/h/roots/db-",
		"under the name of one, longer":  "hosts/h/roots/db.2/0",
		"and the host's folder as a key": "hosts/h/roots/db/fffffffffffffffe0",
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.write("db", 1<<20)
				w.capture("db")
				w.write("web", 1<<20)
				w.capture("web")
				tree := treetest.Snapshot(t, w.dir)
				w.check(os.Remove(filepath.Join(w.dir, "web")))
				w.capture("zz")
				w.put(key, []byte("rubbish"))
				for range 4 {
					time.Sleep(8 * day)
					report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
					w.check(err)
					for _, b := range report.Blocked {
						t.Error(b)
					}
					if d := report.Domains; len(d) != 1 || d[0].Snapshots != 3 || d[0].Announced.Objects+d[0].Deleted.Objects > 0 {
						t.Errorf("pruned %+v", d)
					}
				}
				w.Restores("web@1", w.dir, tree)
			})
		})
	}
}

func testAnEnvironmentOfRubbishAloneIsForgotten(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for range 2 {
			w.write("goes", 1<<20)
			w.capture("web")
		}
		w.forget("web", 1)
		w.put(layout.KeyRoot(enginetest.Host, "rubbish", 1), []byte("rubbish"))
		w.put(layout.KeyRoot(enginetest.Host, "rubbish", 1<<50), nil)
		deleted := func() (deleted uint64, blocked bool) {
			for range 3 {
				time.Sleep(8 * day)
				report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
				w.check(err)
				blocked = len(report.Blocked) > 0
				for _, d := range report.Domains {
					deleted += d.Deleted.Objects
				}
			}
			return deleted, blocked
		}
		if n, blocked := deleted(); n > 0 || !blocked {
			t.Errorf("%d objects were deleted though roots do not verify", n)
		}
		for _, n := range []uint64{1, 1 << 50} {
			if n, blocked := deleted(); n > 0 || !blocked {
				t.Errorf("%d objects were deleted though a root does not verify", n)
			}
			r := w.host()
			if _, err := r.Forget(w.Ctx, enginetest.Host, "rubbish", history.Change{Forget: statement.NumbersOf(n + 1), Now: time.Now()}); !errors.Is(err, history.ErrNoSnapshot) {
				t.Errorf("forgetting what there is not: %v", err)
			}
			_, err := r.Forget(w.Ctx, enginetest.Host, "rubbish", history.Change{Forget: statement.NumbersOf(n), Now: time.Now()})
			w.check(err)
		}
		if n, blocked := deleted(); n == 0 || blocked {
			t.Errorf("%d objects were deleted, blocked %v", n, blocked)
		}
	})
}

// bounded refuses to give all of an object, however long it is.
type bounded struct {
	storage.Store
	t *testing.T
}

func (b *bounded) Unwrap() storage.Store { return b.Store }

func (b *bounded) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length < 0 || length > 300<<20 {
		b.t.Errorf("%d bytes of %s are asked for", length, key)
	}
	return b.Store.Get(ctx, key, offset, length)
}

func testNothingIsReadWithoutALimit(t *testing.T) {
	b := &bounded{Store: storagetest.NewMemory(), t: t}
	simulated(t, func() storage.Store { return b }, func(w *world) {
		for range 3 {
			w.write("file", 1<<20)
			w.capture("web")
		}
		w.forget("web", 1)
		for range 3 {
			time.Sleep(8 * day)
			w.free()
		}
		w.check(os.RemoveAll(w.host().State.Dir().Path("index")))
		w.capture("web")
		w.Restores("web@3", w.dir, treetest.Snapshot(t, w.dir))
		w.Clean()
	})
}
