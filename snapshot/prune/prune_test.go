package prune_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

const day = 24 * time.Hour

// world is a repository in simulated time, with a tree that changes.
type world struct {
	*enginetest.World
	t    *testing.T
	dir  string
	rand *rand.Rand
}

// simulated runs f in simulated time that begins after the files' own.
func simulated(t *testing.T, store func() storage.Store, f func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := treetest.TempDir(t)
		w := &world{t: t, dir: filepath.Join(dir, "tree"), rand: rand.New(rand.NewPCG(1, 2))}
		w.check(os.Mkdir(w.dir, 0o755))
		info, err := os.Stat(w.dir)
		w.check(err)
		time.Sleep(time.Until(info.ModTime()) + day)
		w.World = enginetest.New(t, store())
		f(w)
	})
}

func memory() storage.Store { return storagetest.NewMemory() }

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write makes a file of n random bytes.
func (w *world) write(name string, n int) {
	w.t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rand.Uint64())
	}
	w.check(os.WriteFile(filepath.Join(w.dir, name), b, 0o644))
}

func (w *world) capture(env string) *history.Snapshot {
	w.t.Helper()
	return w.MustCapture(env, w.dir).Snapshot
}

// host is the repository as the host itself opens it, without an identity.
func (w *world) host() *repository.Repository {
	w.t.Helper()
	return w.Open(w.State)
}

func (w *world) forget(env string, numbers ...uint64) {
	w.t.Helper()
	_, err := w.host().Forget(w.Ctx, enginetest.Host, env, history.Change{Forget: statement.NumbersOf(numbers...), Now: time.Now()})
	w.check(err)
}

func (w *world) prune(o prune.Options) *prune.Report {
	w.t.Helper()
	w.Warnings() // of before
	report, err := prune.Run(w.Ctx, w.host(), o)
	w.check(err)
	for _, warning := range w.Warnings() {
		w.t.Errorf("warning: %v", warning)
	}
	return report
}

// free prunes and wants nothing in its way.
func (w *world) free() prune.Domain {
	w.t.Helper()
	report := w.prune(prune.Options{})
	for _, b := range report.Blocked {
		w.t.Fatal(b)
	}
	if len(report.Domains) != 1 {
		w.t.Fatalf("%d domains were pruned", len(report.Domains))
	}
	return report.Domains[0]
}

// stored is how many packs and containers are in the store, hidden ones too.
func (w *world) stored() (packs, containers int) {
	w.t.Helper()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/", Hidden: true}) {
		w.check(err)
		if strings.Contains(o.Key, "/packs/") {
			packs++
		}
		if strings.Contains(o.Key, "/manifests/") {
			containers++
		}
	}
	return packs, containers
}

func TestPrune(t *testing.T) {
	t.Run("what is forgotten is deleted once its time is out", testWhatIsForgottenIsDeletedOnceItsTimeIsOut)
	t.Run("a chunk in an announced pack is stored again", testAChunkInAnAnnouncedPackIsStoredAgain)
	t.Run("an undone snapshot is spared and its time begins anew", testAnUndoneSnapshotIsSparedAndItsTimeBeginsAnew)
	t.Run("nothing is deleted while a snapshot cannot be read", testNothingIsDeletedWhileASnapshotCannotBeRead)
	t.Run("a hidden root still keeps its content", testAHiddenRootStillKeepsItsContent)
	t.Run("a policy of the pruner outweighs a tombstone", testAPolicyOfThePrunerOutweighsATombstone)
	t.Run("locked objects are left for later", testLockedObjectsAreLeftForLater)
	t.Run("a run of days loses nothing", testARunOfDaysLosesNothing)
	t.Run("a run learns that what it reused was announced", testARunLearnsThatWhatItReusedWasAnnounced)
	t.Run("a run that is stopped anywhere is simply run again", testARunThatIsStoppedAnywhereIsSimplyRunAgain)
	t.Run("what it cannot sign or open is left", testWhatItCannotSignOrOpenIsLeft)
}

func testWhatIsForgottenIsDeletedOnceItsTimeIsOut(t *testing.T) {
	for name, store := range map[string]func() storage.Store{"with versions": memory, "without": func() storage.Store { return storagetest.NewPlainMemory() },
		"in a directory of decorators": func() storage.Store { return storagetest.NewFaulty(storagetest.NewMemory()) }} {
		t.Run(name, func(t *testing.T) {
			simulated(t, store, func(w *world) {
				w.write("stays", 100<<10)
				w.write("goes", 5<<20)
				w.capture("web")
				w.write("goes", 10)
				w.capture("web")
				packs, containers := w.stored()
				w.forget("web", 1)
				if _, err := os.Stat(w.dir); err != nil {
					t.Fatal(err)
				}
				if d := w.free(); d.Announced.Objects > 0 || d.Young.Objects == 0 {
					t.Errorf("what is young was announced: %+v", d)
				}
				time.Sleep(3 * day)
				if d := w.free(); d.Announced.Objects < 2 || d.Deleted.Objects > 0 || d.Snapshots != 1 {
					t.Errorf("not announced: %+v", d)
				}
				time.Sleep(6 * day)
				if d := w.free(); d.Announced.Objects > 0 || d.Deleted.Objects > 0 || d.Waiting.Bytes < 2<<20 || d.Due.IsZero() {
					t.Errorf("deleted before the time was out: %+v", d)
				}
				if p, c := w.stored(); p != packs || c != containers {
					t.Errorf("objects went before the time was out")
				}
				time.Sleep(2 * day)
				dry := w.prune(prune.Options{DryRun: true}).Domains[0]
				d := w.free()
				if d.Deleted.Bytes < 2<<20 || d.Waiting.Objects > 0 || dry.Deleted != d.Deleted {
					t.Errorf("not deleted: %+v; the dry run said %+v", d, dry)
				}
				if p, c := w.stored(); p >= packs || c >= containers {
					t.Errorf("%d packs and %d containers are left of %d and %d", p, c, packs, containers)
				}
				w.Clean()
				w.Restores("web@2", w.dir, treetest.Snapshot(t, w.dir))
				if _, _, err := w.Snapshot("web@1"); !errors.Is(err, history.ErrPruned) {
					t.Errorf("a pruned snapshot resolves: %v", err)
				}
				if again := w.free(); again.Deleted.Objects+again.Announced.Objects+again.Spared.Objects > 0 {
					t.Errorf("there was more to do: %+v", again)
				}
				w.write("more", 50<<10)
				w.capture("web")
				w.Restores("web@3", w.dir, treetest.Snapshot(t, w.dir))
				w.Clean()
			})
		})
	}
}

func testAChunkInAnAnnouncedPackIsStoredAgain(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("first", 2<<20)
		w.capture("web")
		saved := filepath.Join(filepath.Dir(w.dir), "saved")
		w.check(os.Rename(filepath.Join(w.dir, "first"), saved))
		w.write("second", 10)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		if d := w.free(); d.Announced.Bytes < 1<<20 {
			t.Fatalf("not announced: %+v", d)
		}
		// It comes back, and its content lies in packs that go.
		w.check(os.Rename(saved, filepath.Join(w.dir, "first")))
		if res := w.MustCapture("web", w.dir); res.NewBytes < 2<<20 {
			t.Errorf("%d bytes are new, want all of the file", res.NewBytes)
		}
		time.Sleep(8 * day)
		if d := w.free(); d.Deleted.Bytes < 1<<20 || d.Spared.Objects > 0 {
			t.Fatalf("not deleted: %+v", d)
		}
		w.Clean()
		w.Restores("web@3", w.dir, treetest.Snapshot(t, w.dir))
	})
}

func testAnUndoneSnapshotIsSparedAndItsTimeBeginsAnew(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("file", 2<<20)
		w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		w.write("file", 10)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		w.free()
		w.Warnings() // of before
		_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()})
		w.check(err)
		if warnings := w.Warnings(); len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "announced") {
			t.Errorf("undoing what is announced warns %v", warnings)
		}
		time.Sleep(8 * day)
		if d := w.free(); d.Spared.Bytes < 1<<20 || d.Deleted.Objects > 0 {
			t.Fatalf("not spared: %+v", d)
		}
		w.Restores("web@1", w.dir, tree)
		w.forget("web", 1)
		if d := w.free(); d.Announced.Bytes < 1<<20 || d.Deleted.Objects > 0 {
			t.Fatalf("not announced anew: %+v", d)
		}
		time.Sleep(8 * day)
		if d := w.free(); d.Deleted.Bytes < 1<<20 {
			t.Fatalf("not deleted: %+v", d)
		}
		if _, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()}); !errors.Is(err, history.ErrPruned) {
			t.Errorf("what was deleted is undone: %v", err)
		}
	})
}

func testNothingIsDeletedWhileASnapshotCannotBeRead(t *testing.T) {
	for name, hurt := range map[string]func(w *world, m *storagetest.Memory){
		"a root is damaged": func(w *world, m *storagetest.Memory) {
			m.Edit(layout.KeyRoot(enginetest.Host, "web", 2), func(b []byte) []byte { b[50] ^= 1; return b })
		},
		"a root is missing": func(w *world, m *storagetest.Memory) { m.Forget(layout.KeyRoot(enginetest.Host, "web", 2)) },
		"a list of objects was replaced": func(w *world, m *storagetest.Memory) {
			for _, key := range m.Keys() {
				if strings.Contains(key, "/manifests/") {
					m.Edit(key, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
				}
			}
		},
		"a needed pack is missing": func(w *world, m *storagetest.Memory) {
			for _, key := range m.Keys() {
				if strings.Contains(key, "/packs/") {
					m.Forget(key)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				for range 3 {
					w.write("file", 1<<20)
					w.capture("web")
				}
				w.forget("web", 1)
				time.Sleep(3 * day)
				w.free()
				time.Sleep(8 * day)
				w.write("file", 1<<20)
				w.capture("web") // of which no prune remembers the list
				hurt(w, m)
				before := len(m.Keys())
				report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
				w.check(err)
				if len(report.Blocked) != 1 || !authentic.Damaged(report.Blocked[0].Err) {
					t.Errorf("blocked by %v", report.Blocked)
				}
				if len(m.Keys()) != before {
					t.Errorf("%d objects became %d", before, len(m.Keys()))
				}
			})
		})
	}
}

func testAHiddenRootStillKeepsItsContent(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.write("file", 1<<20)
		w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		time.Sleep(3 * day)
		// Who holds the host's credentials hides the snapshot, and the pruner
		// is another machine that remembers nothing.
		w.check(m.Delete(w.Ctx, layout.KeyRoot(enginetest.Host, "web", 1)))
		for range 2 {
			report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
			w.check(err)
			if d := report.Domains[0]; d.Announced.Objects+d.Deleted.Objects > 0 || d.Snapshots != 1 {
				t.Errorf("pruned %+v", d)
			}
			time.Sleep(8 * day)
		}
		w.Restores("web@1", w.dir, tree)
	})
}

func testAPolicyOfThePrunerOutweighsATombstone(t *testing.T) {
	simulated(t, memory, func(w *world) {
		var trees []treetest.Tree
		for range 4 {
			w.write("file", 1<<20)
			w.capture("web")
			trees = append(trees, treetest.Snapshot(t, w.dir))
			time.Sleep(day)
		}
		w.forget("web", 1, 2, 3)
		keep := &retention.Policy{Last: 2}
		run := func() *prune.Report {
			report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{Policy: func(host, env string) *retention.Policy { return keep }})
			w.check(err)
			if len(report.Blocked) > 0 {
				t.Fatal(report.Blocked)
			}
			return report
		}
		time.Sleep(3 * day)
		report := run()
		if len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "forgot 1 snapshot of web that the policy") {
			t.Errorf("notes %q", report.Notes)
		}
		time.Sleep(8 * day)
		if d := run().Domains[0]; d.Deleted.Bytes < 1<<20 || d.Snapshots != 2 {
			t.Errorf("pruned %+v", d)
		}
		_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(3), Now: time.Now()})
		w.check(err)
		w.Restores("web@3", w.dir, trees[2])
		if _, _, err := w.Snapshot("web@2"); !errors.Is(err, history.ErrPruned) {
			t.Errorf("web@2: %v", err)
		}
		// A policy that comes too late gets an error, and blocks nothing.
		keep = &retention.Policy{Last: 9}
		if late := fmt.Sprint(run().Notes); !strings.Contains(late, "deleted already") {
			t.Errorf("notes %s", late)
		}
	})
}

func testLockedObjectsAreLeftForLater(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.write("file", 1<<20)
		w.capture("web")
		packs, _ := w.stored()
		for _, key := range m.Keys() {
			if strings.Contains(key, "/packs/") {
				w.check(m.Retain(w.Ctx, key, "", storage.Retention{Mode: storage.Compliance, Until: time.Now().Add(30 * day)}))
			}
		}
		w.write("file", 10)
		w.capture("web")
		w.forget("web", 1)
		time.Sleep(3 * day)
		w.free()
		time.Sleep(8 * day)
		d := w.free()
		if d.Locked.Objects != uint64(packs) || d.Deleted.Objects == 0 {
			t.Errorf("of %d locked packs: %+v", packs, d)
		}
		w.Clean()
		time.Sleep(30 * day)
		if d := w.free(); d.Deleted.Objects != uint64(packs) || d.Locked.Objects > 0 {
			t.Errorf("once the locks are over: %+v", d)
		}
		w.Clean()
	})
}

func testARunOfDaysLosesNothing(t *testing.T) {
	for name, hours := range map[string][3]int{"of one day": {9, 15, 22}, "of more than a day": {9, 20, 30}, "of four days": {20, 55, 95}} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.write("early", 1<<20)
				w.capture("web")
				// Its three packs, which fit into its memory at once, come slowly.
				slow := *w.World
				faulty := storagetest.NewFaulty(m)
				for i, h := range hours {
					faulty.Add(storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: i + 1, Fault: storagetest.Delayed(time.Duration(h) * time.Hour)})
				}
				slow.Store = faulty
				w.write("late", 4900<<10)
				tree := treetest.Snapshot(t, w.dir)
				began := time.Now()
				done := make(chan error, 1)
				go func() {
					_, err := slow.Capture("db", nil, w.dir)
					done <- err
				}()
				var err error
				for running := true; running; {
					select {
					case err = <-done:
						running = false
					case <-time.After(7 * time.Hour):
						w.prune(prune.Options{Announce: prune.MinAnnounce})
					}
				}
				if took := time.Since(began); err != nil || took < time.Duration(hours[2])*time.Hour {
					t.Fatalf("the run took %v and ended with %v", took, err)
				}
				w.Restores("db@1", w.dir, tree)
				w.Clean()
			})
		})
	}
}

func testARunLearnsThatWhatItReusedWasAnnounced(t *testing.T) {
	for name, apart := range map[string]bool{"before its manifest": true, "while its last pack is stored, with the manifest": false} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				w.Apart = apart
				w.write("shared", 2<<20)
				w.capture("web")
				saved := filepath.Join(filepath.Dir(w.dir), "saved")
				w.check(os.Rename(filepath.Join(w.dir, "shared"), saved))
				w.write("other", 10)
				w.capture("web")
				w.forget("web", 1)
				time.Sleep(3 * day) // nobody has announced anything yet
				w.check(os.Rename(saved, filepath.Join(w.dir, "shared")))
				w.write("new", 100<<10)
				slow := w.Over(storagetest.NewFaulty(m, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.Delayed(5 * day)}))
				done := make(chan error, 1)
				go func() {
					_, err := slow.Capture("db", func(o *snapshot.Options) {}, w.dir)
					done <- err
				}()
				for range 11 {
					time.Sleep(12 * time.Hour)
					w.prune(prune.Options{Announce: prune.MinAnnounce})
				}
				if err := <-done; !errors.Is(err, objects.ErrOvertaken) {
					t.Fatalf("a run whose chunks were deleted ends with %v", err)
				}
				w.capture("db")
				w.Restores("db@1", w.dir, treetest.Snapshot(t, w.dir))
				w.Clean()
			})
		})
	}
}

func testARunThatIsStoppedAnywhereIsSimplyRunAgain(t *testing.T) {
	for name, effect := range map[string]bool{"before an operation": false, "after an operation": true} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				for range 5 {
					w.write("file", 2<<20)
					w.capture("web")
				}
				tree := treetest.Snapshot(t, w.dir)
				before, _ := w.stored()
				w.forget("web", 1, 2, 3, 4)
				time.Sleep(3 * day)
				ended, step := 0, 1
				if testing.Short() {
					step = 7
				}
				for n := 1; ended < 3 && n < 300; n += step {
					faulty := storagetest.NewFaulty(m)
					stopped := *w.World
					stopped.Store = faulty
					r := stopped.Open(w.State)
					faulty.Clear()
					faulty.StopAt(n, effect)
					if _, err := prune.Run(w.Ctx, r, prune.Options{Announce: prune.MinAnnounce}); err == nil {
						ended++
						time.Sleep(3 * day)
					} else if !errors.Is(err, storagetest.ErrStopped) {
						t.Fatalf("stopped at operation %d it says %v", n, err)
					}
					w.Restores("web@5", w.dir, tree)
				}
				w.Clean()
				if d := w.free(); d.Announced.Objects+d.Deleted.Objects+d.Spared.Objects+d.Waiting.Objects > 0 {
					t.Errorf("something is left to do: %+v", d)
				}
				if packs, _ := w.stored(); ended < 3 || packs >= before {
					t.Errorf("%d packs are left of %d, after %d runs that came to their end", packs, before, ended)
				}
			})
		})
	}
}

func testWhatItCannotSignOrOpenIsLeft(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("file", 1<<20)
		w.capture("web")
		r := w.Open("") // neither the host nor an identity
		report, err := prune.Run(w.Ctx, r, prune.Options{})
		w.check(err)
		if len(report.Blocked) != 1 || !errors.Is(report.Blocked[0].Err, trust.ErrNoUsableIdentity) {
			t.Errorf("blocked by %v", report.Blocked)
		}
		if _, err := prune.Run(w.Ctx, w.host(), prune.Options{Announce: time.Hour}); err == nil {
			t.Error("an hour's notice was taken")
		}
	})
}
