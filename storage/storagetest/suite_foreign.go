package storagetest

import (
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
	t.Run("so are more such names than a server lists at once", func(t *testing.T) {
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
