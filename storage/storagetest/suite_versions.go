package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
)

func testVersions(t *testing.T, s storage.Store, versioned bool) {
	v, ok := storage.Capability[storage.Versioner](s)
	if !ok {
		if versioned {
			t.Fatal("the store has no versions to see")
		}
		return
	}
	put(t, s, "v/key", "old bytes")
	put(t, s, "v/key2", "a neighbour")
	put(t, s, "v/key-3", "another")
	for o, err := range s.List(t.Context(), storage.ListOptions{Prefix: "v/", After: "v/a", Limit: 1, Hidden: true}) {
		if err != nil || o.Key != "v/key" {
			t.Errorf("the first after v/a is %+v, %v", o, err)
		}
	}
	before, err := versions(t.Context(), v, "v/key")
	if err != nil || len(before) != 1 || before[0].Marker || before[0].Size != 9 {
		t.Fatalf("after one put the versions are %+v, %v", before, err)
	}
	if none, err := versions(t.Context(), v, "v/never"); err != nil || len(none) != 0 {
		t.Errorf("what never was has versions %+v, %v", none, err)
	}
	if _, err := versions(t.Context(), v, "../v"); !errors.Is(err, storage.ErrInvalidKey) {
		t.Errorf("versions of an invalid key: %v, want ErrInvalidKey", err)
	}
	if err := s.Delete(t.Context(), "v/key"); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, s, "v/key")
	wantHidden(t, s, versioned)
	after, err := versions(t.Context(), v, "v/key")
	if err != nil {
		t.Fatal(err)
	}
	if !versioned {
		if len(after) != 0 {
			t.Errorf("a store without versions kept %+v", after)
		}
		if p, ok := storage.Capability[storage.Purger](s); ok {
			purge(t, p, "v/key2", newest(t, s, "v/key2"))
			wantAbsent(t, s, "v/key2")
		}
		return
	}
	if len(after) != 2 || !after[0].Marker || after[1].ID != before[0].ID {
		t.Fatalf("after a delete the versions are %+v, want a marker over %q", after, before[0].ID)
	}
	for _, c := range []struct {
		offset, length int64
		want           string
	}{{0, -1, "old bytes"}, {4, 3, "byt"}, {4, 100, "bytes"}, {9, 1, ""}, {0, 0, ""}} {
		r, err := v.GetVersion(t.Context(), "v/key", before[0].ID, c.offset, c.length)
		if err != nil {
			t.Fatalf("get of the hidden version: %v", err)
		}
		have, err := io.ReadAll(r)
		if r.Close(); err != nil || string(have) != c.want {
			t.Errorf("the hidden version at [%d, +%d) has %q, %v; want %q", c.offset, c.length, have, err, c.want)
		}
	}
	p, ok := storage.Capability[storage.Purger](s)
	if !ok {
		t.Fatal("a store that keeps versions must be able to delete them")
	}
	purge(t, p, "v/key", after[0].ID)
	wantBody(t, s, "v/key", []byte("old bytes")) // the marker hides it no more
	for range 2 {
		purge(t, p, "v/key", after[1].ID)
		if left, err := versions(t.Context(), v, "v/key"); err != nil || len(left) != 0 {
			t.Fatalf("of a purged object there is %+v, %v", left, err)
		}
	}
	wantAbsent(t, s, "v/key")
	wantBody(t, s, "v/key2", []byte("a neighbour"))
}

func purge(t *testing.T, p storage.Purger, key, version string) {
	t.Helper()
	if err := p.DeleteVersion(t.Context(), key, version); err != nil {
		t.Fatalf("delete version %q of %s: %v", version, key, err)
	}
}

// wantHidden lists what lies beneath v/ once v/key was deleted.
func wantHidden(t *testing.T, s storage.Store, versioned bool) {
	t.Helper()
	for _, o := range []storage.ListOptions{{Prefix: "v/"}, {Prefix: "v/key"}, {Prefix: "v/", After: "v/a"}, {Prefix: "v/", Limit: 3}, {Prefix: "v/", After: "v/a", Limit: 3}, {Prefix: "v/key", After: "v/key"}} {
		o.Hidden = true
		want := []storage.Object{{Key: "v/key", Size: 9, Hidden: true}, {Key: "v/key-3", Size: 7}, {Key: "v/key2", Size: 11}}
		if !versioned || o.After == "v/key" {
			want = want[1:]
		}
		found, err := list(t.Context(), s, o)
		for i := range found {
			found[i].Modified, found[i].MD5 = time.Time{}, [16]byte{}
		}
		if err != nil || !slices.Equal(found, want) {
			t.Errorf("with what is hidden, %+v lists %+v, %v; want %+v", o, found, err, want)
		}
	}
}

func testLocks(t *testing.T, s storage.Store, locking bool) {
	now := time.Now().UTC().Truncate(time.Second)
	lock := storage.Retention{Mode: storage.Compliance, Until: now.Add(time.Hour)}
	err := s.Put(t.Context(), "l/key", []byte("locked"), storage.PutOptions{Retention: lock})
	if !locking {
		if !errors.Is(err, storage.ErrUnsupported) {
			t.Errorf("a locked put where no locks are: %v, want ErrUnsupported", err)
		}
		wantAbsent(t, s, "l/key")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	r, ok := storage.Capability[storage.Retainer](s)
	if !ok {
		t.Fatal("the store reports no locks")
	}
	wantLock(t, s, "l/key", lock)
	longer := storage.Retention{Mode: storage.Compliance, Until: now.Add(2 * time.Hour)}
	for _, step := range []struct{ ask, want storage.Retention }{
		{longer, longer},
		{lock, longer}, // never shortened
		{storage.Retention{Mode: storage.Governance, Until: now.Add(time.Hour)}, longer},
		{storage.Retention{Mode: storage.Governance, Until: now.Add(3 * time.Hour)}, storage.Retention{Mode: storage.Compliance, Until: now.Add(3 * time.Hour)}},
	} {
		if err := r.Retain(t.Context(), "l/key", newest(t, s, "l/key"), step.ask); err != nil {
			t.Fatalf("retain: %v", err)
		}
		wantLock(t, s, "l/key", step.want)
	}

	put(t, s, "l/free", "unlocked")
	wantLock(t, s, "l/free", storage.Retention{})
	if err := r.Retain(t.Context(), "l/free", newest(t, s, "l/free"), lock); err != nil {
		t.Fatalf("retain of what had no lock: %v", err)
	}
	wantLock(t, s, "l/free", lock)
	if _, err := r.Retention(t.Context(), "l/never", ""); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("retention of nothing: %v, want ErrNotFound", err)
	}

	id := newest(t, s, "l/key")
	if p, _ := storage.Capability[storage.Purger](s); p == nil {
		t.Error("a store with locks must be able to delete versions")
	} else if err := p.DeleteVersion(t.Context(), "l/key", id); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("delete of a locked version: %v, want ErrLocked", err)
	}
	if err := s.Delete(t.Context(), "l/key"); err != nil {
		t.Fatalf("a delete that only hides: %v", err)
	}
	v, _ := storage.Capability[storage.Versioner](s)
	body, err := v.GetVersion(t.Context(), "l/key", id, 0, -1)
	if err != nil {
		t.Fatalf("the locked version is gone: %v", err)
	}
	body.Close()
}

func wantLock(t *testing.T, s storage.Store, key string, want storage.Retention) {
	t.Helper()
	r, _ := storage.Capability[storage.Retainer](s)
	have, err := r.Retention(t.Context(), key, newest(t, s, key))
	if err != nil || have.Mode != want.Mode || !have.Until.Equal(want.Until) {
		t.Errorf("%s is locked %+v, %v; want %+v", key, have, err, want)
	}
}

// newest returns the ID of the version in view.
func newest(t *testing.T, s storage.Store, key string) string {
	t.Helper()
	v, ok := storage.Capability[storage.Versioner](s)
	if !ok {
		t.Fatal("a store with locks must list versions")
	}
	all, err := versions(t.Context(), v, key)
	if err != nil || len(all) == 0 {
		t.Fatalf("versions of %s: %+v, %v", key, all, err)
	}
	return all[0].ID
}

func versions(ctx context.Context, v storage.Versioner, key string) ([]storage.Version, error) {
	var all []storage.Version
	for version, err := range v.Versions(ctx, key) {
		if err != nil {
			return all, err
		}
		all = append(all, version)
	}
	return all, nil
}

// testMarkers lists more delete markers than a server lists at once.
func testMarkers(t *testing.T, s storage.Store) {
	const n = 1010
	for _, key := range []string{"w/a", "w/b", "w/c", "w/d", "w/z"} {
		put(t, s, key, key)
	}
	var g errgroup.Group
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return s.Delete(t.Context(), "w/b") })
		g.Go(func() error { return s.Delete(t.Context(), fmt.Sprintf("w/e-%04d", i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "w/c"); err != nil {
		t.Fatal(err)
	}
	found, err := list(t.Context(), s, storage.ListOptions{Prefix: "w/", Hidden: true})
	have := ""
	for _, o := range found {
		have += o.Key
		if o.Hidden {
			have += " hidden"
		}
		have += ", "
	}
	if want := "w/a, w/b hidden, w/c hidden, w/d, w/z, "; have != want || err != nil {
		t.Errorf("listed %q, %v; want %q", have, err, want)
	}
}
