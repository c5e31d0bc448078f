package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
)

// Foreign puts things into a store by other means than its methods.
type Foreign struct {
	// Name puts an object, or what is like one, at a name that is no key.
	Name func(name string) error
	// Odd has ways to put at a key what is no object, by what is put.
	Odd map[string]func(key string) error
}

// RunForeign checks that what others put into a store stands in the way of nothing.
// open returns an empty store each time.
func RunForeign(t *testing.T, open func(t *testing.T) (storage.Store, Foreign)) {
	t.Run("a name that is no key is passed over and reported", func(t *testing.T) {
		t.Parallel()
		s, foreign := open(t)
		testForeignNames(t, s, foreign.Name, 1)
	})
	t.Run("what is no object at a key is an object without content, or nothing", func(t *testing.T) {
		t.Parallel()
		s, foreign := open(t)
		testOdd(t, s, foreign.Odd)
	})
	t.Run("so are more such names than a server lists at once", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		t.Parallel()
		s, foreign := open(t)
		testForeignNames(t, s, foreign.Name, 1010)
	})
}

// testForeignNames puts n names of each kind that XML cannot hold.
func testForeignNames(t *testing.T, s storage.Store, add func(name string) error, n int) {
	keys := []string{"f/a", "f/a-b", "f/a0", "f/az", "f/b/x", "f/c", "f/d"}
	for _, key := range keys {
		put(t, s, key, key)
	}
	var g errgroup.Group
	g.SetLimit(32)
	// Control characters come before what a key continues with, and code points
	// that XML cannot hold come after it.
	for stem, n := range map[string]int{"f/a\x01": n, "f/a\uFFFE": n, "f/b/\x02": 1, "f/c x\n": 1} {
		for i := range n {
			name := fmt.Sprintf("%s%04d", stem, i)
			g.Go(func() error { return add(name) })
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []bool{false, true} {
		for _, o := range []storage.ListOptions{
			{}, {Prefix: "f/"}, {Prefix: "f/a"}, {Prefix: "f/", After: "f/a"}, {Prefix: "f/", Limit: 3}, {Prefix: "f/", After: "f/a0", Limit: 2},
			{Delimiter: true}, {Prefix: "f/", Delimiter: true}, {Prefix: "f/", Delimiter: true, After: "f/b/"},
		} {
			o.Hidden = hidden
			wantKeys(t, s, o, expect(keys, o)...)
		}
		seen := map[string]bool{}
		wantKeys(t, s, storage.ListOptions{Hidden: hidden, Foreign: func(name string) { seen[name] = true }}, slices.Sorted(slices.Values(keys))...)
		if len(seen) < 3 { // some servers do not show control characters, so that names look the same
			t.Errorf("%d names that are no keys were reported", len(seen))
		}
	}
}

// testOdd puts what is no object beside objects.
func testOdd(t *testing.T, s storage.Store, odd map[string]func(key string) error) {
	for what, add := range odd {
		put(t, s, "o/a", "before")
		put(t, s, "o/z", "behind")
		if err := add("o/odd"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		found, err := list(t.Context(), s, storage.ListOptions{Prefix: "o/"})
		if err != nil || len(found) < 2 || len(found) == 3 && found[1].Size != 0 {
			t.Errorf("%s: listed %+v, %v", what, found, err)
		}
		body, err := storage.Append(t.Context(), nil, s, "o/odd", 0, -1)
		switch {
		case len(found) == 3 && (err != nil || len(body) > 0):
			t.Errorf("%s: it is listed, and get returns %q, %v", what, body, err)
		case len(found) == 2 && !errors.Is(err, storage.ErrNotFound):
			t.Errorf("%s: it is not listed, and get returns %q, %v", what, body, err)
		}

		// What is listed takes the key until it is deleted. What is not does not.
		if len(found) == 3 {
			for _, body := range []string{"", "content"} {
				if err := s.Put(t.Context(), "o/odd", []byte(body), storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
					t.Errorf("%s: put %q: %v, want ErrExists", what, body, err)
				}
			}
			if err := s.Delete(t.Context(), "o/odd"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		put(t, s, "o/odd", "content")
		wantBody(t, s, "o/odd", []byte("content"))
		if err := s.Delete(t.Context(), "o/odd"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
