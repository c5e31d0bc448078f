package storagetest

import (
	"context"
	"crypto/md5"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
)

// neighbours are keys whose order in a directory differs from their order as
// strings, or that are nearly each other's prefix.
var neighbours = []string{
	"a-b", "a.b", "a/b", "a/b-c", "a/b.c/d", "a/b0", "a0", "a=b", "aB", "a_b", "ab",
	"b/-/x", "b/.x/y", "b/0/x", "b/0-/x", "b/0.x", "b/00", "b/=/x", "b/Z", "b/_/a/b/c/d/e", "b/a/a", "b/a/b", "b/aa/a",
	"c", "c-/1", "c./1", "c0/1", "d/d/d/d", "d/d/d-d", "d/d-d/d", "Z", "z", "_", "=", "-/-", "0",
}

func testListing(t *testing.T, s storage.Store) {
	put(t, s, "b/0/x", "four")
	var g errgroup.Group
	g.SetLimit(8)
	for _, key := range neighbours {
		if key != "b/0/x" {
			g.Go(func() error { return s.Put(t.Context(), key, []byte(key), storage.PutOptions{}) })
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	keys := slices.Sorted(slices.Values(neighbours))
	for _, prefix := range []string{"", "a", "a/b", "b", "b/", "b/0", "b/0/", "b/_/a/b/", "d/d", "d/d/d/d", "none/"} {
		for _, after := range []string{"", "a", "a/", "a/b", "a/b-c", "b/", "b/0", "b/0/", "b/0/x", "b/_/a/b/c", "d/d/", "zz"} {
			for _, fold := range []bool{false, true} {
				for _, limit := range []int{0, 2} {
					o := storage.ListOptions{Prefix: prefix, After: after, Delimiter: fold, Limit: limit}
					wantKeys(t, s, o, expect(keys, o)...)
				}
			}
		}
	}

	found, err := list(t.Context(), s, storage.ListOptions{Prefix: "b/0/"})
	if err != nil || len(found) != 1 || found[0].Size != 4 || time.Since(found[0].Modified).Abs() > time.Hour {
		t.Errorf("listed as %+v, %v; want 4 bytes of just now", found, err)
	}
	for _, o := range []storage.ListOptions{{Prefix: "b/0/"}, {Prefix: "b/0/", Hidden: true}} {
		found, err := list(t.Context(), s, o)
		if err != nil || len(found) != 1 || found[0].MD5 != [md5.Size]byte{} && found[0].MD5 != md5.Sum([]byte("four")) {
			t.Errorf("listed as %+v, %v; want no MD5, or that of the content", found, err)
		}
	}
	some := s.List(t.Context(), storage.ListOptions{})
	for range 2 { // a listing can be left early, and made again
		n := 0
		for _, err := range some {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 5 {
				break
			}
		}
		if n != 5 {
			t.Errorf("the listing ended after %d objects", n)
		}
	}
}

// testManyKeys lists more than a server puts into one reply.
func testManyKeys(t *testing.T, s storage.Store) {
	const n = 1300
	var g errgroup.Group
	g.SetLimit(32)
	keys := make([]string, n)
	for i := range n {
		keys[i] = fmt.Sprintf("m/%03d/%d", i%130, i)
		if i%13 == 0 {
			keys[i] = fmt.Sprintf("m/%03d-%d", i%130, i)
		}
		g.Go(func() error { return s.Put(t.Context(), keys[i], nil, storage.PutOptions{}) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	for _, o := range []storage.ListOptions{
		{},
		{Prefix: "m/", Delimiter: true},
		{Prefix: "m/", Limit: 1001},
		{Prefix: "m/06"},
		{Prefix: "m/06", Delimiter: true},
		{After: keys[999], Limit: 50},
		{After: keys[1298]},
		{Hidden: true},
		{Prefix: "m/", Limit: 1001, Hidden: true},
		{Prefix: "m/", After: keys[999], Limit: 50, Hidden: true},
		{Prefix: "m/", After: keys[997] + "-", Hidden: true},
	} {
		wantKeys(t, s, o, expect(keys, o)...)
	}
	// Page by page, each from the last key of the one before.
	var paged []string
	for after := ""; ; {
		page, err := list(t.Context(), s, storage.ListOptions{Prefix: "m/", After: after, Delimiter: true, Limit: 40})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		if page[0].Key <= after {
			t.Fatalf("the page after %q starts with %q", after, page[0].Key)
		}
		for _, o := range page {
			paged = append(paged, o.Key)
		}
		after = paged[len(paged)-1]
	}
	if want := expect(keys, storage.ListOptions{Prefix: "m/", Delimiter: true}); !slices.Equal(paged, want) {
		t.Errorf("page by page %d keys were listed, want %d", len(paged), len(want))
	}
}

// expect is the listing of sorted keys, by the words of storage.ListOptions.
func expect(keys []string, o storage.ListOptions) []string {
	var want []string
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, o.Prefix)
		if !ok {
			continue
		}
		if dir, _, deeper := strings.Cut(rest, "/"); deeper && o.Delimiter {
			key = o.Prefix + dir + "/"
		}
		if key > o.After && !slices.Contains(want, key) {
			want = append(want, key)
		}
	}
	if o.Limit > 0 {
		want = want[:min(o.Limit, len(want))]
	}
	return want
}

func wantKeys(t *testing.T, s storage.Store, o storage.ListOptions, want ...string) {
	t.Helper()
	found, err := list(t.Context(), s, o)
	if err != nil {
		t.Errorf("list %+v: %v", o, err)
		return
	}
	have := make([]string, len(found))
	for i, f := range found {
		have[i] = f.Key
		if f.Folded != strings.HasSuffix(f.Key, "/") {
			t.Errorf("list %+v: %q has Folded %v", o, f.Key, f.Folded)
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("list %+v:\n have %.300q\n want %.300q", o, have, want)
	}
}

func list(ctx context.Context, s storage.Store, o storage.ListOptions) ([]storage.Object, error) {
	var all []storage.Object
	for object, err := range s.List(ctx, o) {
		if err != nil {
			return all, err
		}
		all = append(all, object)
	}
	return all, nil
}
