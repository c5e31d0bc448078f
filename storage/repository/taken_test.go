package repository_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// What somebody does who took a host over, or may only put objects.

func TestTakenHost(t *testing.T) {
	t.Run("cannot make so many environments that its key does not end", func(t *testing.T) { manyEnvironments(t, statement.MaxHeads+50) })
}

func TestRememberedStatement(t *testing.T) {
	key := func(serial uint64) string { return layout.KeyTombstone("web-1", "web", serial) }
	// forgotten forgets web@1 and web@2 one after the other, and has a machine see it.
	forgotten := func(t *testing.T) (w *world, plain *storagetest.Plain, m machine) {
		w, plain = plainWorld(t, 4)
		for n := uint64(1); n <= 2; n++ {
			if err := forget(t, w.m.host(t, plain).repo, n); err != nil {
				t.Fatal(err)
			}
		}
		return w, plain, newMachine(t)
	}
	replace := func(t *testing.T, plain *storagetest.Plain, key string, body []byte) {
		remove(t, plain, key)
		if err := plain.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := func(t *testing.T, m machine, store storage.Store) []error {
		r := m.open(t, store)
		if _, _, _, err := r.Forgotten(t.Context(), "web-1", "web", now.Add(-time.Hour), now.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(warnings(r), func(err error) bool { return !asTampered(err) })
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, w *world, plain *storagetest.Plain)
		want   []uint64
	}{
		"is not missed while nothing changes": {func(*testing.T, *world, *storagetest.Plain) {}, nil},
		"is missed when the newest is gone":   {func(t *testing.T, _ *world, p *storagetest.Plain) { remove(t, p, key(2)) }, []uint64{2}},
		"is missed when all are gone":         {func(t *testing.T, _ *world, p *storagetest.Plain) { remove(t, p, key(2), key(1)) }, []uint64{2, 1}},
		"is missed when rubbish takes its place": {func(t *testing.T, _ *world, p *storagetest.Plain) {
			replace(t, p, key(1), []byte("rubbish"))
		}, []uint64{1}},
		"is missed when the host signs another": {func(t *testing.T, w *world, p *storagetest.Plain) {
			h := w.m.host(t, p)
			x := &statement.Tombstone{Repository: h.repo.ID(), Host: "web-1", Environment: "web", Serial: 2, Made: now, Certificate: h.Certificate, Forgotten: statement.NumbersOf(1, 2, 3)}
			object, err := x.Encode(h.SigningKey())
			if err != nil {
				t.Fatal(err)
			}
			replace(t, p, key(2), object)
		}, []uint64{2}},
		"is not missed when the key that signed it ended": {func(t *testing.T, w *world, p *storagetest.Plain) {
			r := newMachine(t).open(t, p)
			r.Unlock(w.id)
			if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w, plain, m := forgotten(t)
			if found := seen(t, m, plain); found != nil {
				t.Fatal(found)
			}
			c.change(t, w, plain)
			found := seen(t, m, plain)
			if len(found) != len(c.want) {
				t.Fatalf("found %v", found)
			}
			for i, serial := range c.want {
				if f := authentic.FindingOf(found[i]); f.Key != key(serial) || f.Kind != authentic.Tampering {
					t.Errorf("found %v", found[i])
				}
			}
			if found := seen(t, newMachine(t), plain); found != nil {
				t.Errorf("without memory: %v", found)
			}
		})
	}
	t.Run("that spared an object is missed when rubbish takes its place", func(t *testing.T) {
		w, plain := plainWorld(t, 1)
		h := w.m.host(t, plain)
		x := &statement.Deletion{Repository: h.repo.ID(), Host: "web-1", Domain: h.Domain.ID, Serial: 1, Since: 1, Made: now, Certificate: h.Certificate,
			Spared: []statement.Object{{Kind: wire.KindPack, Hash: [32]byte{1}}}}
		object, err := x.Encode(h.SigningKey())
		if err != nil {
			t.Fatal(err)
		}
		key := layout.KeyDeletion("web-1", h.Domain.ID, 1)
		if err := plain.Put(t.Context(), key, object, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		m := newMachine(t)
		look := func() []error {
			r := m.open(t, plain)
			if _, err := r.Deletions(t.Context(), "web-1", h.Domain.ID); err != nil {
				t.Fatal(err)
			}
			return warnings(r)
		}
		if found := look(); found != nil {
			t.Fatal(found)
		}
		replace(t, plain, key, []byte("rubbish"))
		if found := look(); !slices.ContainsFunc(found, asTampered) {
			t.Errorf("found %v", found)
		}
	})
}

func manyEnvironments(t *testing.T, n int) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	w := newWorld(t)
	old := w.m.host(t, w.store)
	web, db := commit(t, old, "web"), commit(t, old, "db")
	epoch, err := old.repo.CurrentEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		env := fmt.Sprintf("a%062d", i)
		object := signRoot(t, old.Host, epoch, old.repo.ID(), env, 1, [32]byte{})
		if err := w.store.Put(t.Context(), layout.KeyRoot("web-1", env, 1), object, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	m := machine{t.TempDir(), "reinstalled"}
	r := m.open(t, w.store)
	r.Unlock(w.id)
	h, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	named := func(s *history.Snapshot) bool {
		return slices.ContainsFunc(h.Certificate.Heads, func(x statement.Head) bool { return x.Environment == s.Environment && x.Hash == s.ID })
	}
	if !named(web) || !named(db) || len(h.Certificate.Heads) != statement.MaxHeads {
		t.Errorf("the certificate names web: %v, db: %v, and %d heads", named(web), named(db), len(h.Certificate.Heads))
	}
	wantWarning(t, r, "environments of host web-1")
	if s := commit(t, host{h, r}, "web"); s.Number != 2 {
		t.Errorf("the new key commits %s", s.Ref())
	}
	if s, err := newMachine(t).open(t, w.store).Head(t.Context(), "web-1", "db"); err != nil || s.ID != db.ID {
		t.Errorf("db: %v, %v", s, err)
	}
}

func TestMissingRoot(t *testing.T) {
	web := func(number uint64) history.Ref {
		ref, _, err := history.ParseRef(fmt.Sprintf("web@%d", number))
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	t.Run("is named when the snapshot above it is asked for by its number", func(t *testing.T) {
		for number := uint64(3); number <= 4; number++ {
			_, plain := plainWorld(t, 4)
			remove(t, plain, rootKey(2))
			r := newMachine(t).open(t, plain)
			s, err := r.Resolve(t.Context(), web(number), "web-1")
			if err != nil || s.Number != number {
				t.Fatal(s, err)
			}
			if found := warnings(r); slices.ContainsFunc(found, asTampered) != (number == 3) {
				t.Errorf("web@%d: %v", number, found)
			}
		}
	})
	t.Run("is named when the snapshot above it is the newest", func(t *testing.T) {
		_, plain := plainWorld(t, 3)
		remove(t, plain, rootKey(2))
		r := newMachine(t).open(t, plain)
		if s, err := r.Head(t.Context(), "web-1", "web"); err != nil || s.Number != 3 {
			t.Fatal(s, err)
		}
		wantWarning(t, r, "web@2")
	})
	t.Run("is not missed where the machine remembers the one above it", func(t *testing.T) {
		_, plain := plainWorld(t, 3)
		m := newMachine(t)
		wantList(t, m.open(t, plain), "web@3", "web@2", "web@1")
		remove(t, plain, rootKey(2))
		r := m.open(t, plain)
		if s, err := r.Resolve(t.Context(), web(3), "web-1"); err != nil || s.Number != 3 {
			t.Fatal(s, err)
		}
		if found := warnings(r); len(found) > 0 {
			t.Errorf("found %v", found)
		}
	})
	t.Run("is none where the number was given up for rubbish", func(t *testing.T) {
		w := newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		if err := w.store.Put(t.Context(), rootKey(2), []byte("rubbish"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		owner := w.operator(t)
		if err := forget(t, owner, 2); err != nil {
			t.Fatal(err)
		}
		if s := commit(t, w.m.host(t, w.store), "web"); s.Number != 3 {
			t.Fatal(s.Ref())
		}
		w.store.Forget(rootKey(2))
		r := newMachine(t).open(t, w.store)
		if _, err := r.Resolve(t.Context(), web(3), "web-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Head(t.Context(), "web-1", "web"); err != nil {
			t.Fatal(err)
		}
		if found := warnings(r); len(found) > 0 {
			t.Errorf("found %v", found)
		}
	})
}

func TestFolder(t *testing.T) {
	t.Run("is no host", func(t *testing.T) {
		for name, key := range map[string]string{
			"by an object below it":        layout.PrefixHosts + "stranger/x",
			"by rubbish in place of roots": layout.KeyRoot("stranger", "web", 1),
			"by a certificate of nobody":   layout.KeyCertificate("stranger", 1),
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				s := commit(t, w.m.host(t, w.store), "web")
				for _, k := range []string{key, layout.KeyRoot("stranger", "web", 2)} {
					if err := w.store.Put(t.Context(), k, []byte("rubbish"), storage.PutOptions{}); err != nil && !errors.Is(err, storage.ErrExists) {
						t.Fatal(err)
					}
				}
				r := w.operator(t)
				if hosts, err := r.AllHosts(t.Context()); err != nil || !slices.Equal(hosts, []string{"web-1"}) {
					t.Errorf("hosts %v, %v", hosts, err)
				}
				wantWarning(t, r, "stranger")
				ref, _, err := history.ParseRef("web")
				if err != nil {
					t.Fatal(err)
				}
				if found, err := r.Resolve(t.Context(), ref, "elsewhere"); err != nil || found.ID != s.ID {
					t.Errorf("web is %v, %v", found, err)
				}
				m := newMachine(t)
				joining := m.open(t, w.store)
				joining.Unlock(w.id)
				if _, err := joining.Join(t.Context(), trust.JoinOptions{Host: "stranger", Now: now}); err != nil {
					t.Errorf("a host of that name joins: %v", err)
				}
			})
		}
		t.Run("but one whose certificates are gone and that has a root is one", func(t *testing.T) {
			_, plain := plainWorld(t, 1)
			removeBelow(t, plain, layout.PrefixAllCertificates)
			r := newMachine(t).open(t, plain)
			if hosts, err := r.AllHosts(t.Context()); err != nil || !slices.Equal(hosts, []string{"web-1"}) {
				t.Errorf("hosts %v, %v", hosts, err)
			}
		})
	})
}

// removeBelow deletes every object below a prefix.
func removeBelow(t *testing.T, store storage.Store, prefix string) {
	t.Helper()
	var keys []string
	for o, err := range store.List(t.Context(), storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	remove(t, store, keys...)
}
