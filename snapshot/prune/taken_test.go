package prune_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/check"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// What follows is done with what a host holds that was taken over: its key, its
// domain, its credentials.

// forge signs a root with a number that has the manifest of another snapshot.
func (w *world) forge(n uint64, previous [32]byte, of *statement.RootBody, started time.Time) (object []byte, hash [32]byte) {
	w.t.Helper()
	r := w.host()
	h, err := r.Host(w.Ctx)
	w.check(err)
	epoch, err := r.CurrentEpoch(w.Ctx)
	w.check(err)
	sealed, err := h.Domain.SealTo(epoch, r.ID(), h.Name)
	w.check(err)
	body := *of
	body.Started, body.Finished = started, started.Add(time.Minute)
	record, err := body.AppendRecord(nil)
	w.check(err)
	x := &statement.Root{Repository: r.ID(), Host: h.Name, Environment: "web", Number: n, Previous: previous, Certificate: h.Certificate,
		Domain: h.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt()}
	x.SealedBody = seal.Once(h.Domain.RootKey(x.Salt), record, nil)
	object, err = x.Encode(h.SigningKey())
	w.check(err)
	return object, sha256.Sum256(object)
}

func key(n uint64) string { return layout.KeyRoot(enginetest.Host, "web", n) }

// overwrite is a plain put: with versions the old one stays beneath.
func (w *world) overwrite(key string, object []byte) {
	w.t.Helper()
	if m, ok := w.Store.(interface{ Overwrite(string, []byte) }); ok {
		m.Overwrite(key, object)
		return
	}
	w.check(w.Store.Delete(w.Ctx, key))
	w.check(w.Store.Put(w.Ctx, key, object, storage.PutOptions{}))
}

// days captures once a day, so many times, and returns the trees and when they
// were captured.
func (w *world) days(n int) (trees []treetest.Tree, at []time.Time) {
	w.t.Helper()
	for i := range n {
		w.write("file", 1<<20)
		w.write("marker", 100+i)
		at = append(at, time.Now())
		w.capture("web")
		trees = append(trees, treetest.Snapshot(w.t, w.dir))
		time.Sleep(day)
	}
	return trees, at
}

// takeover captures on six days, then a tree that the attacker emptied, and signs
// the whole history again over the old roots.
func (w *world) takeover() (trees []treetest.Tree) {
	w.t.Helper()
	trees, at := w.days(6)
	w.check(os.Remove(filepath.Join(w.dir, "file")))
	evil := w.capture("web") // an ordinary snapshot, by the taken host
	var previous [32]byte
	for n := uint64(1); n <= 6; n++ {
		object, hash := w.forge(n, previous, evil.Body, at[n-1])
		w.overwrite(key(n), object)
		previous = hash
	}
	object, _ := w.forge(7, previous, evil.Body, time.Now())
	w.overwrite(key(7), object)
	return trees
}

// named reports whether a finding is about each of the keys.
func named(found []error, keys ...string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool {
		return !slices.ContainsFunc(found, func(err error) bool { return authentic.Tampered(err) && strings.Contains(err.Error(), key) })
	})
}

func TestTakenHost(t *testing.T) {
	t.Run("a taken host that signs its history again", testATakenHostThatSignsItsHistoryAgain)
	t.Run("a snapshot by number is linked with what is remembered", testASnapshotByNumberIsLinkedWithWhatIsRemembered)
	t.Run("a signed root put over the newest has nothing deleted", testASignedRootPutOverTheNewestHasNothingDeleted)
	t.Run("snapshots that claim to be old take no place of good ones", testSnapshotsThatClaimToBeOldTakeNoPlaceOfGoodOnes)
	t.Run("the announcement of a taken host starts no clock of a pruner", testTheAnnouncementOfATakenHostStartsNoClockOfAPruner)
	t.Run("what is forgotten again waits anew", testWhatIsForgottenAgainWaitsAnew)
	t.Run("a root that does not follow the newest brings that into no doubt where versions show", func(t *testing.T) {
		simulated(t, memory, func(w *world) { testADeniedRoot(w, true) })
	})
	t.Run("a root that does not follow the newest blocks a prune without versions until that is forgotten", func(t *testing.T) {
		simulated(t, plainMemory, func(w *world) { testADeniedRoot(w, false) })
	})
	t.Run("what it hid at a key before a good root was stored there brings that into no doubt", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(2)
			w.put(key(3), []byte("rubbish"))
			w.check(w.Store.Delete(w.Ctx, key(3)))
			time.Sleep(time.Minute)
			s := w.capture("web")
			if s.Number != 3 {
				t.Fatalf("it is %s", s.Ref())
			}
			time.Sleep(day)
			object, _ := w.forge(4, [32]byte{1}, s.Body, time.Now())
			w.put(key(4), object)
			w.Warnings()
			for s, err := range w.Bare().Snapshots(w.Ctx, enginetest.Host, "web") {
				if err != nil {
					t.Errorf("%v, %v", s, err)
				}
			}
			if !named(w.Warnings(), key(4)) {
				t.Error("web@4, which denies it, is not named")
			}
		})
	})
	t.Run("the owner vouches for no root that follows one that denies a good one", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(3)
			remembers := w.drillHost()
			head, err := remembers.Head(w.Ctx, enginetest.Host, "web")
			w.check(err)
			denies, hash := w.forge(4, [32]byte{1}, head.Body, time.Now())
			w.put(key(4), denies)
			follows, _ := w.forge(5, hash, head.Body, time.Now())
			w.put(key(5), follows)
			w.reenrol()
			s := w.capture("web")
			if seen, err := remembers.Head(w.Ctx, enginetest.Host, "web"); err != nil || seen.ID != s.ID {
				t.Errorf("whoever saw web@3 does not follow the new key: %v", err)
			}
		})
	})
	t.Run("what it hid, and says that it deleted, is taken back on a machine that a root above does not follow", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			trees, _ := w.days(3)
			remembers := w.drillHost()
			head, err := remembers.Head(w.Ctx, enginetest.Host, "web")
			w.check(err)
			object, _ := w.forge(4, [32]byte{1}, head.Body, time.Now())
			w.put(key(4), object)
			h, err := w.host().Host(w.Ctx)
			w.check(err)
			w.put(layout.KeyDeletion(enginetest.Host, w.domain(), 1), w.signed(h, 1, func(x *statement.Deletion) {
				for _, k := range w.objects() {
					id, _ := deletion.ParseKey(k)
					x.Deleted = append(x.Deleted, statement.Object{Kind: id.Kind, Hash: id.Hash})
					w.check(w.Store.Delete(w.Ctx, k))
				}
				slices.SortFunc(x.Deleted, statement.CompareObjects)
			}))
			w.forget("web", 1, 2)
			if x, err := remembers.Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1, 2), Now: time.Now()}); err != nil || len(x.Forgotten) > 0 {
				t.Fatalf("it stays forgotten: %v, %v", x, err)
			}
			w.Restores("web@2", w.dir, trees[1])
		})
	})
}

// Whoever has the key of a host signs one more root, which denies the newest good one. It
// takes no more than a put at a free key.
func testADeniedRoot(w *world, versions bool) {
	trees, _ := w.days(3)
	_, s, err := w.Snapshot("web@3")
	w.check(err)
	remembers := w.drillHost()
	_, err = remembers.Head(w.Ctx, enginetest.Host, "web")
	w.check(err)
	object, _ := w.forge(4, [32]byte{1}, s.Body, time.Now())
	w.put(key(4), object)
	w.Warnings()
	if _, _, err := w.Snapshot("web@3"); versions != (err == nil) || !versions && !authentic.Tampered(err) {
		w.t.Errorf("web@3: %v", err)
	}
	if found := w.Warnings(); versions && !named(found, key(4)) {
		w.t.Errorf("web@4, which denies it, is not named: %v", found)
	}
	w.reenrol()
	if s := w.capture("web"); s.Number != 5 {
		w.t.Errorf("the next is %s", s.Ref())
	}
	if _, err := remembers.Head(w.Ctx, enginetest.Host, "web"); versions && err != nil {
		w.t.Errorf("whoever saw web@3 does not follow the new key: %v", err)
	}
	blocked := func() int {
		w.t.Helper()
		report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
		w.check(err)
		return len(report.Blocked)
	}
	if versions {
		w.Restores("web@3", w.dir, trees[2])
		if blocked() > 0 {
			w.t.Error("nothing is pruned")
		}
		return
	}
	if blocked() == 0 {
		w.t.Error("it is pruned while it is not known what web@3 is")
	}
	_, err = w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(3), Now: time.Now()})
	w.check(err)
	w.Warnings()
	if n := blocked(); n > 0 || !named(w.Warnings(), key(3)) {
		w.t.Errorf("%d are blocked once web@3 is forgotten, or it is not named", n)
	}
}

func testATakenHostThatSignsItsHistoryAgain(t *testing.T) {
	t.Run("is not believed by a machine without memory", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			trees := w.takeover()
			r := w.Bare()
			count := 0
			for s, err := range r.Snapshots(w.Ctx, enginetest.Host, "web") {
				w.check(err)
				if count++; s.Stored.After(time.Now().Add(-time.Minute)) && s.Number < 7 {
					t.Errorf("%s is taken for stored at %v", s.Ref(), s.Stored)
				}
			}
			if count != 7 || !named(w.Warnings(), key(1), key(2), key(3), key(4), key(5), key(6), key(7)) {
				t.Errorf("%d snapshots, and not all keys that were put over are named", count)
			}
			w.Restores("web@3", w.dir, trees[2])
			report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
			w.check(err)
			if len(report.Damage) < 7 {
				t.Errorf("check reports %v", report)
			}
		})
	})
	t.Run("deletes nothing by a pruner with a policy of its own", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			trees := w.takeover()
			for range 3 {
				w.under(&retention.Policy{Daily: 30})
				time.Sleep(8 * day)
			}
			for i, tree := range trees {
				w.Restores("web@"+string(rune('1'+i)), w.dir, tree)
			}
		})
	})
	t.Run("is not what the owner vouches for when the host is enrolled again", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.takeover()
			again := w.Open(treetest.TempDir(t))
			again.Unlock(w.ID)
			_, err := again.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
			w.check(err)
			if !named(w.Warnings(), key(7)) {
				t.Error("what was put over the head is not named")
			}
			for s, err := range w.Bare().Snapshots(w.Ctx, enginetest.Host, "web") {
				if err != nil {
					t.Errorf("of the true history: %v, %v", s, err)
				}
			}
		})
	})
	t.Run("is found out by a machine that remembers, without versions too", func(t *testing.T) {
		simulated(t, func() storage.Store { return storagetest.NewPlainMemory() }, func(w *world) {
			_, at := w.days(3)
			state := treetest.TempDir(t)
			open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
			for _, err := range open().Snapshots(w.Ctx, enginetest.Host, "web") {
				w.check(err)
			}
			evil := w.capture("web")
			var previous [32]byte
			for n := uint64(1); n <= 3; n++ {
				object, hash := w.forge(n, previous, evil.Body, at[n-1])
				w.overwrite(key(n), object)
				previous = hash
			}
			object, _ := w.forge(4, previous, evil.Body, time.Now())
			w.overwrite(key(4), object)

			for s, err := range open().Snapshots(w.Ctx, enginetest.Host, "web") {
				if !authentic.Tampered(err) {
					t.Errorf("believed: %v, %v", s, err)
				}
			}
			if s, err := open().Head(w.Ctx, enginetest.Host, "web"); !authentic.Tampered(err) {
				t.Errorf("the head does not follow what is remembered: %v, %v", s, err)
			}
		})
	})
	for name, store := range map[string]func() storage.Store{"with versions": memory, "without": func() storage.Store { return storagetest.NewPlainMemory() }} {
		for who, remembers := range map[string]bool{"a pruner that remembers": true, "a pruner without memory": false} {
			t.Run("across gaps, "+name+", by "+who, func(t *testing.T) {
				simulated(t, store, func(w *world) {
					var at []time.Time
					for range 8 {
						w.write("file", 1<<20)
						at = append(at, time.Now())
						w.capture("web")
						time.Sleep(day)
					}
					w.forget("web", 1, 3, 5, 7)
					state := ""
					if remembers {
						state = treetest.TempDir(t)
					}
					run := func() *prune.Report {
						r := w.Open(state)
						r.Unlock(w.ID)
						report, err := prune.Run(w.Ctx, r, prune.Options{Policy: func(string, string) *retention.Policy { return &retention.Policy{Daily: 30} }})
						w.check(err)
						return report
					}
					run()
					head := w.capture("web")
					var olds [][]byte
					for _, n := range []uint64{2, 4, 6} {
						olds = append(olds, w.copyOf(key(n)))
						object, _ := w.forge(n, sha256.Sum256(w.copyOf(key(n-1))), head.Body, at[n-1])
						w.overwrite(key(n), object)
					}
					for range 3 {
						run()
						time.Sleep(8 * day)
					}
					for i, n := range []uint64{2, 4, 6} {
						w.overwrite(key(n), olds[i]) // as whoever finds it out would
						s, err := w.Bare().List(w.Ctx, enginetest.Host, "web")
						w.check(err)
						true_, err := s.Root(w.Ctx, n)
						w.check(err)
						w.check(w.Bare().Whole(w.Ctx, true_))
					}
				})
			})
		}
	}
}

func testASnapshotByNumberIsLinkedWithWhatIsRemembered(t *testing.T) {
	simulated(t, func() storage.Store { return storagetest.NewPlainMemory() }, func(w *world) {
		_, at := w.days(6)
		state := treetest.TempDir(t)
		open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
		head, err := open().Head(w.Ctx, enginetest.Host, "web")
		w.check(err)
		two, hash := w.forge(2, sha256.Sum256(w.copyOf(key(1))), head.Body, at[1])
		three, _ := w.forge(3, hash, head.Body, at[2])
		w.overwrite(key(2), two)
		w.overwrite(key(3), three)
		for _, text := range []string{"web@2", "web@3"} {
			ref, _, err := history.ParseRef(text)
			w.check(err)
			w.Warnings() // of before
			s, err := open().Resolve(w.Ctx, ref, enginetest.Host)
			if !authentic.Tampered(err) && len(w.Warnings()) == 0 {
				t.Errorf("%s is believed: %v, %v", text, s.Ref(), err)
			}
		}
	})
}

func testASignedRootPutOverTheNewestHasNothingDeleted(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("a", 2<<20)
		one := w.capture("web")
		w.write("b", 2<<20)
		two := w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		object, _ := w.forge(2, two.Root.Previous, one.Body, time.Now())
		w.overwrite(key(2), object)
		time.Sleep(3 * day)
		for range 3 {
			if d := w.owner(); d.Announced.Objects+d.Deleted.Objects > 0 {
				t.Errorf("announced %+v, deleted %+v", d.Announced, d.Deleted)
			}
			time.Sleep(8 * day)
		}
		w.Restores("web@2", w.dir, tree)
	})
}

// owner prunes on another machine with the identity.
func (w *world) owner() prune.Domain {
	w.t.Helper()
	report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
	w.check(err)
	if len(report.Domains) == 0 {
		return prune.Domain{}
	}
	return report.Domains[0]
}

// The attacker's snapshots claim that they are of the past days.
func testSnapshotsThatClaimToBeOldTakeNoPlaceOfGoodOnes(t *testing.T) {
	simulated(t, memory, func(w *world) {
		_, days := w.days(10)
		w.write("file", 10)
		evil := w.capture("web") // web@11
		previous, n := evil.ID, evil.Number
		for _, d := range days {
			n++
			object, hash := w.forge(n, previous, evil.Body, d.Add(time.Hour))
			w.put(key(n), object)
			previous = hash
		}
		judged, damaged, err := prune.Judge(w.Ctx, w.Bare(), enginetest.Host, "web", retention.Policy{Daily: 30}, attest.Policy{}, time.Now(), time.UTC)
		w.check(err)
		for n := range uint64(10) {
			if prune.Unkept(judged).Has(n + 1) {
				t.Errorf("web@%d would be forgotten", n+1)
			}
		}
		if len(damaged) > 0 {
			t.Errorf("damaged are %v", damaged)
		}
		for _, j := range judged {
			if j.Number > 11 && !slices.Contains(j.Reasons, retention.TimesDisagree) && !slices.Contains(j.Reasons, retention.Newest) {
				t.Errorf("%s, which claims another time than the store's, is %v", j.Ref(), j.Reasons)
			}
		}
	})
}

// announceAll signs an announcement of every object.
func (w *world) announceAll() {
	w.t.Helper()
	r := w.host()
	h, err := r.Host(w.Ctx)
	w.check(err)
	d, err := r.Deletions(w.Ctx, enginetest.Host, h.Domain.ID)
	w.check(err)
	x := &statement.Deletion{Repository: r.ID(), Host: enginetest.Host, Domain: h.Domain.ID, Serial: d.Newest + 1, Since: 1, Made: time.Now(), Certificate: h.Certificate}
	for _, p := range []string{layout.PrefixPacks(enginetest.Host, h.Domain.ID), layout.PrefixManifests(enginetest.Host, h.Domain.ID)} {
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: p}) {
			w.check(err)
			if id, ok := deletion.ParseKey(o.Key); ok {
				x.Announced = append(x.Announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: uint64(o.Size)})
			}
		}
	}
	slices.SortFunc(x.Announced, statement.CompareObjects)
	object, err := x.Encode(h.SigningKey())
	w.check(err)
	w.put(layout.KeyDeletion(enginetest.Host, h.Domain.ID, x.Serial), object)
}

func testTheAnnouncementOfATakenHostStartsNoClockOfAPruner(t *testing.T) {
	t.Run("that runs once a week", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(4)
			w.owner()
			w.announceAll()
			time.Sleep(7*day - time.Hour)
			w.forget("web", 1, 2, 3) // an hour before the next prune
			time.Sleep(time.Hour + time.Minute)
			if d := w.owner(); d.Deleted.Objects > 0 {
				t.Errorf("%d objects were deleted an hour after they were forgotten", d.Deleted.Objects)
			}
			w.undo("web", 1, 2, 3)
		})
	})
	t.Run("that runs every day, and is kept from sparing by rubbish", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.days(4)
			w.owner()
			w.announceAll()
			w.put(key(9), []byte("rubbish"))
			for i := range 7 {
				time.Sleep(day - time.Minute)
				if i == 6 {
					w.forget("web", 9, 1, 2, 3)
				}
				time.Sleep(time.Minute)
				if d := w.owner(); d.Deleted.Objects > 0 {
					t.Errorf("day %d: %d objects were deleted", i+1, d.Deleted.Objects)
				}
			}
			w.undo("web", 1, 2, 3)
		})
	})
}

// The operator takes back what a host forgot, no prune runs meanwhile, and the
// host forgets it again just before what was announced long ago is due.
func testWhatIsForgottenAgainWaitsAnew(t *testing.T) {
	for name, own := range map[string]bool{"on the host": true, "elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				run := func() prune.Domain {
					if own {
						return w.free()
					}
					return w.owner()
				}
				w.days(3)
				time.Sleep(3 * day)
				w.forget("web", 1, 2)
				if d := run(); d.Announced.Objects == 0 {
					t.Fatal("nothing is announced")
				}
				time.Sleep(3 * day)
				w.undo("web", 1, 2)
				time.Sleep(4*day - time.Hour)
				w.forget("web", 1, 2)
				time.Sleep(2 * time.Hour)
				if d := run(); d.Deleted.Objects > 0 || d.Waiting.Objects == 0 {
					t.Errorf("deleted %+v, waiting %+v, two hours after the tombstone", d.Deleted, d.Waiting)
				}
				w.undo("web", 1)
				w.forget("web", 1)
				time.Sleep(8 * day)
				if d := run(); d.Deleted.Objects == 0 {
					t.Error("nothing is deleted once the time is out")
				}
			})
		})
	}
}
