package prune_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// interrupted calls a function once, before the first listing of roots, of probes, or
// of index runs, which a prune reads when it knows what is needed.
type interrupted struct {
	storage.Store
	at   string // "/roots/", "/probe/" or "/index/"
	then func()
	once sync.Once
}

func (s *interrupted) Unwrap() storage.Store { return s.Store }

func (s *interrupted) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	if strings.Contains(o.Prefix, s.at) && !o.Delimiter {
		s.once.Do(s.then)
	}
	return s.Store.List(ctx, o)
}

func TestBeside(t *testing.T) {
	t.Run("a capture that ends while objects are listed is no damage", testACaptureThatEndsWhileObjectsAreListedIsNoDamage)
	t.Run("a run that reads the clock leaves the probes of others", testARunThatReadsTheClockLeavesTheProbesOfOthers)
	t.Run("a run during which something was forgotten deletes nothing", testARunDuringWhichSomethingWasForgottenDeletesNothing)
	t.Run("of two pruners the one that announces last deletes nothing", testOfTwoPrunersTheOneThatAnnouncesLastDeletesNothing)
}

func testACaptureThatEndsWhileObjectsAreListedIsNoDamage(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("a", 200_000)
		w.capture("web")
		plain := w.Store
		w.Store = &interrupted{Store: plain, at: "/roots/", then: func() {
			w.Store = plain
			w.write("b", 200_000)
			w.capture("web")
		}}
		report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
		w.check(err)
		for _, b := range report.Blocked {
			t.Error(b)
		}
		if len(report.Domains) != 1 || report.Domains[0].Snapshots != 2 {
			t.Errorf("%+v: the capture did not come in between", report.Domains)
		}
		w.Clean()
	})
}

func testARunThatReadsTheClockLeavesTheProbesOfOthers(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("a", 200_000)
		w.capture("web")
		plain := w.Store
		w.Store = &interrupted{Store: plain, at: "/probe/", then: func() {
			w.Store = plain
			w.free()
		}}
		w.free()

		// What a run leaves that dies is deleted a day later.
		dead := "hosts/h/probe/of-a-run-that-died"
		w.check(plain.Put(w.Ctx, dead, []byte("x"), storage.PutOptions{}))
		time.Sleep(day)
		w.free()
		for o, err := range plain.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/probe/"}) {
			w.check(err)
			if !strings.HasPrefix(o.Key, layout.PrefixReserve(enginetest.Host)) {
				t.Errorf("%s is left", o.Key)
			}
		}
	})
}

func testARunDuringWhichSomethingWasForgottenDeletesNothing(t *testing.T) {
	simulated(t, memory, func(w *world) {
		for range 3 {
			w.write("a", 200_000)
			w.capture("web")
		}
		w.forget("web", 1)
		w.free()
		time.Sleep(8 * day)
		w.free() // announces: what it found was too young at first
		time.Sleep(8 * day)
		plain := w.Store
		w.Store = &interrupted{Store: plain, at: "/index/", then: func() {
			w.Store = plain
			w.forget("web", 2)
		}}
		packs, _ := w.stored()
		if _, err := prune.Run(w.Ctx, w.host(), prune.Options{}); !errors.Is(err, prune.ErrChanged) {
			t.Errorf("error %v", err)
		}
		if now, _ := w.stored(); now != packs {
			t.Errorf("%d of %d packs are left", now, packs)
		}
		if d := w.free(); d.Deleted.Objects == 0 {
			t.Errorf("the next run: %+v", d)
		}
		w.Clean()
	})
}

func testOfTwoPrunersTheOneThatAnnouncesLastDeletesNothing(t *testing.T) {
	t.Run("what is due", func(t *testing.T) { twoPruners(t, false) })
	t.Run("what a run that died left", func(t *testing.T) { twoPruners(t, true) })
}

func twoPruners(t *testing.T, died bool) {
	simulated(t, memory, func(w *world) {
		for range 2 {
			w.write("a", 200_000)
			w.capture("web")
		}
		w.forget("web", 1)
		w.free()
		time.Sleep(8 * day)
		w.free()
		time.Sleep(8 * day)
		plain := w.Store
		if died {
			w.Store = storagetest.NewFaulty(plain, storagetest.Rule{Op: storagetest.DeleteOne, Prefix: "hosts/h/packs/", Fault: storagetest.FailBefore(nil)},
				storagetest.Rule{Op: storagetest.DeleteOne, Prefix: "hosts/h/manifests/", Fault: storagetest.FailBefore(nil)})
			if _, err := prune.Run(w.Ctx, w.host(), prune.Options{}); !errors.Is(err, storagetest.ErrInjected) {
				t.Fatal(err)
			}
			w.Store = plain
			time.Sleep(8 * day)
		}
		w.Store = &interrupted{Store: plain, at: "/index/", then: func() {
			w.Store = plain
			report := w.prune(prune.Options{Policy: func(string, string) *retention.Policy { return &retention.Policy{Last: 10} }})
			if report.Domains[0].Spared.Objects == 0 {
				t.Errorf("the other pruner spared nothing: %+v", report.Domains[0])
			}
		}}
		packs, _ := w.stored()
		if report, err := prune.Run(w.Ctx, w.host(), prune.Options{}); err == nil && report.Domains[0].Deleted.Objects > 0 {
			t.Errorf("deleted %+v", report.Domains[0])
		}
		if now, _ := w.stored(); now != packs {
			t.Errorf("%d of %d packs are left", now, packs)
		}
		d, err := w.host().Deletions(w.Ctx, enginetest.Host, w.domain())
		w.check(err)
		for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixPacks(enginetest.Host, w.domain())}) {
			w.check(err)
			if id, _ := deletion.ParseKey(o.Key); d.Absent(id) {
				t.Errorf("%s was spared, and counts as absent: %+v", o.Key, d.Of(id))
			}
		}
		_, err = w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()})
		w.check(err)
		w.Clean()
	})
}
