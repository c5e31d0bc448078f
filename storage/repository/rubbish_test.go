package repository_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// kept lists the snapshots of web that are not forgotten, and the errors met.
func kept(t *testing.T, r *repository.Repository) (refs []string, errs []error) {
	t.Helper()
	for s, err := range r.Kept(t.Context(), "web-1", "web") {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		refs = append(refs, s.Ref())
	}
	return refs, errs
}

func wantKept(t *testing.T, r *repository.Repository, want string) {
	t.Helper()
	if refs, errs := kept(t, r); fmt.Sprint(refs) != want || errs != nil {
		t.Errorf("kept are %v, want %s; errors %v", refs, want, errs)
	}
}

func forget(t *testing.T, r *repository.Repository, numbers ...uint64) error {
	t.Helper()
	_, err := r.Forget(t.Context(), "web-1", "web", history.Change{Forget: statement.NumbersOf(numbers...), Now: now})
	return err
}

func TestRubbish(t *testing.T) {
	t.Run("a root is forgotten by its number", func(t *testing.T) {
		for name, far := range map[string]uint64{"close above": 6, "far above": 1 << 60, "at the highest number": layout.MaxNumber} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				for range 3 {
					commit(t, w.m.host(t, w.store), "web")
				}
				w.store.Overwrite(rootKey(far), []byte("rubbish"))
				w.store.Overwrite("hosts/web-1/roots/web/0000000000000000", []byte("rubbish"))
				r := w.m.open(t, w.store)
				if _, err := r.Head(t.Context(), "web-1", "web"); !asDamaged(err) {
					t.Errorf("head with rubbish above: %v", err)
				}
				// Others can be forgotten all the same.
				if err := forget(t, r, 1); err != nil {
					t.Fatal(err)
				}
				wantWarning(t, r, rootKey(far))
				if _, errs := kept(t, r); len(errs) == 0 {
					t.Error("nothing tells of the rubbish")
				}
				if err := forget(t, r, far); err != nil {
					t.Fatal(err)
				}
				for n, want := range map[uint64]string{3: "the newest", 4: "no such snapshot", far - 1: "no such snapshot"} {
					if err := forget(t, r, n); err == nil {
						t.Errorf("%d was forgotten, but for it being %s", n, want)
					}
				}
				for _, m := range []machine{w.m, newMachine(t)} {
					r := m.open(t, w.store)
					if s, err := r.Head(t.Context(), "web-1", "web"); err != nil || s.Number != 3 {
						t.Errorf("head %v, %v", s, err)
					}
					wantKept(t, r, "[web@3 web@2]")
				}
				if s := commit(t, w.m.host(t, w.store), "web"); s.Number != 4 {
					t.Errorf("committed %s", s.Ref())
				}
				wantKept(t, w.m.open(t, w.store), "[web@4 web@3 web@2]")
			})
		}
	})

	t.Run("lost roots are forgotten however many they are", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		var lost []uint64
		for n := uint64(1); n <= 40; n++ {
			commit(t, h, "web")
			if n > 5 && n < 38 {
				lost = append(lost, n)
				w.store.Forget(rootKey(n - 1))
			}
		}
		w.store.Forget(rootKey(37))
		r := w.m.open(t, w.store)
		if _, errs := kept(t, r); len(errs) == 0 {
			t.Error("nothing tells of the lost roots")
		}
		if err := forget(t, r, append(lost, 5)...); err != nil {
			t.Fatal(err)
		}
		wantKept(t, w.m.open(t, w.store), "[web@40 web@39 web@38 web@4 web@3 web@2 web@1]")
		// One more that nobody forgot is missed.
		w.store.Forget(rootKey(3))
		if _, errs := kept(t, w.m.open(t, w.store)); len(errs) != 1 {
			t.Errorf("errors %v", errs)
		}
	})

	t.Run("an overwritten certificate still ends the old key", func(t *testing.T) {
		w := newWorld(t)
		old := w.m.host(t, w.store)
		first := commit(t, old, "web")
		r := machine{t.TempDir(), "reinstalled"}.open(t, w.store)
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		forgeRoot(t, w, old, "web", 2, first.ID)
		w.store.Overwrite(layout.KeyCertificate("web-1", 2), []byte("rubbish"))
		reader := newMachine(t).open(t, w.store)
		if s, err := reader.Head(t.Context(), "web-1", "web"); err != nil || s.Number != 1 {
			t.Errorf("head %v, %v", s, err)
		}
		wantWarning(t, reader, layout.KeyCertificate("web-1", 2))
	})

	t.Run("a key that was taken cannot use up the numbers", func(t *testing.T) {
		w := newWorld(t)
		old := w.m.host(t, w.store)
		first := commit(t, old, "web")
		forgeRoot(t, w, old, "web", layout.MaxNumber, first.ID)
		taken := machine{t.TempDir(), w.m.id}
		if b, err := storage.Append(t.Context(), nil, w.store, rootKey(layout.MaxNumber), 0, -1); err != nil || len(b) == 0 {
			t.Fatal(err)
		}
		if _, err := w.m.open(t, w.store).Head(t.Context(), "web-1", "web"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.m.host(t, w.store).Commit(t.Context(), "web", body, now); !asTampered(err) {
			t.Errorf("after the last number: %v", err)
		}
		r := taken.open(t, w.store)
		r.Unlock(w.id)
		h, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if s := commit(t, host{h, r}, "web"); s.Number != 2 || s.Root.Previous != first.ID {
			t.Errorf("committed %s", s.Ref())
		}
		if s, err := newMachine(t).open(t, w.store).Head(t.Context(), "web-1", "web"); err != nil || s.Number != 2 {
			t.Errorf("head %v, %v", s, err)
		}
	})

	t.Run("the order of epochs is that of their numbers whatever times stand in them", func(t *testing.T) {
		w := newWorld(t)
		id := newIdentity(t, identity.X25519)
		if _, err := w.operator(t).AddRecipient(t.Context(), id.Recipients[0], now.AddDate(200, 0, 0)); err != nil {
			t.Fatal(err)
		}
		change, err := w.operator(t).RemoveRecipient(t.Context(), id.Recipients[0], now)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := w.m.open(t, w.store).CurrentEpoch(t.Context()); err != nil || e.ID != change.Epoch {
			t.Errorf("epoch %v, %v, want %v", e, err, change.Epoch)
		}
	})

	t.Run("an endless object is damage", func(t *testing.T) {
		for name, prefix := range map[string]string{"a descriptor": "descriptor", "a root": "hosts/web-1/roots/", "a certificate": "certs/", "an epoch": "epochs/", "an index run": "hosts/web-1/index/"} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				h := w.m.host(t, w.store)
				commit(t, h, "web")
				if err := w.store.Put(t.Context(), layout.KeyIndexRun("web-1", h.Domain.ID, 1, [32]byte{1}), []byte("x"), storage.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				r, err := opened(t, &endless{w.store, prefix}, repository.Options{})
				if err != nil {
					if prefix != "descriptor" || !asDamaged(err) {
						t.Errorf("open: %v", err)
					}
					return
				}
				_, headErr := r.Head(t.Context(), "web-1", "web")
				_, epochErr := r.CurrentEpoch(t.Context())
				x, err := r.ReadIndex(t.Context(), "web-1", h.Domain, nil)
				if err != nil {
					t.Fatal(err)
				}
				x.Close()
				if told := append(warnings(r), headErr, epochErr); !slices.ContainsFunc(told, func(err error) bool { return err != nil && strings.Contains(err.Error(), "longer than the limit") }) {
					t.Errorf("told %v", told)
				}
			})
		}
	})

	t.Run("enrolling again ends no environment that is hidden", func(t *testing.T) {
		w := newWorld(t)
		for range 2 {
			commit(t, w.m.host(t, w.store), "web")
		}
		remove(t, w.store, rootKey(1), rootKey(2))
		r := machine{t.TempDir(), "reinstalled"}.open(t, w.store)
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		wantList(t, newMachine(t).open(t, w.store), "web@2", "web@1")
	})

	t.Run("a host that lost its roots gives no number that the owner forgot", func(t *testing.T) {
		w := newWorld(t)
		for range 5 {
			commit(t, w.m.host(t, w.store), "web")
		}
		owner := newMachine(t).open(t, w.store)
		owner.Unlock(w.id)
		if err := forget(t, owner, 4); err != nil {
			t.Fatal(err)
		}
		for n := uint64(3); n <= 5; n++ {
			w.store.Forget(rootKey(n))
		}
		m := machine{t.TempDir(), "reinstalled"}
		r := m.open(t, w.store)
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []uint64{3, 5, 6} {
			if s := commit(t, m.host(t, w.store), "web"); s.Number != want {
				t.Fatalf("web@%d was made in the place of web@%d", s.Number, want)
			}
		}
	})
}

// endless gives without an end what lies under a prefix.
type endless struct {
	storage.Store
	prefix string
}

func (s *endless) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if !strings.HasPrefix(key, s.prefix) {
		return s.Store.Get(ctx, key, offset, length)
	}
	return io.NopCloser(io.LimitReader(zeros{}, 1<<40)), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
