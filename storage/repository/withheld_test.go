package repository_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// TestDenied is of objects that the store denies to credentials that may read those
// beside them: who may put an object can have that done.
func TestDenied(t *testing.T) {
	made := func(t *testing.T, denied ...string) (*world, *storagetest.Faulty) {
		w := newWorld(t)
		for range 4 {
			commit(t, w.m.host(t, w.store), "web")
		}
		store := storagetest.NewFaulty(w.store)
		for _, prefix := range denied {
			store.Add(storagetest.Rule{Op: storagetest.Get, Prefix: prefix, Fault: storagetest.FailBefore(storage.ErrDenied)})
		}
		return w, store
	}

	for n, want := range map[uint64]string{1: "[web@4 web@3 web@2]", 3: "[web@4 web@2 web@1]", 4: "[web@3 web@2 web@1]"} {
		t.Run(fmt.Sprintf("root %d of 4 is damage, and the others are listed and found", n), func(t *testing.T) {
			w, store := made(t, rootKey(n))
			r := newMachine(t).open(t, store)
			refs, errs := list(t.Context(), r, "web-1", "web")
			if fmt.Sprint(refs) != want || len(errs) != 1 || !asDamaged(errs[0]) || !strings.Contains(errs[0].Error(), rootKey(n)) {
				t.Errorf("listed %v, %v", refs, errs)
			}
			for m := range uint64(4) {
				s, err := r.Resolve(t.Context(), ref(t, fmt.Sprintf("web@%d", m+1)), "web-1")
				if m+1 == n && (!asDamaged(err) || !errors.Is(err, storage.ErrWithheld)) || m+1 != n && (err != nil || s.Number != m+1) {
					t.Errorf("web@%d: %v, %v", m+1, s, err)
				}
			}
			// Nor does it end the captures of the host.
			if s := commit(t, w.m.host(t, store), "web"); s.Number != 5 {
				t.Errorf("committed %s", s.Ref())
			}
		})
	}
	t.Run("a fork beyond such a root is still seen", func(t *testing.T) {
		w, _ := made(t)
		r := newMachine(t)
		if _, errs := list(t.Context(), r.open(t, w.store), "web-1", "web"); errs != nil {
			t.Fatal(errs)
		}
		if state := r.open(t, w.store).State; state.Remove(state.OfStore("copies/web-1/web")) != nil {
			t.Fatal("what was read is kept")
		}
		h := w.m.host(t, w.store)
		w.store.Forget(rootKey(2))
		forgeRoot(t, w, h, "web", 2, [32]byte{1})
		store := storagetest.NewFaulty(w.store, storagetest.Rule{Op: storagetest.Get, Prefix: rootKey(3), Fault: storagetest.FailBefore(storage.ErrDenied)})
		refs, errs := list(t.Context(), r.open(t, store), "web-1", "web")
		if fmt.Sprint(refs) != "[web@4 web@1]" || len(errs) != 2 {
			t.Errorf("listed %v, %v", refs, errs)
		}
	})
	t.Run("a tombstone counts for nothing, and is named", func(t *testing.T) {
		w, store := made(t, layout.KeyTombstone("web-1", "web", 2))
		for n := range uint64(2) {
			if _, err := w.m.open(t, w.store).Forget(t.Context(), "web-1", "web", history.Change{Forget: statement.NumbersOf(n + 1), Now: now}); err != nil {
				t.Fatal(err)
			}
		}
		r := newMachine(t).open(t, store)
		wantKept(t, r, "[web@4 web@3 web@2]")
		wantWarning(t, r, layout.KeyTombstone("web-1", "web", 2))
	})
	t.Run("attestations: the snapshot is found, and that nothing confirms it is reported", func(t *testing.T) {
		_, store := made(t)
		store.Add(storagetest.Rule{Op: storagetest.List, Prefix: "attestations/", Fault: storagetest.FailBefore(storage.ErrDenied)})
		r := newMachine(t).open(t, store)
		if s, err := r.Resolve(t.Context(), ref(t, "web@2"), "web-1"); err != nil || s.Number != 2 {
			t.Errorf("%v, %v", s, err)
		}
		wantWarning(t, r, "may not read attestations")
	})
	t.Run("credentials that may read no root get that error", func(t *testing.T) {
		_, store := made(t, layout.PrefixEnvironments("web-1"))
		_, errs := list(t.Context(), newMachine(t).open(t, store), "web-1", "web")
		if len(errs) != 1 || asDamaged(errs[0]) || !errors.Is(errs[0], storage.ErrDenied) {
			t.Errorf("errors %v", errs)
		}
	})
	t.Run("a few among many that are denied are enough", func(t *testing.T) {
		w, store := made(t)
		for n := range uint64(200) {
			w.store.Overwrite(rootKey(n+1000), []byte("x"))
			store.Add(storagetest.Rule{Op: storagetest.Get, Prefix: rootKey(n + 1000), Fault: storagetest.FailBefore(storage.ErrDenied)})
		}
		refs, errs := list(t.Context(), newMachine(t).open(t, store), "web-1", "web")
		if fmt.Sprint(refs) != "[web@4 web@3 web@2 web@1]" || len(errs) != 200 {
			t.Errorf("listed %v, %d errors", refs, len(errs))
		}
	})
	t.Run("so are those of one environment among any number that are denied elsewhere", func(t *testing.T) {
		w, store := made(t)
		for n := range uint64(1000) {
			w.store.Overwrite(layout.KeyRoot("web-1", "a", n+1), []byte("x"))
			w.store.Overwrite(layout.KeyRoot("web-1", "zzz", n+1), []byte("x"))
		}
		for _, prefix := range []string{layout.PrefixRoots("web-1", "a"), layout.PrefixRoots("web-1", "zzz")} {
			store.Add(storagetest.Rule{Op: storagetest.Get, Prefix: prefix, Fault: storagetest.FailBefore(storage.ErrDenied)})
		}
		r := newMachine(t).open(t, store)
		_, errs := list(t.Context(), r, "web-1", "zzz")
		if len(errs) == 0 || !asDamaged(errs[0]) {
			t.Errorf("%d errors: %v", len(errs), errs[:min(len(errs), 1)])
		}
	})
	t.Run("so are those that were put over others and are denied, beside what lies beneath", func(t *testing.T) {
		w, store := made(t, layout.PrefixEnvironments("web-1"))
		for n := range uint64(6) {
			w.store.Overwrite(rootKey(n+1), []byte("x"))
		}
		refs, errs := list(t.Context(), newMachine(t).open(t, store), "web-1", "web")
		if fmt.Sprint(refs) != "[web@4 web@3 web@2 web@1]" || len(errs) != 2 || !asDamaged(errs[0]) {
			t.Errorf("listed %v, %v", refs, errs)
		}
	})
}
