package repository_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// signRoot makes a root as a host's key could.
func signRoot(t *testing.T, h *trust.Host, epoch *seal.Epoch, repo seal.RepositoryID, env string, number uint64, previous [32]byte) []byte {
	t.Helper()
	sealed, err := h.Domain.SealTo(epoch, repo, h.Name)
	if err != nil {
		t.Fatal(err)
	}
	b := body(number)
	b.Finished = now
	record, err := b.AppendRecord(nil)
	if err != nil {
		t.Fatal(err)
	}
	root := &statement.Root{Repository: repo, Host: h.Name, Environment: env, Number: number, Previous: previous, Certificate: h.Certificate,
		Domain: h.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt()}
	root.SealedBody = seal.Once(h.Domain.RootKey(root.Salt), record, nil)
	object, err := root.Encode(h.SigningKey())
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func rootKey(n uint64) string { return layout.KeyRoot("web-1", "web", n) }

// plainWorld is a world whose store keeps no versions.
func plainWorld(t *testing.T, snapshots int) (*world, *storagetest.Plain) {
	t.Helper()
	w := newWorld(t)
	for range snapshots {
		commit(t, w.m.host(t, w.store), "web")
	}
	plain := storagetest.NewPlainMemory()
	for _, key := range w.store.Keys() {
		b, err := storage.Append(t.Context(), nil, w.store, key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.Put(t.Context(), key, b, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return w, plain
}

func remove(t *testing.T, s storage.Store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoots(t *testing.T) {
	t.Run("a roll back is seen where a newer head is remembered", func(t *testing.T) {
		w, plain := plainWorld(t, 3)
		remove(t, plain, rootKey(3), rootKey(2))
		r := w.m.open(t, plain)
		_, err := r.Head(t.Context(), "web-1", "web")
		if !asTampered(err) || !strings.Contains(err.Error(), "web@3") || !strings.Contains(err.Error(), "web@1") {
			t.Errorf("head: %v", err)
		}
		if _, err := r.Resolve(t.Context(), ref(t, "web"), "web-1"); !asTampered(err) {
			t.Errorf("resolve: %v", err)
		}
		if _, err := w.m.host(t, plain).Commit(t.Context(), "web", body, now); !asTampered(err) {
			t.Errorf("commit: %v", err)
		}
		refs, errs := list(t.Context(), r, "web-1", "web")
		if fmt.Sprint(refs) != "[web@1]" || len(errs) != 2 || !asTampered(errs[0]) || !asDamaged(errs[1]) {
			t.Errorf("listed %v, %v", refs, errs)
		}
		// Even when nothing is left.
		remove(t, plain, rootKey(1))
		if _, err := r.Resolve(t.Context(), ref(t, "web"), "web-1"); !asTampered(err) {
			t.Errorf("resolve with nothing left: %v", err)
		}
		// A machine without memory can only believe what it sees.
		if _, err := newMachine(t).open(t, plain).Head(t.Context(), "web-1", "web"); !errors.Is(err, history.ErrNoSnapshot) {
			t.Errorf("without memory: %v", err)
		}
	})

	t.Run("a reader remembers heads of all hosts", func(t *testing.T) {
		w, plain := plainWorld(t, 2)
		m := newMachine(t)
		if _, err := m.open(t, plain).Head(t.Context(), "web-1", "web"); err != nil {
			t.Fatal(err)
		}
		remove(t, plain, rootKey(2))
		if _, err := m.open(t, plain).Head(t.Context(), "web-1", "web"); !asTampered(err) {
			t.Errorf("made %x: %v", w.made.Pin, err)
		}
	})

	t.Run("hidden roots are found beneath even without memory", func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			commit(t, w.m.host(t, w.store), "web")
		}
		remove(t, w.store, rootKey(4), rootKey(3), rootKey(1))
		for name, m := range map[string]machine{"the host": w.m, "a bare machine": newMachine(t)} {
			r := m.open(t, w.store)
			wantList(t, r, "web@4", "web@3", "web@2", "web@1")
			wantWarning(t, r, "delete marker")
			if s, err := r.Head(t.Context(), "web-1", "web"); err != nil || s.Number != 4 {
				t.Errorf("%s: head %v, %v", name, s, err)
			}
		}
		if s := commit(t, w.m.host(t, w.store), "web"); s.Number != 5 {
			t.Errorf("committed %s over what is hidden", s.Ref())
		}
	})

	t.Run("an overwritten root is found beneath", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		first, second, third := commit(t, h, "web"), commit(t, h, "web"), commit(t, h, "web")
		w.store.Overwrite(rootKey(1), []byte("rubbish"))
		forgeRoot(t, w, h, "web", 2, first.ID) // validly signed by whoever has the key
		forgeRoot(t, w, h, "web", 3, second.ID)
		r := w.m.open(t, w.store)
		for s, err := range r.Snapshots(t.Context(), "web-1", "web") {
			want := [][32]byte{first.ID, second.ID, third.ID}
			if err != nil || s.ID != want[s.Number-1] {
				t.Errorf("%v, %v", s, err)
			}
		}
		wantWarning(t, r, rootKey(1))
		if s, err := r.Resolve(t.Context(), ref(t, "web@2"), "web-1"); err != nil || s.ID != second.ID {
			t.Errorf("by number: %v, %v", s, err)
		}
		// Without versions it shows that these are not the roots that were seen.
		_, plain := plainWorld(t, 0)
		for _, key := range w.store.Keys() {
			b, _ := storage.Append(t.Context(), nil, w.store, key, 0, -1)
			_ = plain.Delete(t.Context(), key)
			if err := plain.Put(t.Context(), key, b, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r = w.m.open(t, plain)
		refs, errs := list(t.Context(), r, "web-1", "web")
		if len(refs) != 0 || len(errs) != 3 || !asTampered(errs[0]) || !asTampered(errs[1]) || !asDamaged(errs[2]) {
			t.Errorf("listed %v, %v", refs, errs)
		}
		if _, err := w.m.host(t, plain).Commit(t.Context(), "web", body, now); !asTampered(err) {
			t.Errorf("commit on a fork: %v", err)
		}
	})

	t.Run("a hidden certificate still ends the old key", func(t *testing.T) {
		w := newWorld(t)
		old := w.m.host(t, w.store)
		first := commit(t, old, "web")
		m := machine{t.TempDir(), "reinstalled"}
		r := m.open(t, w.store)
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		forgeRoot(t, w, old, "web", 2, first.ID)
		remove(t, w.store, layout.KeyCertificate("web-1", 2))
		if s, err := newMachine(t).open(t, w.store).Head(t.Context(), "web-1", "web"); err != nil || s.Number != 1 {
			t.Errorf("head %v, %v", s, err)
		}
	})

	t.Run("damage is named and iteration goes on", func(t *testing.T) {
		for name, c := range map[string]struct {
			spoil  func(*storagetest.Memory)
			refs   string
			latest bool
		}{
			"a flipped bit in the middle": {func(s *storagetest.Memory) { s.Edit(rootKey(2), func(b []byte) []byte { b[200] ^= 1; return b }) }, "[web@3 web@1]", true},
			"a root cut short":            {func(s *storagetest.Memory) { s.Edit(rootKey(3), func(b []byte) []byte { return b[:50] }) }, "[web@2 web@1]", false},
			"an empty root":               {func(s *storagetest.Memory) { s.Edit(rootKey(1), func(b []byte) []byte { return nil }) }, "[web@3 web@2]", true},
			"a missing root":              {func(s *storagetest.Memory) { s.Forget(rootKey(2)) }, "[web@3 web@1]", true},
			"an oversized root":           {func(s *storagetest.Memory) { s.Edit(rootKey(2), func([]byte) []byte { return make([]byte, 2<<20) }) }, "[web@3 web@1]", true},
			"rubbish far above":           {func(s *storagetest.Memory) { s.Overwrite(rootKey(1<<60), []byte("x")) }, "[web@3 web@2 web@1]", false},
			"a root in another's place": {func(s *storagetest.Memory) {
				b, _ := storage.Append(context.Background(), nil, s, rootKey(1), 0, -1)
				s.Edit(rootKey(2), func([]byte) []byte { return b })
			}, "[web@3 web@1]", true},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				h := w.m.host(t, w.store)
				var third *history.Snapshot
				for range 3 {
					third = commit(t, h, "web")
				}
				c.spoil(w.store)
				r := newMachine(t).open(t, w.store)
				refs, errs := list(t.Context(), r, "web-1", "web")
				if fmt.Sprint(refs) != c.refs || len(errs) == 0 {
					t.Errorf("listed %v, %v", refs, errs)
				}
				for _, err := range errs {
					if !asDamaged(err) || !strings.Contains(err.Error(), "hosts/web-1/roots/web/") {
						t.Errorf("error %v", err)
					}
				}
				if _, err := r.Resolve(t.Context(), ref(t, "web"), "web-1"); (err == nil) != c.latest || err != nil && !asDamaged(err) {
					t.Errorf("latest: %v", err)
				}
				// The host goes on, whatever happened to what it wrote before.
				if s := commit(t, w.m.host(t, w.store), "web"); s.Number != 4 || s.Root.Previous != third.ID {
					t.Errorf("committed %s on %x", s.Ref(), s.Root.Previous)
				}
			})
		}
	})

	t.Run("leaving the iteration early leaves nothing running", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		for range 40 {
			commit(t, h, "web")
		}
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		r := w.m.open(t, w.store)
		for range r.Snapshots(t.Context(), "web-1", "web") {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n, last := 0, error(nil)
		for _, err := range r.Snapshots(ctx, "web-1", "web") {
			if n++; n == 3 {
				cancel()
			}
			last = err
		}
		if n >= 40 || !errors.Is(last, context.Canceled) {
			t.Errorf("after %d: %v", n, last)
		}
	})

	t.Run("many writers claim each number once", func(t *testing.T) {
		w := newWorld(t)
		const writers, each = 8, 5
		var wg sync.WaitGroup
		for i := range writers {
			// Each is a process of its own on the same host and state directory.
			h := w.m.host(t, w.store)
			wg.Go(func() {
				for j := range each {
					for _, env := range []string{"web", fmt.Sprintf("own-%d", i)} {
						s, err := h.Commit(t.Context(), env, body, now)
						if err != nil {
							t.Error(err)
							return
						}
						if env != "web" && s.Number != uint64(j+1) {
							t.Errorf("%s after %d", s.Ref(), j)
						}
					}
				}
			})
		}
		wg.Wait()
		r := w.m.open(t, w.store)
		refs, errs := list(t.Context(), r, "web-1", "web")
		if len(refs) != writers*each || errs != nil {
			t.Errorf("%d snapshots, %v", len(refs), errs)
		}
		if got := warnings(r); got != nil {
			t.Errorf("warnings %v", got)
		}
	})

	t.Run("a body is made for the number it is committed under", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		var asked []uint64
		s, err := h.Commit(t.Context(), "web", func(n uint64) *statement.RootBody {
			if asked = append(asked, n); n == 1 {
				commit(t, w.m.host(t, w.store), "web") // another process is quicker
			}
			b := body(n)
			b.Entries = n
			return b
		}, now)
		if err != nil || s.Number != 2 || s.Body.Entries != 2 || fmt.Sprint(asked) != "[1 2]" {
			t.Errorf("asked for %v: %+v, %v", asked, s, err)
		}
		if _, err := h.Commit(t.Context(), "web", func(uint64) *statement.RootBody { return &statement.RootBody{} }, now); err == nil {
			t.Error("a body that no reader takes is committed")
		}
		if _, err := h.Commit(t.Context(), "No Name", body, now); err == nil {
			t.Error("a name that is none is committed")
		}
	})

	t.Run("a number that can neither be seen nor taken ends the commit", func(t *testing.T) {
		w, plain := plainWorld(t, 1)
		h := w.m.host(t, markers{plain, map[string]bool{rootKey(2): true}})
		if _, err := h.Commit(t.Context(), "web", body, now); !asTampered(err) {
			t.Errorf("error %v", err)
		}
	})

	t.Run("a locked repository locks what it writes", func(t *testing.T) {
		store, m := storagetest.NewMemory(), newMachine(t)
		r, _, err := repository.Init(t.Context(), store, trust.InitOptions{
			Recipients: newIdentity(t, identity.X25519).Recipients, Host: "web-1", StateDir: m.state, URL: url, MachineID: m.id, Now: now,
			Lock: trust.Lock{Mode: storage.Compliance, Keep: 30 * 24 * time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		until := now.Add(30 * 24 * time.Hour * 5 / 4) // see Retention
		if got := r.Retention(now); got.Mode != storage.Compliance || !got.Until.Equal(until) {
			t.Errorf("retention %+v", got)
		}
		if _, err := m.host(t, store).Commit(t.Context(), "web", body, now); err != nil {
			t.Fatal(err)
		}
		for _, key := range store.Keys() {
			for v, err := range store.Versions(t.Context(), key) {
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(key, "probe/") {
					continue
				}
				if lock, err := store.Retention(t.Context(), key, v.ID); err != nil || lock.Mode != storage.Compliance || !lock.Until.Equal(until) {
					t.Errorf("%s is locked %+v, %v", key, lock, err)
				}
			}
		}
	})
}

// markers is a store that refuses to create over a delete marker, and shows
// no versions to this host.
type markers struct {
	*storagetest.Plain
	hidden map[string]bool
}

func (s markers) Put(ctx context.Context, key string, b []byte, o storage.PutOptions) error {
	if s.hidden[key] {
		return &storage.Error{Op: "put", Key: key, Err: storage.ErrExists}
	}
	return s.Plain.Put(ctx, key, b, o)
}
