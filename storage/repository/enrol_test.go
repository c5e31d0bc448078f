package repository_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

func join(name string) trust.JoinOptions {
	return trust.JoinOptions{Host: name, Now: now}
}

func TestEnrol(t *testing.T) {
	t.Run("a further host joins with the identity and writes under its own name", func(t *testing.T) {
		w := newWorld(t)
		m := machine{t.TempDir(), "second"}
		r := m.open(t, w.store)
		if _, err := r.Host(t.Context()); !errors.Is(err, trust.ErrNotEnrolled) || !strings.Contains(err.Error(), "--join") {
			t.Errorf("before joining: %v", err)
		}
		if _, err := r.Join(t.Context(), join("web-2")); !errors.Is(err, trust.ErrNoUsableIdentity) {
			t.Errorf("without an identity: %v", err)
		}
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), join("web-1")); !errors.Is(err, trust.ErrHostExists) || !strings.Contains(err.Error(), "--reenrol") {
			t.Errorf("under a name that is taken: %v", err)
		}
		h, err := r.Join(t.Context(), join("web-2"))
		if err != nil {
			t.Fatal(err)
		}
		if s := commit(t, host{h, r}, "web"); s.Host != "web-2" || s.Number != 1 {
			t.Errorf("committed %s of %s", s.Ref(), s.Host)
		}
		if _, err := r.Join(t.Context(), join("web-3")); !errors.Is(err, trust.ErrHostExists) {
			t.Errorf("a machine that is a host already: %v", err)
		}
		// The first host can verify the second's snapshots, and cannot look into them.
		s, err := w.m.open(t, w.store).Head(t.Context(), "web-2", "web")
		if err != nil || s.Body != nil || s.Domain != nil {
			t.Errorf("seen by the first host: %+v, %v", s, err)
		}
		if s, err := w.operator(t).Head(t.Context(), "web-2", "web"); err != nil || s.Body == nil || s.Domain == nil {
			t.Errorf("seen by the operator: %+v, %v", s, err)
		}
	})

	t.Run("a host that never sees the identity is granted", func(t *testing.T) {
		w := newWorld(t)
		m := machine{t.TempDir(), "second"}
		r := m.open(t, w.store)
		if _, err := r.AcceptGrant(t.Context()); !errors.Is(err, trust.ErrNotEnrolled) {
			t.Errorf("before the request: %v", err)
		}
		request, err := r.JoinRequest("web-2", false, now)
		if err != nil {
			t.Fatal(err)
		}
		again, err := m.open(t, w.store).JoinRequest("web-2", false, now)
		if err != nil || string(again) != string(request) {
			t.Errorf("a request made twice differs, or %v", err)
		}
		if _, err := r.AcceptGrant(t.Context()); !errors.Is(err, trust.ErrNotEnrolled) {
			t.Errorf("before the grant: %v", err)
		}
		if _, err := r.Host(t.Context()); !errors.Is(err, trust.ErrNotEnrolled) || !strings.Contains(err.Error(), "grant") {
			t.Errorf("before the grant: %v", err)
		}
		forged := append([]byte(nil), request...)
		forged[len(forged)-1] ^= 1
		if _, _, err := w.operator(t).Grant(t.Context(), forged, false, now); err == nil {
			t.Error("a forged request is granted")
		}
		cert, granted, err := w.operator(t).Grant(t.Context(), request, false, now)
		if err != nil || granted {
			t.Fatal(granted, err)
		}
		h, err := r.AcceptGrant(t.Context())
		if err != nil || h.Certificate.Hash() != cert.Hash() {
			t.Fatal(h, err)
		}
		commit(t, host{h, r}, "web")
		for _, reenrol := range []bool{false, true} {
			again, granted, err := w.operator(t).Grant(t.Context(), request, reenrol, now)
			if err != nil || !granted || again.Hash() != cert.Hash() {
				t.Errorf("granted twice, with reenrol %t: %t, %v", reenrol, granted, err)
			}
		}

		other, err := newMachine(t).open(t, w.store).JoinRequest("web-2", false, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.operator(t).Grant(t.Context(), other, false, now); !errors.Is(err, trust.ErrHostExists) {
			t.Errorf("another machine under the same name: %v", err)
		}
	})

	// Somebody who answers in the place of the store shows a new host a descriptor
	// and an epoch of their own, under the ID of the true repository.
	t.Run("a request of a host that was shown another repository is not granted", func(t *testing.T) {
		w := newWorld(t)
		_, evil, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		d := *w.m.open(t, w.store).Descriptor()
		d.Owner = evil.Public().(ed25519.PublicKey)
		object, err := d.Encode(evil)
		if err != nil {
			t.Fatal(err)
		}
		shown := storagetest.NewMemory()
		if err := shown.Put(t.Context(), layout.KeyDescriptor, object, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}

		m := newMachine(t)
		deceived := m.open(t, shown)
		request, err := deceived.JoinRequest("web-9", false, now)
		if err != nil {
			t.Fatal(err)
		}
		operator := w.operator(t)
		cert, _, err := operator.Grant(t.Context(), request, false, now)
		if cert != nil || !errors.Is(err, statement.ErrOtherDescriptor) {
			t.Fatalf("granted %v, %v", cert, err)
		}
		for _, part := range []string{fmt.Sprintf("it trusts the pin %x", deceived.Pin()), fmt.Sprintf("make the request again with --pin %x", operator.Pin())} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing in: %v", part, err)
			}
		}
		if certs, err := operator.Certificates(t.Context(), "web-9"); len(certs) != 0 || err != nil {
			t.Errorf("certificates %v, %v", certs, err)
		}

		// What the message advises lets the host in.
		for _, name := range []string{"repos/" + operator.ID().String(), "pins"} {
			if err := os.RemoveAll(filepath.Join(m.state, name)); err != nil {
				t.Fatal(err)
			}
		}
		undeceived, err := repository.Open(t.Context(), w.store, repository.Options{Options: trust.Options{
			StateDir: m.state, URL: url, MachineID: m.id, Now: now, Given: &localstate.Pin{Descriptor: operator.Pin(), Source: "--pin"}}})
		if err != nil {
			t.Fatal(err)
		}
		if request, err = undeceived.JoinRequest("web-9", false, now); err != nil {
			t.Fatal(err)
		}
		if _, _, err := operator.Grant(t.Context(), request, false, now); err != nil {
			t.Error(err)
		}
	})

	t.Run("a reinstalled host enrols again and its old key ends", func(t *testing.T) {
		w := newWorld(t)
		old := w.m.host(t, w.store)
		commit(t, old, "web")
		second := commit(t, old, "web")
		commit(t, old, "db")

		m := machine{t.TempDir(), "reinstalled"}
		r := m.open(t, w.store)
		r.Unlock(w.id)
		o := join("web-1")
		o.Reenrol = true
		h, err := r.Join(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if c := h.Certificate; c.Serial != 2 || c.Previous != old.Certificate.Hash() || len(c.Heads) != 2 || c.Heads[1].Hash != second.ID {
			t.Errorf("certificate %d, heads %+v", c.Serial, c.Heads)
		}
		if h.Domain.ID == old.Domain.ID {
			t.Error("the domain is not fresh")
		}
		if _, err := old.Commit(t.Context(), "web", body, now); !errors.Is(err, trust.ErrCloned) {
			t.Errorf("the old key commits: %v", err)
		}
		if _, err := w.m.open(t, w.store).Host(t.Context()); !errors.Is(err, trust.ErrCloned) {
			t.Errorf("the old machine loads: %v", err)
		}

		// A thief with the old key does not ask: he writes a root by himself.
		forgeRoot(t, w, old, "web", 3, second.ID)
		forgeRoot(t, w, old, "mail", 1, [32]byte{})
		reader := w.operator(t)
		refs, errs := list(t.Context(), reader, "web-1", "web")
		if fmt.Sprint(refs) != "[web@2 web@1]" || len(errs) != 1 || !errors.Is(errs[0], statement.ErrEnded) {
			t.Errorf("listed %v, %v", refs, errs)
		}
		if s, err := reader.Head(t.Context(), "web-1", "web"); err != nil || s.ID != second.ID {
			t.Errorf("head %v, %v", s, err)
		}
		if _, err := reader.Head(t.Context(), "web-1", "mail"); !errors.Is(err, history.ErrNoSnapshot) {
			t.Errorf("an environment that the old key began: %v", err)
		}
		if s := commit(t, host{h, r}, "web"); s.Number != 4 || s.Root.Previous != second.ID {
			t.Errorf("the new key commits %s on %x", s.Ref(), s.Root.Previous)
		}
		if s := commit(t, host{h, r}, "mail"); s.Number != 2 {
			t.Errorf("the new key commits %s", s.Ref())
		}
	})

	t.Run("a copied state directory is refused on another machine", func(t *testing.T) {
		w := newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		clone := machine{t.TempDir(), "another machine"}
		if err := os.CopyFS(clone.state, os.DirFS(w.m.state)); err != nil {
			t.Fatal(err)
		}
		r := clone.open(t, w.store)
		_, err := r.Host(t.Context())
		if !errors.Is(err, trust.ErrCloned) || !strings.Contains(err.Error(), "--reenrol") {
			t.Errorf("the clone loads: %v", err)
		}
		if _, err := r.Head(t.Context(), "web-1", "web"); err != nil {
			t.Errorf("the clone cannot even read: %v", err)
		}
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), join("web-2")); !errors.Is(err, trust.ErrCloned) {
			t.Errorf("the clone joins over the copied key: %v", err)
		}
		o := join("web-1")
		o.Reenrol = true
		if _, err := r.Join(t.Context(), o); err != nil {
			t.Errorf("a machine that moved for good: %v", err)
		}
	})

	t.Run("a damaged host key is named", func(t *testing.T) {
		w := newWorld(t)
		path := w.m.open(t, w.store).State.Dir().Path("host.key")
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", st.Mode())
		}
		for i := 0; i < len(whole); i += 7 {
			b := append([]byte(nil), whole...)
			b[i] ^= 0x40
			for _, content := range [][]byte{b, whole[:i]} {
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := w.m.open(t, w.store).Host(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
					t.Fatalf("damaged at %d: %v", i, err)
				}
			}
		}
	})

	t.Run("hybrid identities open the owner key", func(t *testing.T) {
		w := newWorld(t)
		id := newIdentity(t, identity.Hybrid)
		store := w.store
		if _, err := w.operator(t).AddRecipient(t.Context(), id.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		r := machine{t.TempDir(), "second"}.open(t, store)
		r.Unlock(id)
		if _, err := r.Join(t.Context(), join("web-2")); err != nil {
			t.Error(err)
		}
	})

	t.Run("of two machines that join under one name one wins and the other can take another", func(t *testing.T) {
		w := newWorld(t)
		results := make(chan *repository.Repository, 2)
		won := make(chan host, 2)
		for i := range 2 {
			r := machine{t.TempDir(), fmt.Sprint("machine ", i)}.open(t, w.store)
			r.Unlock(w.id)
			go func() {
				h, err := r.Join(t.Context(), join("web-2"))
				if err == nil {
					won <- host{h, r}
					results <- nil
					return
				}
				if !errors.Is(err, trust.ErrHostExists) {
					t.Error(err)
				}
				results <- r
			}()
		}
		var lost *repository.Repository
		for range 2 {
			if r := <-results; r != nil {
				lost = r
			}
		}
		if len(won) != 1 || lost == nil {
			t.Fatalf("%d won", len(won))
		}
		commit(t, <-won, "web")
		h, err := lost.Join(t.Context(), join("web-3"))
		if err != nil {
			t.Fatal(err)
		}
		commit(t, host{h, lost}, "web")
	})

	t.Run("enrolling again accepts what the store still has", func(t *testing.T) {
		w, plain := plainWorld(t, 3)
		remove(t, plain, rootKey(3))
		r := w.m.open(t, plain)
		r.Unlock(w.id)
		o := join("web-1")
		o.Reenrol = true
		h, err := r.Join(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if s := commit(t, host{h, r}, "web"); s.Number != 3 {
			t.Errorf("committed %s", s.Ref())
		}
	})

	t.Run("an older list of certificates brings no ended key back", func(t *testing.T) {
		w, plain := plainWorld(t, 1)
		old := w.m.host(t, plain)
		m := machine{t.TempDir(), "reinstalled"}
		r := m.open(t, plain)
		r.Unlock(w.id)
		o := join("web-1")
		o.Reenrol = true
		if _, err := r.Join(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		reader := newMachine(t)
		if _, err := reader.open(t, plain).Head(t.Context(), "web-1", "web"); err != nil {
			t.Fatal(err)
		}

		// Whoever has the old key signs on, and the new certificate is gone.
		remove(t, plain, layout.KeyCertificate("web-1", 2))
		if s, err := old.Commit(t.Context(), "web", body, now); !errors.Is(err, trust.ErrCloned) && err != nil {
			t.Fatal(s, err)
		}
		r = reader.open(t, plain)
		if s, err := r.Head(t.Context(), "web-1", "web"); err != nil || s.Number != 1 {
			t.Errorf("head %v, %v", s, err)
		}
		wantWarning(t, r, "certificate 2")
	})
}

// forgeRoot writes a root with a host's key past all checks.
func forgeRoot(t *testing.T, w *world, h host, env string, number uint64, previous [32]byte) []byte {
	t.Helper()
	epoch, err := w.m.open(t, w.store).CurrentEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	object := signRoot(t, h.Host, epoch, w.m.open(t, w.store).ID(), env, number, previous)
	w.store.Overwrite(layout.KeyRoot(h.Name, env, number), object)
	return object
}
