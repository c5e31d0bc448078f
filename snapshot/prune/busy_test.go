package prune_test

import (
	"context"
	"iter"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	capture "knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// TestBusyHost is of a host that publishes all the time, as whoever took it over can.
func TestBusyHost(t *testing.T) {
	for name, busy := range map[string]func(w *world) (prefix string, put func()){
		"that forgets keeps no other host from being pruned":                   forgetting,
		"that takes the numbers of deletions keeps no other from being pruned": announcing,
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				z := w.another("z")
				for range 3 {
					w.write("file", 1<<20)
					w.capture("web")
					z()
				}
				w.forget("web", 1)
				_, err := w.Bare().Forget(w.Ctx, "z", "web", history.Change{Forget: statement.NumbersOf(1, 2), Now: time.Now()})
				w.check(err)
				time.Sleep(3 * day)
				_, err = prune.Run(w.Ctx, w.Bare(), prune.Options{})
				w.check(err)
				time.Sleep(8 * day)

				prefix, put := busy(w)
				w.Store = &busyStore{Store: w.Store, prefix: prefix, put: put}
				report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{})
				if err == nil {
					t.Error("the busy host is not named")
				}
				deleted := uint64(0)
				for _, d := range report.Domains {
					if d.Host == "z" {
						deleted += d.Deleted.Objects
					}
				}
				if deleted == 0 {
					t.Errorf("nothing of host z was deleted: %v", err)
				}
			})
		})
	}
}

// forgetting puts another tombstone each time.
func forgetting(w *world) (prefix string, put func()) {
	serial := uint64(1)
	return layout.PrefixTombstones(enginetest.Host, "web"), func() {
		serial++
		w.bury(serial, func(x *statement.Tombstone) { x.Forgotten, x.Free = statement.NumbersOf(1), 4 })
	}
}

// announcing takes the next number of a pending deletion each time.
func announcing(w *world) (prefix string, put func()) {
	host, err := w.host().Host(w.Ctx)
	w.check(err)
	domain, store := w.domain(), w.Store
	d, err := w.host().Deletions(w.Ctx, enginetest.Host, domain)
	w.check(err)
	serial := d.Free()
	return layout.PrefixDeletions(enginetest.Host, domain), func() {
		object := w.signed(host, serial, func(*statement.Deletion) {})
		w.check(store.Put(w.Ctx, layout.KeyDeletion(enginetest.Host, domain, serial), object, storage.PutOptions{}))
		serial++
	}
}

// busyStore is a store where somebody puts something after each listing of a prefix.
type busyStore struct {
	storage.Store
	prefix string
	put    func()
}

func (s *busyStore) Unwrap() storage.Store { return s.Store }

func (s *busyStore) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for x, err := range s.Store.List(ctx, o) {
			if !yield(x, err) {
				return
			}
		}
		if put := s.put; put != nil && o.Prefix == s.prefix {
			s.put = nil
			put()
			s.put = put
		}
	}
}

// another enrols another host, and returns what captures for it.
func (w *world) another(name string) (capturing func()) {
	w.t.Helper()
	state := treetest.TempDir(w.t)
	r := w.Open(state)
	r.Unlock(w.ID)
	_, err := r.Join(w.Ctx, trust.JoinOptions{Host: name, Now: time.Now()})
	w.check(err)
	return func() {
		w.t.Helper()
		r := w.Open(state)
		host, err := r.Host(w.Ctx)
		w.check(err)
		_, err = capture.Capture(w.Ctx, r, host, capture.Options{Environment: "web", StateDir: r.State.Dir(), Sources: []walk.Source{{Path: w.dir}}})
		w.check(err)
	}
}
