package repository_test

import (
	"fmt"
	"testing"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// Both were signed in earnest, in two copies of a repository that went apart.
func TestCopies(t *testing.T) {
	t.Run("a statement of one put over another replaces nothing", func(t *testing.T) {
		w := newWorld(t)
		for range 3 {
			commit(t, w.m.host(t, w.store), "web")
		}
		apart := storagetest.NewMemory()
		for _, key := range w.store.Keys() {
			b, err := storage.Append(t.Context(), nil, w.store, key, 0, -1)
			if err == nil {
				err = apart.Put(t.Context(), key, b, storage.PutOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := forget(t, w.m.open(t, w.store), 1); err != nil {
			t.Fatal(err)
		}
		if err := forget(t, w.m.open(t, apart), 2); err != nil {
			t.Fatal(err)
		}
		key := layout.KeyTombstone("web-1", "web", 1)
		other, err := storage.Append(t.Context(), nil, apart, key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		w.store.Overwrite(key, other)
		for _, m := range []machine{w.m, newMachine(t)} {
			r := m.open(t, w.store)
			wantKept(t, r, "[web@3 web@2]")
			wantWarning(t, r, key)
		}
		// Nor is the next one built on it.
		x, err := w.m.open(t, w.store).Forget(t.Context(), "web-1", "web", history.Change{Forget: statement.NumbersOf(2), Now: now})
		if err != nil || fmt.Sprint(x.Forgotten) != "[{1 2}]" {
			t.Errorf("forgotten are %v, %v", x, err)
		}
	})
}
