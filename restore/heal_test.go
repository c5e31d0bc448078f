package restore_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/replay"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// verify makes a capture list what the store holds.
func verify(o *snapshot.Options) { o.Verify.Listing = true }

// heals takes a snapshot, and asserts that all snapshots are whole then, on a
// machine that has nothing but the identity.
func (a *archive) heals(env string, edit func(*snapshot.Options)) *snapshot.Result {
	a.T.Helper()
	res, err := a.Capture(env, edit, a.src)
	a.Check(err)
	a.whole()
	return res
}

// whole asserts that every snapshot restores, and that a check finds nothing.
func (a *archive) whole() {
	a.T.Helper()
	for i, want := range a.trees {
		a.Restores(fmt.Sprintf("e@%d", i+1), a.src, want)
	}
	undamaged(a.World)
}

// undamaged asserts that a check of every byte finds no damage.
func undamaged(w *enginetest.World) {
	w.T.Helper()
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
	w.Check(err)
	for _, d := range report.Damage {
		var tampered *authentic.TamperError
		if !errors.As(d.Err, &tampered) { // what is hidden is found and reported
			w.T.Errorf("check: %s: %v, affects %q", d.Object, d.Err, d.Affected)
		}
	}
}

// forgetIndex removes the index here and in the store.
func (a *archive) forgetIndex() {
	a.T.Helper()
	for _, key := range a.keys("hosts/h/index/") {
		a.memory.Forget(key)
	}
	found, err := filepath.Glob(filepath.Join(a.State, "repos", "*", "index"))
	a.Check(err)
	for _, dir := range found {
		a.Check(os.RemoveAll(dir))
	}
}

func TestHealing(t *testing.T) {
	t.Parallel()
	t.Run("lost packs are noticed and healed", testLostPacksAreNoticedAndHealed)
	t.Run("only what lay in a lost pack is read again", testOnlyWhatLayInALostPackIsReadAgain)
	t.Run("segments in a lost container are stored again from the host's copy", testSegmentsInALostContainerAreStoredAgainFromTheHostsCopy)
	t.Run("what a dead run stored and the store lost is read again", testWhatADeadRunStoredAndTheStoreLostIsReadAgain)
	t.Run("damage that a listing does not show is healed by a hint", testDamageThatAListingDoesNotShowIsHealedByAHint)
	t.Run("a hint that is wrong changes nothing", testAHintThatIsWrongChangesNothing)
	t.Run("a damage report counts only as the format defines", testADamageReportCountsOnlyAsTheFormatSays)
	t.Run("an index run that the store lost is published again", testAnIndexRunThatTheStoreLostIsPublishedAgain)
	t.Run("a large store is listed in parts at once", testALargeStoreIsListedInPartsAtOnce)
	t.Run("what is reported is not reported again", testWhatIsReportedIsNotReportedAgain)
}

func TestHealingSequentially(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("a loss is noticed within a day", testALossIsNoticedWithinADay)
	t.Run("no run is complete that refers to what the store lost", testNoRunIsCompleteThatRefersToWhatTheStoreLost)
	t.Run("a daemon publishes again the index run that the store lost", testADaemonPublishesAgainTheIndexRunThatTheStoreLost)
}

func testLostPacksAreNoticedAndHealed(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for name, c := range map[string]struct {
		env  string
		edit func(*snapshot.Options)
		lose func(a *archive)
	}{
		"by the next snapshot":      {"e", verify, nil},
		"when all is read anew":     {"e", func(o *snapshot.Options) { o.Verify.Listing, o.Reread = true, true }, nil},
		"by another environment":    {"f", verify, nil},
		"without the index":         {"e", nil, (*archive).forgetIndex},
		"without what was listed":   {"e", nil, func(a *archive) { a.forgetState("stores") }},
		"when that is unreadable":   {"e", nil, (*archive).spoilInventory},
		"without the last manifest": {"e", verify, func(a *archive) { a.forgetState("env") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			packs := a.keys("hosts/h/packs/")
			for _, key := range packs {
				a.memory.Forget(key)
			}
			if c.lose != nil {
				c.lose(a)
			}
			res := a.heals(c.env, c.edit)
			if c.env == "e" && name != "without the last manifest" || c.lose == nil {
				if res.Healed.Packs != uint64(len(packs)) || res.Healed.Bytes == 0 || res.Healed.Bytes != res.NewBytes {
					t.Errorf("of %d packs it tells %+v, and of %d new bytes", len(packs), res.Healed, res.NewBytes)
				}
			}
			again := a.heals("e", verify)
			if again.Healed != (snapshot.Healed{}) || again.NewBytes != 0 {
				t.Errorf("the next one heals %+v, with %d new bytes", again.Healed, again.NewBytes)
			}
		})
	}
}

// spoilInventory changes a byte of what was listed.
func (a *archive) spoilInventory() {
	a.T.Helper()
	found, err := filepath.Glob(filepath.Join(a.State, "repos", "*", "stores", "*", "inventory", "*"))
	a.Check(err)
	if len(found) != 1 {
		a.T.Fatalf("inventories: %v", found)
	}
	b, err := os.ReadFile(found[0])
	a.Check(err)
	b[len(b)/2] ^= 1
	a.Check(os.WriteFile(found[0], b, 0o600))
}

// forgetState removes a part of the state directory.
func (a *archive) forgetState(name string) {
	a.T.Helper()
	found, err := filepath.Glob(filepath.Join(a.State, "repos", "*", name))
	a.Check(err)
	if len(found) != 1 {
		a.T.Fatalf("%s: %v", name, found)
	}
	a.Check(os.RemoveAll(found[0]))
}

func testOnlyWhatLayInALostPackIsReadAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	a := newArchive(t)
	for name, harm := range map[string]func(a *archive, key string){
		"missing":            func(a *archive, key string) { a.memory.Forget(key) },
		"cut short":          func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { return b[:len(b)-1] }) },
		"empty":              func(a *archive, key string) { a.memory.Edit(key, func([]byte) []byte { return nil }) },
		"hidden by a delete": func(a *archive, key string) { a.Check(a.memory.Delete(a.Ctx, key)) },
		"longer than it was": func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { return append(b, 0) }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			key := a.keys("hosts/h/packs/")[0]
			harm(a, key)
			res := a.heals("e", verify)
			if res.Healed.Packs != 1 || res.Healed.Bytes != res.NewBytes || res.Read == 0 || res.Read == res.Files {
				t.Errorf("it healed %+v with %d new bytes, and read %d of %d files", res.Healed, res.NewBytes, res.Read, res.Files)
			}
			if res := a.heals("e", nil); res.Read != 0 || res.Healed != (snapshot.Healed{}) {
				t.Errorf("the next one reads %d files, and heals %+v", res.Read, res.Healed)
			}
		})
	}
}

func testSegmentsInALostContainerAreStoredAgainFromTheHostsCopy(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	// Of two snapshots the second shares all segments but one with the first.
	h := &changedTree{memory: storagetest.NewMemory(), src: treetest.TempDir(t)}
	h.World = enginetest.New(t, h.memory)
	for i := range 9000 {
		h.Check(os.WriteFile(filepath.Join(h.src, fmt.Sprintf("%04d", i)), nil, 0o600))
	}
	settle()
	first := h.MustCapture("e", h.src)
	h.before = treetest.Snapshot(t, h.src)
	h.Check(os.WriteFile(filepath.Join(h.src, "8999"), []byte("changed"), 0o600))
	settle()
	second := h.MustCapture("e", h.src)
	h.now = treetest.Snapshot(t, h.src)
	for _, lost := range []*history.Snapshot{first.Snapshot, second.Snapshot} {
		w := *h
		w.memory = copyOf(t, h.memory)
		w.World = h.With(t, w.memory)
		key := layout.KeyManifest(enginetest.Host, lost.Domain.ID, lost.Body.Manifest.Hash)
		w.memory.Forget(key)
		res, err := w.Capture("e", verify, w.src)
		w.Check(err)
		if res.Read != 0 || res.NewBytes != 0 || res.Healed.Packs != 1 || res.Healed.Bytes == 0 {
			t.Errorf("it read %d files, stored %d new bytes, and healed %+v", res.Read, res.NewBytes, res.Healed)
		}
		w.Restores("e@3", w.src, w.now)
		if lost == first.Snapshot { // whose table is in no other container
			w.Restores("e@2", w.src, w.now)
		} else {
			w.Restores("e@1", w.src, w.before)
		}
		if res, err := w.Capture("e", verify, w.src); err != nil || res.Healed != (snapshot.Healed{}) {
			t.Errorf("the next one heals %+v, %v", res.Healed, err)
		}
		report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
		w.Check(err)
		if len(report.Damage) != 1 || report.Damage[0].Object != key {
			t.Errorf("check names %+v, want the one whose snapshot is lost", report.Damage)
		}
	}
}

func testWhatADeadRunStoredAndTheStoreLostIsReadAgain(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	writeRandom(t, filepath.Join(a.src, "late"), 99, 3<<20)
	settle()
	before := a.keys("hosts/h/packs/")
	dying := *a.World
	dying.Store = storagetest.NewFaulty(a.memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/roots/", Fault: storagetest.FailBefore(nil)})
	if _, err := dying.Capture("e", nil, a.src); err == nil {
		t.Fatal("the run did not die")
	}
	for _, key := range a.keys("hosts/h/packs/") {
		if !slices.Contains(before, key) {
			a.memory.Forget(key)
		}
	}
	a.trees = append(a.trees, treetest.Snapshot(t, a.src))
	if res := a.heals("e", nil); res.NewBytes < 3<<20 {
		t.Errorf("%d bytes were stored again", res.NewBytes)
	}
}

// days runs f in simulated time that begins after the files' own, with a
// repository that has one snapshot, d@1, of random files.
func days(t *testing.T, f func(t *testing.T, h *changedTree)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &changedTree{memory: storagetest.NewMemory(), src: treetest.TempDir(t)}
		info, err := os.Stat(h.src)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(info.ModTime()) + 24*time.Hour)
		h.World = enginetest.New(t, h.memory)
		for i := range 4 {
			writeRandom(t, filepath.Join(h.src, fmt.Sprint(i)), uint64(i), 1<<20)
		}
		h.before = treetest.Snapshot(t, h.src)
		h.MustCapture("d", h.src)
		f(t, h)
	})
}

// packs are the keys of all packs.
func (h *changedTree) packs() []string {
	return slices.DeleteFunc(h.memory.Keys(), func(k string) bool { return !strings.HasPrefix(k, "hosts/h/packs/") })
}

func testALossIsNoticedWithinADay(t *testing.T) {
	for name, keep := range map[string]bool{"by a command each hour": false, "by a daemon": true} {
		t.Run(name, func(t *testing.T) {
			days(t, func(t *testing.T, h *changedTree) {
				store := storagetest.NewFaulty(h.memory)
				over, replies := *h.World, &replay.Replies{}
				over.Store = store
				run := func() *snapshot.Result {
					if !keep {
						replies = &replay.Replies{}
					}
					r := over.Child(replies)
					host, err := r.Host(h.Ctx)
					h.Check(err)
					res, err := snapshot.Capture(h.Ctx, r, host, snapshot.Options{Environment: "d", StateDir: r.State.Dir(), Sources: []walk.Source{{Path: h.src}}})
					h.Check(err)
					return res
				}
				lists := func() (n int) {
					for _, op := range store.Log() {
						if op.Op == storagetest.List && strings.HasPrefix(op.Key, "hosts/h/packs/") {
							n++
						}
					}
					return n
				}
				run()
				h.memory.Forget(h.packs()[0])
				healed := 0
				for hour := 1; hour <= 72; hour++ {
					time.Sleep(time.Hour)
					if res := run(); res.Healed.Packs > 0 {
						healed++
						if hour > 24 || res.Healed.Packs != 1 {
							t.Errorf("healed %+v after %d hours", res.Healed, hour)
						}
						h.Restores("d@1", h.src, h.before)
						h.Restores(res.Snapshot.Ref(), h.src, h.before)
					}
				}
				if healed != 1 {
					t.Errorf("it was healed %d times", healed)
				}
				if n := lists(); n < 3 || n > 4 {
					t.Errorf("in three days the packs were listed %d times", n)
				}
				undamaged(h.World)
			})
		})
	}
}

func testNoRunIsCompleteThatRefersToWhatTheStoreLost(t *testing.T) {
	days(t, func(t *testing.T, h *changedTree) {
		// It takes two days, and a pack that it relies on is lost after one.
		slow := storagetest.NewFaulty(h.memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.Delayed(26 * time.Hour)})
		long := *h.World
		long.Store = slow
		lost := h.packs()[0]
		writeRandom(t, filepath.Join(h.src, "new"), 99, 100<<10)
		now := treetest.Snapshot(t, h.src)
		done := make(chan error, 1)
		go func() {
			_, err := long.Capture("d", nil, h.src)
			done <- err
		}()
		synctest.Wait()
		time.Sleep(25 * time.Hour)
		h.memory.Forget(lost)
		if err := <-done; !errors.Is(err, objects.ErrLost) {
			t.Errorf("the run ends with %v, want ErrLost", err)
		}
		res, err := h.Capture("d", nil, h.src)
		h.Check(err)
		if res.Healed.Packs != 1 {
			t.Errorf("the next run heals %+v", res.Healed)
		}
		h.Restores("d@1", h.src, h.before)
		h.Restores("d@2", h.src, now)
		undamaged(h.World)
	})
}

// reportDamage reports damage to the host, from a machine that has the identity, or from
// the host itself.
func (a *archive) reportDamage(onHost bool, keys ...string) (noted bool) {
	a.T.Helper()
	state := ""
	if onHost {
		state = a.State
	}
	r := a.Open(state)
	r.Unlock(a.ID)
	var ids []deletion.ObjectID
	domain := seal.DomainID{}
	for _, key := range keys {
		id, ok := deletion.ParseKey(key)
		if !ok {
			a.T.Fatalf("%s is no pack or container", key)
		}
		ids = append(ids, id)
	}
	_, s, err := a.Snapshot("e@1")
	a.Check(err)
	domain = s.Domain.ID
	noted, err = r.ReportDamage(a.Ctx, enginetest.Host, domain, ids, time.Now())
	a.Check(err)
	return noted
}

func testDamageThatAListingDoesNotShowIsHealedByAHint(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	flipped := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, c := range map[string]struct {
		tell func(a *archive, key string) // nil: nobody does
		edit func(*snapshot.Options)
	}{
		"found on the host":    {func(a *archive, key string) { a.noted(true, key) }, nil},
		"found elsewhere":      {func(a *archive, key string) { a.noted(false, key) }, verify},
		"by reading all of it": {nil, func(o *snapshot.Options) { o.Verify.Data = true }},
	} {
		for _, kind := range []string{"packs", "manifests"} {
			t.Run(name+", of "+kind, func(t *testing.T) {
				t.Parallel()
				a := a.with(t)
				settle()
				a.MustCapture("e", a.src) // whose manifest is that of the one before
				a.trees = append(a.trees, a.trees[len(a.trees)-1])
				key := a.keys("hosts/h/" + kind + "/")[0]
				a.memory.Edit(key, flipped)
				if res, err := a.Capture("e", verify, a.src); err != nil || res.Healed != (snapshot.Healed{}) {
					t.Errorf("nobody told, and it healed %+v, %v", res.Healed, err)
				}
				a.trees = append(a.trees, a.trees[len(a.trees)-1])
				if c.tell != nil {
					c.tell(a, key)
				}
				if kind == "packs" {
					if res := a.heals("e", c.edit); res.Healed.Packs != 1 || res.Healed.Bytes != res.NewBytes || res.Read == res.Files {
						t.Errorf("it healed %+v, stored %d bytes and read %d files", res.Healed, res.NewBytes, res.Read)
					}
				} else if res, err := a.Capture("e", c.edit, a.src); err != nil || res.Read != 0 {
					t.Errorf("it read %d files, %v", res.Read, err)
				}
				a.trees = append(a.trees, a.trees[len(a.trees)-1])
				a.Restores(fmt.Sprintf("e@%d", len(a.trees)), a.src, a.trees[len(a.trees)-1])
				for _, edit := range []func(*snapshot.Options){nil, verify} {
					res, err := a.Capture("e", edit, a.src)
					a.Check(err)
					if res.Healed != (snapshot.Healed{}) || res.NewBytes != 0 || res.Read != 0 {
						t.Errorf("a later one heals %+v, stores %d bytes and reads %d files", res.Healed, res.NewBytes, res.Read)
					}
				}
			})
		}
	}
}

// noted reports damage, and demands where the host got the report.
func (a *archive) noted(onHost bool, keys ...string) {
	a.T.Helper()
	if a.reportDamage(onHost, keys...) != onHost {
		a.T.Errorf("noted on the host: %v", !onHost)
	}
}

func testAHintThatIsWrongChangesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	a := newArchive(t)
	for _, onHost := range []bool{true, false} {
		a := a.with(t)
		gone := strings.Repeat("00", 32)
		some := a.keys("hosts/h/packs/")[0]
		a.noted(onHost, some, a.keys("hosts/h/manifests/")[0], some[:len(some)-64]+gone)
		res := a.heals("e", verify)
		if res.Healed != (snapshot.Healed{}) || res.NewBytes != 0 || res.Read != 0 {
			t.Errorf("on the host %v: it healed %+v, stored %d bytes and read %d files", onHost, res.Healed, res.NewBytes, res.Read)
		}
		// And it is looked at once.
		store := storagetest.NewFaulty(a.memory)
		w := *a.World
		w.Store = store
		if _, err := w.Capture("e", verify, a.src); err != nil {
			t.Fatal(err)
		}
		for _, op := range store.Log() {
			if op.Op == storagetest.Get && (op.Key == some || strings.Contains(op.Key, "/damage/")) {
				t.Errorf("it is looked at again: %v", op)
			}
		}
	}
}

func testADamageReportCountsOnlyAsTheFormatSays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	a := newArchive(t)
	key := a.keys("hosts/h/packs/")[0]
	a.memory.Edit(key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	id, _ := deletion.ParseKey(key)
	_, s, err := a.Snapshot("e@1")
	a.Check(err)
	host, err := a.Open(a.State).Host(a.Ctx)
	a.Check(err)
	bare := a.Bare()
	owner, err := bare.OwnerKey(a.Ctx)
	a.Check(err)
	good := statement.DamageReport{Repository: bare.ID(), Host: enginetest.Host, Domain: s.Domain.ID, Made: time.Now(), Damaged: []statement.Object{{Kind: id.Kind, Hash: id.Hash}}}
	for name, c := range map[string]struct {
		edit func(x *statement.DamageReport)
		key  ed25519.PrivateKey
		name func(sum [32]byte) [32]byte
	}{
		"signed by the host":    {nil, host.SigningKey(), nil},
		"of another host":       {func(x *statement.DamageReport) { x.Host = "other" }, owner, nil},
		"of another domain":     {func(x *statement.DamageReport) { x.Domain[0] ^= 1 }, owner, nil},
		"of another repository": {func(x *statement.DamageReport) { x.Repository[0] ^= 1 }, owner, nil},
		"under another name":    {nil, owner, func(sum [32]byte) [32]byte { sum[0] ^= 1; return sum }},
		"of a newer version":    {func(x *statement.DamageReport) { x.Unknown = []wire.Field{{Tag: 99, Value: []byte{1}}} }, owner, nil},
		"as the format says":    {nil, owner, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			x := good
			if c.edit != nil {
				c.edit(&x)
			}
			object, err := x.Encode(c.key)
			a.Check(err)
			sum := sha256.Sum256(object)
			named := sum
			if c.name != nil {
				named = c.name(sum)
			}
			a.Check(a.memory.Put(a.Ctx, layout.KeyDamageReport(enginetest.Host, s.Domain.ID, named), object, storage.PutOptions{SHA256: sum}))
			res, err := a.Capture("e", verify, a.src)
			a.Check(err)
			if counts := name == "as the format says" || name == "of a newer version"; (res.Healed.Packs == 1) != counts {
				t.Errorf("it healed %+v", res.Healed)
			}
		})
	}
}

func testAnIndexRunThatTheStoreLostIsPublishedAgain(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	gone := func(a *archive, key string) { a.memory.Forget(key) }
	flipped := func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) }
	lost := func(a *archive) { a.forgetState("index") }
	for name, c := range map[string]struct {
		harm  func(a *archive, key string)
		state func(a *archive) // what the host forgets besides
		edit  func(*snapshot.Options)
	}{
		"from the host's copy":                   {gone, nil, nil},
		"from the packs":                         {gone, lost, nil},
		"one of several, from the packs":         {flipped, lost, nil},
		"that is damaged, when all is looked at": {flipped, nil, func(o *snapshot.Options) { o.Verify.Data = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			runs := a.keys("hosts/h/index/")
			key := runs[len(runs)/2]
			c.harm(a, key)
			report, err := a.report()
			a.Check(err)
			if !slices.ContainsFunc(report.Damage, func(d check.Damage) bool { return strings.HasSuffix(d.Object, key[len(key)-64:]) }) {
				t.Errorf("check does not name %s: %+v", key, report.Damage)
			}
			if c.state != nil {
				c.state(a)
			}
			if res := a.heals("e", c.edit); res.Read != 0 || res.NewBytes != 0 {
				t.Errorf("it read %d files and stored %d bytes", res.Read, res.NewBytes)
			}
			// What it named is known: another environment stores nothing.
			if res, err := a.Capture("f", nil, a.src); err != nil || res.NewBytes != 0 {
				t.Errorf("another environment stores %d bytes anew, %v", res.NewBytes, err)
			}
			before := a.keys("hosts/h/index/")
			a.heals("e", nil)
			if after := a.keys("hosts/h/index/"); len(after) != len(before) {
				t.Errorf("the next one publishes it once more: %d runs, %d before", len(after), len(before))
			}
		})
	}
}

func testADaemonPublishesAgainTheIndexRunThatTheStoreLost(t *testing.T) {
	days(t, func(t *testing.T, h *changedTree) {
		replies := &replay.Replies{}
		run := func() {
			r := h.Child(replies)
			host, err := r.Host(h.Ctx)
			h.Check(err)
			res, err := snapshot.Capture(h.Ctx, r, host, snapshot.Options{Environment: "d", StateDir: r.State.Dir(), Sources: []walk.Source{{Path: h.src}}})
			h.Check(err)
			if res.NewBytes != 0 {
				t.Errorf("%d bytes are new", res.NewBytes)
			}
		}
		runs := func() (keys []string) {
			return slices.DeleteFunc(h.memory.Keys(), func(k string) bool { return !strings.HasPrefix(k, "hosts/h/index/") })
		}
		run()
		for _, key := range runs() {
			h.memory.Forget(key)
		}
		time.Sleep(7 * time.Hour)
		for range 3 {
			run()
			time.Sleep(7 * time.Hour)
		}
		if n := len(runs()); n != 1 {
			t.Errorf("there are %d index runs", n)
		}
		undamaged(h.World)
		h.Restores("d@1", h.src, h.before)
	})
}

func testALargeStoreIsListedInPartsAtOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	_, s, err := a.Snapshot("e@1")
	a.Check(err)
	for i := range 4100 { // for example, packs of another run
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		a.Check(a.memory.Put(a.Ctx, layout.KeyPack(enginetest.Host, s.Domain.ID, sum), []byte("x"), storage.PutOptions{}))
	}
	for _, want := range []int{1, 16} { // of the first listing the size is not known
		store := storagetest.NewFaulty(a.memory)
		w := *a.World
		w.Store = store
		res, err := w.Capture("e", verify, a.src)
		a.Check(err)
		if res.Healed != (snapshot.Healed{}) || res.NewBytes != 0 {
			t.Errorf("it healed %+v, and stored %d bytes", res.Healed, res.NewBytes)
		}
		n := 0
		for _, op := range store.Log() {
			if op.Op == storagetest.List && strings.HasPrefix(op.Key, layout.PrefixPacks(enginetest.Host, s.Domain.ID)) {
				n++
			}
		}
		if n != want {
			t.Errorf("the packs were listed in %d requests, want %d", n, want)
		}
	}
	lost := a.keys("hosts/h/packs/")
	real := slices.DeleteFunc(lost, func(key string) bool { b, _ := storage.Append(a.Ctx, nil, a.memory, key, 0, -1); return len(b) == 1 })
	a.memory.Forget(real[0])
	if res, err := a.Capture("e", verify, a.src); err != nil || res.Healed.Packs != 1 {
		t.Errorf("of a pack that is lost it healed %+v, %v", res, err)
	}
}

func testWhatIsReportedIsNotReportedAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	a := newArchive(t)
	first, second := a.keys("hosts/h/packs/")[0], a.keys("hosts/h/packs/")[1]
	for _, c := range []struct {
		objects []string
		reports int
	}{{[]string{first}, 1}, {[]string{first}, 1}, {[]string{first, second}, 2}, {[]string{second}, 2}} {
		a.noted(false, c.objects...)
		if n := len(a.keys("hosts/h/damage/")); n != c.reports {
			t.Errorf("there are %d reports, want %d", n, c.reports)
		}
	}
}
