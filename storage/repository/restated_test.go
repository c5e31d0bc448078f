package repository_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// numbered are n hashes in order, that differ by kind.
func numbered(kind byte, n int) [][32]byte {
	out := make([][32]byte, n)
	for i := range out {
		out[i] = [32]byte{kind, byte(i >> 16), byte(i >> 8), byte(i)}
	}
	return out
}

func TestRestated(t *testing.T) {
	// What is said again takes several statements here. Whichever of them a run
	// dies at, nothing that held before is unsaid.
	t.Run("what several statements hold stays wherever a run dies", func(t *testing.T) {
		w := newWorld(t)
		domain := seal.DomainID{5}
		at := func(store *storagetest.Faulty) (*repository.Repository, *deletion.Deletions) {
			r := w.m.open(t, store)
			d, err := r.Deletions(t.Context(), "web-1", domain)
			if err != nil {
				t.Fatal(err)
			}
			return r, d
		}
		pack := func(h [32]byte) deletion.ObjectID { return deletion.ObjectID{Kind: wire.KindPack, Hash: h} }
		objects := func(hashes [][32]byte) (out []statement.Object) {
			for _, h := range hashes {
				out = append(out, statement.Object{Kind: wire.KindPack, Hash: h})
			}
			return out
		}
		manifests, old, into := numbered('m', 25_000), numbered('o', 3), numbered('n', 2)
		moves := []statement.Repack{{Manifests: manifests, Moves: []statement.Move{{Old: old, New: into}}}}
		deleted := objects(numbered('d', 25_000))
		says := func(d *deletion.Deletions) error {
			for _, m := range [][32]byte{manifests[0], manifests[9_999], manifests[10_000], manifests[24_999]} {
				if got := d.Resolve(m, pack(old[1]), func(deletion.ObjectID) bool { return true }); fmt.Sprint(got) != fmt.Sprint([]deletion.ObjectID{pack(into[0]), pack(into[1])}) {
					return fmt.Errorf("manifest %x needs %v", m[:4], got)
				}
			}
			for _, o := range deleted {
				if d.Of(pack(o.Hash)).State != deletion.Deleted {
					return fmt.Errorf("pack %x is not deleted", o.Hash[:4])
				}
			}
			return nil
		}
		store := storagetest.NewFaulty(w.store)
		r, d := at(store)
		if err := r.Publish(t.Context(), "web-1", domain, d, nil, deleted, nil, moves, 0, now); err != nil {
			t.Fatal(err)
		}
		if _, d = at(store); says(d) != nil || d.Newest < 3 {
			t.Fatalf("%d statements: %v", d.Newest, says(d))
		}
		first := d.Newest
		for n := 1; ; n++ {
			store.Clear()
			store.Add(storagetest.Rule{Op: storagetest.Put, Prefix: layout.PrefixDeletions("web-1", domain), Nth: n, Fault: storagetest.FailBefore(nil)})
			r, d = at(store)
			err := r.Publish(t.Context(), "web-1", domain, d, objects(numbered('a', 20_000)), deleted, nil, moves, d.Newest+1, now)
			if err != nil && !errors.Is(err, storagetest.ErrInjected) {
				t.Fatal(err)
			}
			store.Clear()
			if _, d = at(store); says(d) != nil {
				t.Errorf("dead at statement %d: %v", n, says(d))
			}
			if err == nil {
				break
			}
		}
		if d.Newest < first+10 {
			t.Errorf("statements %d to %d were told", first+1, d.Newest)
		}
	})

	t.Run("what does not count is passed over whoever is faster", func(t *testing.T) {
		domain := seal.DomainID{5}
		of := func(old host, key string) []byte {
			host, domain, serial, _ := layout.ParseDeletionKey(key)
			x := &statement.Deletion{Repository: old.Certificate.Repository, Host: host, Domain: domain, Serial: serial, Since: serial, Made: now, Certificate: old.Certificate}
			object, err := x.Encode(old.SigningKey())
			if err != nil {
				t.Error(err)
			}
			return object
		}
		for name, c := range map[string]struct {
			times  int
			body   func(ended, present host) func(key string) []byte
			serial uint64 // of the second of two statements
			want   string
		}{
			"rubbish, often": {10, func(_, _ host) func(string) []byte {
				return func(string) []byte { return []byte("rubbish") }
			}, 12, ""},
			"a statement of a key that ended": {2, func(ended, _ host) func(string) []byte {
				return func(key string) []byte { return of(ended, key) }
			}, 4, ""},
			"rubbish without end": {1 << 30, func(_, _ host) func(string) []byte {
				return func(string) []byte { return []byte("rubbish") }
			}, 0, "find out who writes there"},
			"a statement that counts": {1, func(_, present host) func(string) []byte {
				return func(key string) []byte { return of(present, key) }
			}, 0, "another process prunes"},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				ended := w.m.host(t, w.store)
				m := machine{t.TempDir(), "reinstalled"}
				r := m.open(t, w.store)
				r.Unlock(w.id)
				if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
					t.Fatal(err)
				}
				r = m.open(t, &taker{w.store, c.times, c.body(ended, m.host(t, w.store))})
				d, err := r.Deletions(t.Context(), "web-1", domain)
				if err != nil {
					t.Fatal(err)
				}
				objects := make([]statement.Object, statement.MaxDeletionObjects+1)
				for i, h := range numbered('a', len(objects)) {
					objects[i] = statement.Object{Kind: wire.KindPack, Hash: h}
				}
				err = r.Publish(t.Context(), "web-1", domain, d, nil, objects, nil, nil, 0, now)
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("error %v, want %q", err, c.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if d, err = r.Deletions(t.Context(), "web-1", domain); err != nil || d.Newest != c.serial || len(maps.Collect(d.All())) != len(objects) {
					t.Errorf("newest is %d with %d objects, %v; want %d with %d", d.Newest, len(maps.Collect(d.All())), err, c.serial, len(objects))
				}
			})
		}
	})
}

// taker puts something at each key of a pending deletion, just before somebody
// else does, so many times.
type taker struct {
	*storagetest.Memory
	times int
	body  func(key string) []byte
}

func (s *taker) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if s.times > 0 && strings.Contains(key, "/pending/") {
		s.times--
		if err := s.Memory.Put(ctx, key, s.body(key), storage.PutOptions{}); err != nil {
			return err
		}
	}
	return s.Memory.Put(ctx, key, body, o)
}
