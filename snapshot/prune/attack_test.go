package prune_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	capture "knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/replay"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// Breaks that were found by an attack on the product. Each test states the right
// outcome, and fails while the break is there.

// forgeBody signs a root as forge does, with a body that edit made.
func (w *world) forgeBody(n uint64, previous [32]byte, of *statement.RootBody, edit func(*statement.RootBody)) (object []byte, hash [32]byte) {
	w.t.Helper()
	r := w.host()
	h, err := r.Host(w.Ctx)
	w.check(err)
	epoch, err := r.CurrentEpoch(w.Ctx)
	w.check(err)
	sealed, err := h.Domain.SealTo(epoch, r.ID(), h.Name)
	w.check(err)
	body := *of
	edit(&body)
	record, err := body.AppendRecord(nil)
	w.check(err)
	x := &statement.Root{Repository: r.ID(), Host: h.Name, Environment: "web", Number: n, Previous: previous, Certificate: h.Certificate,
		Domain: h.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt()}
	x.SealedBody = seal.Once(h.Domain.RootKey(x.Salt), record, nil)
	object, err = x.Encode(h.SigningKey())
	w.check(err)
	return object, sha256.Sum256(object)
}

// bury signs a tombstone with the host's key, past the checks of the client.
func (w *world) bury(serial uint64, edit func(*statement.Tombstone)) {
	w.t.Helper()
	r := w.host()
	h, err := r.Host(w.Ctx)
	w.check(err)
	x := &statement.Tombstone{Repository: r.ID(), Host: h.Name, Environment: "web", Serial: serial, Made: time.Now(), Certificate: h.Certificate}
	edit(x)
	object, err := x.Encode(h.SigningKey())
	w.check(err)
	w.put(layout.KeyTombstone(h.Name, "web", serial), object)
}

func TestAttack(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("what is forgotten again waits, however long ago it was announced", testForgottenAgainAfterALongAnnouncement)
	t.Run("an announcement with an ended key starts no clock", testAnAnnouncementWithAnEndedKeyStartsTheClockOfTheNewHost)
	t.Run("a tombstone of an ended key forgets no later snapshot", testATombstoneOverTheFutureOutlivesTheKeyThatSignedIt)
	t.Run("no snapshot is forgotten before it is taken", testASnapshotIsBornForgotten)
	t.Run("a false time of beginning takes the place of no past day", testASnapshotThatWasBegunLongAgoTakesThePlaceOfThatOfADay)
	t.Run("a poisoned memory does not outlive the key", testAPoisonedMemoryOutlivesTheKey)
	t.Run("an environment that delete markers hide is named", testAnEnvironmentIsHiddenByDeleteMarkers)
	t.Run("a reader fetches little of what was put over a pack", testAReaderFetchesEverythingThatWasPutOverAPack)
	t.Run("collapsed snapshots push no good ones out of a policy elsewhere", testCollapsedSnapshotsPushGoodOnesOutOfAPolicyElsewhere)
	t.Run("an ended key keeps nothing that the owner announced", testAnEndedKeyKeepsWhatTheOwnerAnnouncedFromBeingDeleted)
	t.Run("a tombstone that is full does not stop forgetting", testATombstoneThatIsFullLetsNobodyForget)
	t.Run("a late root that is put again later deletes nothing early", testALateRootIsPutAgainLater)
	t.Run("a host that does not exist costs a pruner nothing", testAHostThatIsNoneCostsAMegabyte)
	t.Run("a root put over between listing and reading is not remembered", testARootPutOverBetweenListingAndReadingIsRememberedForGood)
	t.Run("an environment that is named as an ID hides no snapshot", testAnEnvironmentIsNamedAsAnID)
	t.Run("a stray key hides no root from who asks by number", testAStrayKeyHidesARootFromWhoAsksByNumber)
	t.Run("the owner vouches for the true head", testTheOwnerVouchesForWhatWasPutOverTheHeadInBetween)
	t.Run("a false start of the statements hides no deletion from a writer", testSinceHidesFromAWriterWhatWasJustDeleted)
	t.Run("a poisoned memory names its files", testAPoisonedMemoryNamesItsFilesThatHeld)
}

// What is forgotten again an hour ago waits (FORMAT 10, rule 6: every
// tombstone of the time of an announcement must forget it), however long ago the
// announcement was. A prune that runs once a month must not delete at once.
func testForgottenAgainAfterALongAnnouncement(t *testing.T) {
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
				w.forget("web", 1, 2) // the attacker
				if d := run(); d.Announced.Objects == 0 {
					t.Fatal("nothing is announced")
				}
				time.Sleep(3 * day)
				w.undo("web", 1, 2) // the operator
				time.Sleep(27 * day)
				w.forget("web", 1, 2) // the attacker, an hour before the monthly prune
				time.Sleep(time.Hour)
				if d := run(); d.Deleted.Objects > 0 {
					t.Errorf("deleted %+v an hour after it was forgotten", d.Deleted)
				}
				if _, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1, 2), Now: time.Now()}); err != nil {
					t.Errorf("it cannot be taken back: %v", err)
				}
			})
		})
	}
}

// The same, where the key that announces has ended, and the host was
// enrolled again (SECURITY: what is signed with a key that ended changes nothing).
func testAnAnnouncementWithAnEndedKeyStartsTheClockOfTheNewHost(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("stays", 1000)
		w.capture("web") // 1
		old := w.reenrol()
		w.days(5) // 2 to 6
		time.Sleep(3 * day)
		w.forget("web", 2)
		own := func() (out prune.Domain) {
			report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
			w.check(err)
			for _, b := range report.Blocked {
				t.Logf("blocked: %v", b)
			}
			for _, d := range report.Domains {
				if d.ID == w.domain() {
					out = d
				}
			}
			return out
		}
		if d := own(); d.Announced.Objects == 0 {
			t.Fatal("nothing is announced")
		}
		w.put(layout.KeyDeletion(enginetest.Host, w.domain(), 2), w.signed(old, 2, func(d *statement.Deletion) {
			for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/"}) {
				w.check(err)
				if id, ok := deletion.ParseKey(o.Key); ok {
					d.Announced = append(d.Announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: uint64(o.Size)})
				}
			}
			slices.SortFunc(d.Announced, statement.CompareObjects)
		}))
		w.forget("web", 3)
		if d := own(); d.Announced.Objects == 0 { // number 3, after which 2 counts
			t.Fatal("nothing is announced")
		}
		time.Sleep(7*day - time.Hour)
		w.forget("web", 4, 5)
		time.Sleep(time.Hour + time.Minute)
		own()
		if _, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(4, 5), Now: time.Now()}); err != nil {
			t.Errorf("an hour after it was forgotten it cannot be taken back: %v", err)
		}
	})
}

// After a break-in the operator takes back what the host forgot, with the
// identity, and enrols it again, as SECURITY describes. The host captures, with small
// numbers; nothing that the old key said of numbers that no snapshot had holds on.
func testATombstoneOverTheFutureOutlivesTheKeyThatSignedIt(t *testing.T) {
	for name, last := range map[string]uint64{"up to the last number": layout.MaxNumber, "up to 2^40": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.days(3)
				w.bury(1, func(x *statement.Tombstone) {
					x.Forgotten = statement.Numbers{{First: 1, Last: 2}, {First: 4, Last: last}}
				})
				_, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1, 2), Now: time.Now()})
				w.check(err)
				w.reenrol()
				result, err := w.Capture("web", nil, w.dir)
				if err != nil {
					t.Errorf("the host that was enrolled again captures nothing: %v", err)
				} else if result.Snapshot.Number > 10 {
					t.Errorf("the next snapshot is %s", result.Snapshot.Ref())
				}
				if _, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.Numbers{{First: 4, Last: last}}, Now: time.Now()}); err != nil {
					t.Errorf("and it cannot be taken back: %v", err)
				}
			})
		})
	}
}

// Web@4 restores what was captured, or is not believed (SECURITY: "a snapshot
// that takes that number later is not forgotten by it").
func testASnapshotIsBornForgotten(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.days(3)
		w.bury(1, func(x *statement.Tombstone) { x.Forgotten, x.Free = statement.NumbersOf(1), math.MaxInt64 })
		w.put(key(4), []byte("rubbish"))
		_, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(4), Now: time.Now()})
		w.check(err)
		m.Forget(key(4)) // by who looks after the store
		w.write("precious", 1<<20)
		s := w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		w.take("precious")
		w.capture("web")
		x, err := w.Bare().Tombstone(w.Ctx, enginetest.Host, "web")
		w.check(err)
		if x.Forgotten.Has(s.Number) {
			t.Errorf("%s, which the host took just now, is forgotten: %v", s.Ref(), x.Forgotten)
		}
		for range 3 {
			time.Sleep(8 * day)
			w.owner()
		}
		if _, _, err := w.Snapshot(s.Ref()); err != nil {
			t.Errorf("it was deleted: %v", err)
			return
		}
		w.Restores(s.Ref(), w.dir, tree)
	})
}

// Web@<a past day> is the true snapshot of that day, though whoever holds the
// key signs a newer one that claims to have begun long ago, and to have ended now.
func testASnapshotThatWasBegunLongAgoTakesThePlaceOfThatOfADay(t *testing.T) {
	simulated(t, memory, func(w *world) {
		trees, at := w.days(6)
		w.take("file")
		w.write("evil", 1000)
		evil := w.capture("web") // 7, an ordinary one, from which the body is taken
		object, _ := w.forgeBody(8, evil.ID, evil.Body, func(b *statement.RootBody) {
			b.Started, b.Finished = at[0].Add(-365*day), time.Now()
		})
		w.put(key(8), object)
		ref := "web@" + at[2].Add(time.Minute).UTC().Format(time.RFC3339)
		_, s, err := w.Snapshot(ref)
		w.check(err)
		if s.Number != 3 {
			t.Errorf("%s is %s; warnings %v", ref, s.Ref(), w.Warnings())
			return
		}
		w.Restores(ref, w.dir, trees[2])
	})
}

// A machine that saw a root with a number of 2^40 or more goes on once the
// host was enrolled again, or names the file of its memory that is to be removed.
func testAPoisonedMemoryOutlivesTheKey(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(3)
		state := treetest.TempDir(t)
		open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
		head, err := open().Head(w.Ctx, enginetest.Host, "web")
		w.check(err)
		object, _ := w.forge(1<<41, [32]byte{1}, head.Body, time.Now())
		w.put(key(1<<41), object)
		for _, err := range open().Snapshots(w.Ctx, enginetest.Host, "web") { // any `list`
			_ = err
		}
		w.reenrol()
		w.write("more", 1000)
		w.capture("web")
		if _, err := open().Head(w.Ctx, enginetest.Host, "web"); err != nil {
			t.Errorf("latest: %v", err)
		}
		report, err := prune.Run(w.Ctx, open(), prune.Options{})
		w.check(err)
		for _, b := range report.Blocked {
			if !strings.Contains(b.Error(), "remove") && !strings.Contains(b.Error(), state) {
				t.Errorf("prune is blocked without a way out: %v", b)
			}
		}
		// The same machine without its memory does:
		if _, err := w.Bare().Head(w.Ctx, enginetest.Host, "web"); err != nil {
			t.Errorf("without memory: %v", err)
		}
	})
}

// RIGHT: `list` and `check` on a machine without memory show an environment of which
// every root is hidden by a delete marker (as prune and --reenrol do), and name that.
func testAnEnvironmentIsHiddenByDeleteMarkers(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(2)
		w.capture("db")
		w.check(w.Store.Delete(w.Ctx, layout.KeyRoot(enginetest.Host, "db", 1)))
		r := w.Bare()
		envs, err := r.EveryEnvironment(w.Ctx, enginetest.Host) // of which list, check, forget, damage and status are made
		w.check(err)
		if !slices.Contains(envs, "db") {
			t.Errorf("list shows %v, warnings %v", envs, w.Warnings())
		}
		report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
		w.check(err)
		if !slices.ContainsFunc(report.Damage, func(d check.Damage) bool { return strings.Contains(d.Object, "/db/") }) {
			t.Errorf("check finds nothing wrong: %d snapshots, damage %v, notes %v", report.Snapshots, report.Damage, report.Notes)
		}
		if _, s, err := w.Snapshot("db"); err != nil || s.Number != 1 {
			t.Logf("db@latest: %v", err)
		}
	})
}

// counting counts the versions that are fetched.
type counting struct {
	*storagetest.Memory
	gets atomic.Int64
}

func (s *counting) GetVersion(ctx context.Context, key, id string, offset, length int64) (io.ReadCloser, error) {
	s.gets.Add(1)
	return s.Memory.GetVersion(ctx, key, id, offset, length)
}

// Of a pack that was put over many times the earliest version is looked at
// first (FORMAT 4), so that a reader does not fetch everything that was put over it:
// up to 256 MiB each, which cost the attacker a server-side copy.
func testAReaderFetchesEverythingThatWasPutOverAPack(t *testing.T) {
	m := &counting{Memory: storagetest.NewMemory()}
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.write("file", 1000)
		w.capture("web")
		tree := treetest.Snapshot(t, w.dir)
		for _, k := range m.Keys() {
			if _, _, _, ok := layout.ParsePackKey(k); ok {
				body := w.copyOf(k)
				for i := range 500 {
					body := slices.Clone(body)
					body[i%len(body)] ^= 1
					for j := range body {
						body[j] ^= byte(i + 1)
					}
					m.Overwrite(k, body)
				}
			}
		}
		w.Restores("web", w.dir, tree)
		if n := m.gets.Load(); n > 20 {
			t.Errorf("%d versions were fetched to restore one small file", n)
		}
	})
}

// Whoever forgets by a policy for another host compares the counts of the roots
// by itself (FORMAT 9): snapshots of which a source collapsed push no good ones out,
// although the host does not report it.
func testCollapsedSnapshotsPushGoodOnesOutOfAPolicyElsewhere(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(6)
		w.check(os.Remove(filepath.Join(w.dir, "marker")))
		w.collapse(6)
		judged, _, err := prune.Judge(w.Ctx, w.Bare(), enginetest.Host, "web", retention.Policy{Last: 5}, attest.Policy{}, time.Now(), time.UTC)
		w.check(err)
		for n := uint64(2); n <= 6; n++ {
			if prune.Unkept(judged).Has(n) {
				t.Errorf("the owner forgets web@%d, a good one", n)
			}
		}
	})
}

// A key that ended does not keep an announcement of the owner from coming due
// (SECURITY: "signed with a key that ended, changes neither what it holds nor since
// when").
func testAnEndedKeyKeepsWhatTheOwnerAnnouncedFromBeingDeleted(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	for name, evil := range map[string]bool{"without the attack": false, "with it": true} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.write("stays", 1000)
				w.capture("web") // 1
				old := w.reenrol()
				for range 25 {
					w.write("goes", 1<<19)
					s := w.capture("web")
					if s.Number > 2 {
						w.forget("web", s.Number-1)
					}
					d, err := w.Bare().Deletions(w.Ctx, enginetest.Host, w.domain())
					w.check(err)
					if n := d.Free(); evil && n == d.Newest+1 {
						w.put(layout.KeyDeletion(enginetest.Host, w.domain(), n), w.signed(old, n, func(x *statement.Deletion) {
							for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/"}) {
								w.check(err)
								if id, ok := deletion.ParseKey(o.Key); ok && strings.Contains(o.Key, w.domain().String()) {
									x.Spared = append(x.Spared, statement.Object{Kind: id.Kind, Hash: id.Hash})
								}
							}
							slices.SortFunc(x.Spared, statement.CompareObjects)
						}))
					}
					w.present()
					time.Sleep(day)
				}
				packs, containers := w.stored()
				t.Logf("%d packs, %d containers", packs, containers)
				if packs > 20 {
					t.Errorf("in 25 days nothing was deleted: %d packs, %d containers", packs, containers)
				}
			})
		})
	}
}

// A host forgets by its policy, whatever somebody who holds its key forgot
// before: numbers that no snapshot has take no room in the tombstones that follow.
func testATombstoneThatIsFullLetsNobodyForget(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(3)
		r := w.host()
		h, err := r.Host(w.Ctx)
		w.check(err)
		x := &statement.Tombstone{Repository: r.ID(), Host: h.Name, Environment: "web", Serial: 1, Made: time.Now(), Certificate: h.Certificate}
		all := make(statement.Numbers, 0, 1<<19)
		for n := range uint64(1 << 19) {
			all = append(all, statement.Range{First: 100 + 2*n, Last: 100 + 2*n})
		}
		var object []byte
		for n := 1 << 19; ; n-- {
			x.Forgotten = all[:n]
			if object, err = x.Encode(h.SigningKey()); err == nil {
				break
			}
		}
		w.put(layout.KeyTombstone(h.Name, "web", 1), object)
		if _, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Forget: statement.NumbersOf(1), Now: time.Now()}); err != nil {
			t.Errorf("the host forgets nothing any more: %v", err)
		}

	})
}

// On a store without versions, an object that was announced, and that a capture
// under way took up, is not deleted an hour after that snapshot is forgotten; also not
// when its root was put again, byte for byte, when a capture could not be under way.
func testALateRootIsPutAgainLater(t *testing.T) {
	for name, again := range map[string]bool{"without the attack": false, "with it": true} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func() storage.Store { return storagetest.NewPlainMemory() }, func(w *world) {
				w.write("stays", 1000)
				w.capture("web") // 1
				w.write("precious", 2<<20)
				one := w.capture("web") // 2
				back := w.take("precious")
				w.capture("web") // 3
				w.forget("web", 2)
				time.Sleep(3 * day)
				_ = one
				// A capture began before the announcement, and ends after it: it has the
				// manifest of web@2 here.
				object, _ := w.forge(4, sha256.Sum256(w.copyOf(key(3))), one.Body, time.Now())
				if d := w.owner(); d.Announced.Objects == 0 {
					t.Fatal("nothing is announced")
				}
				time.Sleep(20 * time.Hour)
				w.put(key(4), object)
				back()
				w.capture("web") // 5, which stores it again
				if again {
					time.Sleep(6 * time.Hour)
					w.overwrite(key(4), w.copyOf(key(4)))
				} else {
					time.Sleep(6 * time.Hour)
				}
				time.Sleep(6*day - 3*time.Hour)
				w.forget("web", 4) // an hour before the weekly prune
				time.Sleep(2 * time.Hour)
				w.owner()
				if _, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(4), Now: time.Now()}); err != nil {
					t.Errorf("it cannot be taken back: %v", err)
				}
			})
		})
	}
}

// An object of one byte under the name of a host that there is not makes nobody
// who prunes all hosts store a megabyte for it.
func testAHostThatIsNoneCostsAMegabyte(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(2)
		w.put(layout.KeyPack("nobody", w.domain(), sha256.Sum256([]byte{1})), []byte{1})
		w.owner()
		size := int64(0)
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixHosts + "nobody/"}) {
			w.check(err)
			size += o.Size
		}
		if size > 1000 {
			t.Errorf("the pruner stored %d bytes for it", size)
		}
	})
}

// raced is a store where somebody acts between a listing of roots and the first root
// that is read after it.
type raced struct {
	*storagetest.Memory
	mu   sync.Mutex
	then func()
}

func (s *raced) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if strings.Contains(key, "/roots/") {
		s.mu.Lock()
		if then := s.then; then != nil {
			s.then = nil
			then()
		}
		s.mu.Unlock()
	}
	return s.Memory.Get(ctx, key, offset, length)
}

// List lists a page at once, as a bucket does.
func (s *raced) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		var page []storage.Object
		for x, err := range s.Memory.List(ctx, o) {
			if err != nil {
				yield(x, err)
				return
			}
			page = append(page, x)
		}
		for _, x := range page {
			if !yield(x, nil) {
				return
			}
		}
	}
}

// Of several versions the earliest that verifies is the object, also when the
// later one comes between the listing and the read; such a later one is not
// remembered, and a pruner deletes nothing for it.
func testARootPutOverBetweenListingAndReadingIsRememberedForGood(t *testing.T) {
	m := &raced{Memory: storagetest.NewMemory()}
	simulated(t, func() storage.Store { return m }, func(w *world) {
		state := treetest.TempDir(t)
		open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
		run := func() {
			r := open()
			report, err := prune.Run(w.Ctx, r, prune.Options{})
			w.check(err)
			t.Log(report.Domains, report.Blocked, report.Notes, w.Warnings())
		}
		trees, at := w.days(3)
		run() // the pruner remembers 1 to 3
		more, at2 := w.days(3)
		trees, at = append(trees, more...), append(at, at2...)
		w.take("file")
		evil := w.capture("web") // 7, by the taken host
		previous := sha256.Sum256(w.copyOf(key(3)))
		forged := map[uint64][]byte{}
		for n := uint64(4); n <= 7; n++ {
			started := time.Now()
			if n < 7 {
				started = at[n-1]
			}
			forged[n], previous = w.forge(n, previous, evil.Body, started)
		}
		time.Sleep(3 * day)
		m.then = func() {
			for n := uint64(4); n <= 7; n++ {
				m.Overwrite(key(n), forged[n])
			}
		}
		for range 3 {
			run()
			time.Sleep(8 * day)
		}
		ref, _, err := history.ParseRef("web@5")
		w.check(err)
		r := open()
		if s, err := r.Resolve(w.Ctx, ref, enginetest.Host); err != nil || s.ID == sha256.Sum256(forged[5]) {
			t.Errorf("the machine that remembers takes web@5 for the forged one: %v; warnings %v", err, w.Warnings())
		}
		for n := 4; n <= 6; n++ {
			_, s, err := w.Snapshot("web@" + string(rune('0'+n)))
			if err == nil {
				err = w.Bare().Whole(w.Ctx, s)
			}
			if err != nil {
				t.Errorf("the true web@%d lost content: %v", n, err)
				continue
			}
			w.Restores("web@"+string(rune('0'+n)), w.dir, trees[n-1])
		}
	})
}

// The first digits of the ID of a snapshot name that snapshot, or are
// ambiguous, when a taken host makes an environment of that name.
func testAnEnvironmentIsNamedAsAnID(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("file", 1<<20)
		good := w.capture("web")
		short := hex.EncodeToString(good.ID[:4])
		w.take("file")
		w.capture(short) // by the taken host
		_, s, err := w.Snapshot(short)
		if err == nil && s.ID != good.ID {
			t.Errorf("%s, the ID of %s, is %s/%s", short, good.Ref(), s.Host, s.Ref())
		}
	})
}

// An object of somebody without a key, whose own key is none of a root, hides no
// root from who asks for it by number, and keeps none from being taken back.
func testAStrayKeyHidesARootFromWhoAsksByNumber(t *testing.T) {
	for name, store := range map[string]func() storage.Store{"with versions": memory, "without": func() storage.Store { return storagetest.NewPlainMemory() }} {
		t.Run(name, func(t *testing.T) {
			simulated(t, store, func(w *world) {
				trees, _ := w.days(4)
				w.forget("web", 1)
				w.put(key(2)+"x", []byte{1}) // sorts between 2 and 1
				w.put(key(3)+"x", []byte{1})
				if _, _, err := w.Snapshot("web@2"); err != nil {
					t.Errorf("without memory: %v", err)
				} else {
					w.Restores("web@2", w.dir, trees[1])
				}
				ref, _, err := history.ParseRef("web@2")
				w.check(err)
				state := treetest.TempDir(t)
				open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
				for _, err := range open().Snapshots(w.Ctx, enginetest.Host, "web") {
					w.check(err)
				}
				if _, err := open().Resolve(w.Ctx, ref, enginetest.Host); err != nil {
					t.Errorf("with memory: %v", err)
				}
				if _, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()}); err != nil {
					t.Errorf("what is forgotten cannot be taken back: %v", err)
				}
			})
		})
	}
}

// The owner vouches, in the certificate of a host that is enrolled again, for the
// true newest root, also when another is put over it between listing and reading.
func testTheOwnerVouchesForWhatWasPutOverTheHeadInBetween(t *testing.T) {
	m := &raced{Memory: storagetest.NewMemory()}
	simulated(t, func() storage.Store { return m }, func(w *world) {
		w.days(3)
		_, two, err := w.Snapshot("web@2")
		w.check(err)
		three, head, err := w.Snapshot("web@3")
		w.check(err)
		_ = three
		object, hash := w.forge(3, two.ID, two.Body, time.Now())
		m.then = func() { m.Overwrite(key(3), object) }
		w.reenrol()
		r := w.Bare()
		s, err := r.Head(w.Ctx, enginetest.Host, "web")
		if err != nil || s.ID != head.ID {
			t.Errorf("the newest is %v (forged: %v), %v; warnings %v", s, s != nil && s.ID == hash, err, w.Warnings())
		}
	})
}

// A snapshot that is called complete refers to nothing that was deleted, also
// when somebody with the host's key signs, right after a prune, that all statements
// before are not in force any more (field 16).
func testSinceHidesFromAWriterWhatWasJustDeleted(t *testing.T) {
	for name, evil := range map[string]bool{"without the attack": false, "with it": true} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.write("stays", 100<<10)
				w.capture("web") // 1
				w.write("precious", 2<<20)
				w.capture("web") // 2
				back := w.take("precious")
				w.capture("web") // 3
				w.forget("web", 2)
				time.Sleep(3 * day)
				w.owner()
				time.Sleep(7*day + time.Hour)

				replies := &replay.Replies{}
				run := func() *history.Snapshot {
					daemon := w.Child(replies)
					host, err := daemon.Host(w.Ctx)
					w.check(err)
					res, err := capture.Capture(w.Ctx, daemon, host, capture.Options{Environment: "web", StateDir: daemon.State.Dir(), Sources: []walk.Source{{Path: w.dir}}})
					w.check(err)
					return res.Snapshot
				}
				run() // 4
				if d := w.owner(); d.Deleted.Objects == 0 {
					t.Fatalf("nothing is deleted: %+v", d)
				}
				if h, err := w.host().Host(w.Ctx); err != nil {
					t.Fatal(err)
				} else if d, err := w.host().Deletions(w.Ctx, enginetest.Host, w.domain()); err != nil {
					t.Fatal(err)
				} else if n := d.Free(); evil {
					w.put(layout.KeyDeletion(enginetest.Host, w.domain(), n), w.signed(h, n, func(x *statement.Deletion) { x.Since = n }))
				}
				time.Sleep(2 * time.Hour)
				back()
				s := run()
				if err := w.Bare().Whole(w.Ctx, w.opened(s.Ref())); err != nil {
					t.Errorf("%s (%v) lacks content: %v", s.Ref(), s.Body.Status, err)
					return
				}
				report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
				w.check(err)
				for _, d := range report.Damage {
					t.Errorf("%v", d)
				}
			})
		})
	}
}

// A number that the store's own clock does not vouch for is named: a poisoned
// memory of a machine, on a store without versions, must not be silent about the true
// history once that is back.
func testAPoisonedMemoryNamesItsFilesThatHeld(t *testing.T) {
	simulated(t, func() storage.Store { return storagetest.NewPlainMemory() }, func(w *world) {
		_, at := w.days(4)
		state := treetest.TempDir(t)
		open := func() *repository.Repository { r := w.Open(state); r.Unlock(w.ID); return r }
		head, err := w.Bare().Head(w.Ctx, enginetest.Host, "web")
		w.check(err)
		var true_ [][]byte
		previous := sha256.Sum256(w.copyOf(key(2)))
		for n := uint64(3); n <= 4; n++ {
			true_ = append(true_, w.copyOf(key(n)))
			object, hash := w.forge(n, previous, head.Body, at[n-1])
			w.overwrite(key(n), object)
			previous = hash
		}
		for range open().Snapshots(w.Ctx, enginetest.Host, "web") { // remembers the forged
		}
		w.overwrite(key(3), true_[0])
		w.overwrite(key(4), true_[1])
		_, err = open().Head(w.Ctx, enginetest.Host, "web")
		if err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("not named: %v", err)
		}
	})
}
