package repository_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

func sshIdentity(t *testing.T) *identity.File {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "me")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id_ed25519")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := identity.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// reads reports whether id, on a bare machine, reads the n-th snapshot of web.
func (w *world) reads(t *testing.T, id *identity.File, n uint64) bool {
	t.Helper()
	r := newMachine(t).open(t, w.store)
	r.Unlock(id)
	s, err := r.Resolve(t.Context(), history.Ref{Environment: "web", Selector: history.ByNumber, Number: n}, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.EpochSecret(t.Context(), s.Root.Epoch)
	if err != nil && !errors.Is(err, trust.ErrNoUsableIdentity) {
		t.Fatal(err)
	}
	if (s.Body != nil) != (err == nil) {
		t.Fatalf("the body is there: %v, the epoch opens: %v", s.Body != nil, err)
	}
	return s.Body != nil
}

func TestRecipients(t *testing.T) {
	t.Run("every kind reads without the others", func(t *testing.T) {
		ids := map[string]*identity.File{"hybrid": newIdentity(t, identity.Hybrid), "X25519": newIdentity(t, identity.X25519), "ssh": sshIdentity(t)}
		w := &world{store: storagetest.NewMemory(), m: newMachine(t)}
		var recipients []string
		for _, id := range ids {
			recipients = append(recipients, id.Recipients[0]+" ")
		}
		initIn(t, w.store, w.m, append(recipients, recipients...)...)
		commit(t, w.m.host(t, w.store), "web")
		for name, id := range ids {
			if !w.reads(t, id, 1) {
				t.Errorf("%s does not read", name)
			}
			// An identity that does not know its recipient, as a plugin's, is tried on all.
			if !w.reads(t, &identity.File{Identities: id.Identities}, 1) {
				t.Errorf("%s does not read when its recipient is unknown", name)
			}
		}
		stranger := newIdentity(t, identity.X25519)
		if w.reads(t, stranger, 1) {
			t.Error("a stranger reads")
		}
		r := newMachine(t).open(t, w.store)
		_, err := r.OwnerKey(t.Context())
		if !errors.Is(err, trust.ErrNoUsableIdentity) || !strings.Contains(err.Error(), trust.ShortRecipient(ids["hybrid"].Recipients[0])) {
			t.Errorf("without an identity: %v", err)
		}
		r.Unlock(stranger)
		if _, err := r.OwnerKey(t.Context()); !errors.Is(err, trust.ErrNoUsableIdentity) {
			t.Errorf("a stranger opens the owner key: %v", err)
		}
	})

	t.Run("a recipient added with an identity reads past and future", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		commit(t, h, "web")
		id := sshIdentity(t)
		op := w.operator(t)
		change, err := op.AddRecipient(t.Context(), id.Recipients[0]+" comment", now)
		if err != nil || !change.Past || change.Epoch != w.made.Epoch {
			t.Fatalf("%+v, %v", change, err)
		}
		commit(t, h, "web")
		if !w.reads(t, id, 1) || !w.reads(t, id, 2) || !w.reads(t, w.id, 2) {
			t.Error("someone does not read")
		}
		if again, err := op.AddRecipient(t.Context(), id.Recipients[0], now); err != nil || !again.Past {
			t.Errorf("added twice: %+v, %v", again, err)
		}
		if list, err := w.m.open(t, w.store).Recipients(t.Context()); err != nil || len(list) != 2 {
			t.Errorf("recipients %v, %v", list, err)
		}
		// The added recipient can add on.
		third := newIdentity(t, identity.X25519)
		r := newMachine(t).open(t, w.store)
		r.Unlock(id)
		if _, err := r.AddRecipient(t.Context(), third.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		if !w.reads(t, third, 1) {
			t.Error("the third does not read")
		}
	})

	t.Run("adding and removing a recipient takes an identity", func(t *testing.T) {
		w := newWorld(t)
		for name, r := range map[string]*repository.Repository{"a host": w.m.open(t, w.store), "a machine that is none": newMachine(t).open(t, w.store)} {
			if _, err := r.AddRecipient(t.Context(), newIdentity(t, identity.X25519).Recipients[0], now); !errors.Is(err, trust.ErrNoUsableIdentity) {
				t.Errorf("%s adds one: %v", name, err)
			}
			if _, err := r.RemoveRecipient(t.Context(), w.id.Recipients[0], now); !errors.Is(err, trust.ErrNoUsableIdentity) {
				t.Errorf("%s removes one: %v", name, err)
			}
		}
	})

	t.Run("a recipient removed does not read what comes", func(t *testing.T) {
		w := newWorld(t)
		id := newIdentity(t, identity.X25519)
		if _, err := w.operator(t).AddRecipient(t.Context(), id.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		commit(t, w.m.host(t, w.store), "web")
		r := w.operator(t)
		list, err := r.Recipients(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(rc trust.Recipient) bool { return rc.Text == id.Recipients[0] })
		change, err := r.RemoveRecipient(t.Context(), list[i].Fingerprint[:8], now)
		if err != nil || !change.Past || change.Recipient.Text != id.Recipients[0] {
			t.Fatalf("%+v, %v", change, err)
		}
		commit(t, w.m.host(t, w.store), "web")
		if !w.reads(t, id, 1) || w.reads(t, id, 2) || !w.reads(t, w.id, 2) {
			t.Error("the wrong ones read")
		}
		if _, err := r.RemoveRecipient(t.Context(), id.Recipients[0], now); err == nil {
			t.Error("removed twice")
		}
		if _, err := r.RemoveRecipient(t.Context(), w.id.Recipients[0], now); err == nil {
			t.Error("the last one is removed")
		}
	})

	t.Run("a host does not go back to an epoch before the one it saw", func(t *testing.T) {
		w := newWorld(t)
		id := newIdentity(t, identity.X25519)
		if _, err := w.operator(t).AddRecipient(t.Context(), id.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		change, err := w.operator(t).RemoveRecipient(t.Context(), id.Recipients[0], now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		r := w.m.open(t, w.store)
		if e, err := r.CurrentEpoch(t.Context()); err != nil || e.ID != change.Epoch {
			t.Fatal(e, err)
		}
		for _, key := range w.store.Keys() {
			if strings.HasPrefix(key, "epochs/") && key < "epochs/fffffffffffffffe" {
				w.store.Forget(key)
			}
		}
		r = w.m.open(t, w.store)
		if e, err := r.CurrentEpoch(t.Context()); err != nil || e.ID != change.Epoch {
			t.Errorf("went back to %v, %v", e, err)
		}
		wantWarning(t, r, "epoch")
		// Rubbish above the newest is passed over.
		w.store.Overwrite("epochs/0000000000000001", []byte("rubbish"))
		if e, err := r.CurrentEpoch(t.Context()); err != nil || e.ID != change.Epoch {
			t.Errorf("rubbish: %v, %v", e, err)
		}
	})

	t.Run("hidden and replaced keys are found beneath", func(t *testing.T) {
		w := newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		for _, key := range w.store.Keys() {
			switch {
			case strings.HasPrefix(key, "keys/owner/"):
				w.store.Overwrite(key, []byte("rubbish"))
			case strings.HasPrefix(key, "keys/"), strings.HasPrefix(key, "epochs/"):
				remove(t, w.store, key)
			}
		}
		r := w.operator(t)
		if _, err := r.OwnerKey(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := r.Head(t.Context(), "web-1", "web"); err != nil || s.Body == nil {
			t.Errorf("%+v, %v", s, err)
		}
		if e, err := r.CurrentEpoch(t.Context()); err != nil || e.ID != w.made.Epoch {
			t.Errorf("%v, %v", e, err)
		}
		warnings := fmt.Sprint(warnings(r))
		for _, part := range []string{"keys/owner/", "keys/" + w.made.Epoch.String(), "epochs/"} {
			if !strings.Contains(warnings, part) {
				t.Errorf("warnings %s lack %s", warnings, part)
			}
		}
	})

	t.Run("a damaged key is named and not taken for a wrong identity", func(t *testing.T) {
		w, plain := plainWorld(t, 1)
		for o, err := range plain.List(t.Context(), storage.ListOptions{Prefix: "keys/owner/"}) {
			if err != nil {
				t.Fatal(err)
			}
			remove(t, plain, o.Key)
			if err := plain.Put(t.Context(), o.Key, []byte("rubbish"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r := newMachine(t).open(t, plain)
		r.Unlock(w.id)
		if _, err := r.OwnerKey(t.Context()); !asDamaged(err) || !strings.Contains(err.Error(), "keys/owner/") {
			t.Errorf("error %v", err)
		}
	})

	t.Run("a key in the wrong place is damage", func(t *testing.T) {
		w, plain := plainWorld(t, 1)
		other := storagetest.NewMemory()
		_, made := initIn(t, other, newMachine(t), w.id.Recipients...)
		move := func(from, to string) {
			t.Helper()
			b, err := storage.Append(t.Context(), nil, other, from, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			remove(t, plain, to)
			if err := plain.Put(t.Context(), to, b, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		fp := layout.RecipientFingerprint(w.id.Recipients[0])
		move(layout.KeyOwnerSecret(fp), layout.KeyOwnerSecret(fp))
		move(layout.KeyEpochSecret(made.Epoch, fp), layout.KeyEpochSecret(w.made.Epoch, fp))
		r := newMachine(t).open(t, plain)
		r.Unlock(w.id)
		if _, err := r.OwnerKey(t.Context()); !asDamaged(err) {
			t.Errorf("another repository's owner: %v", err)
		}
		if _, err := r.EpochSecret(t.Context(), w.made.Epoch); !asDamaged(err) {
			t.Errorf("another epoch's secret: %v", err)
		}
		first, err := storage.Append(t.Context(), nil, plain, layout.KeyEpoch(1), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.Put(t.Context(), layout.KeyEpoch(5), first, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.CurrentEpoch(t.Context()); err != nil {
			t.Error(err)
		}
		wantWarning(t, r, "belongs at")
	})
}
