package repository_test

import (
	"fmt"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/trust"
)

func TestRubbishKeys(t *testing.T) {
	// Somebody without any key put rubbish where its wrapped keys belong, before it was added.
	t.Run("whoever is added as a recipient can read or the owner is warned", func(t *testing.T) {
		w := newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		second := newIdentity(t, identity.X25519)
		fp := layout.RecipientFingerprint(second.Recipients[0])
		epoch, err := w.operator(t).CurrentEpoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{layout.KeyEpochSecret(epoch.ID, fp), layout.KeyOwnerSecret(fp)} {
			if err := w.store.Put(t.Context(), key, []byte("rubbish"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r := w.operator(t)
		change, err := r.AddRecipient(t.Context(), second.Recipients[0], now)
		if err != nil {
			t.Logf("it is refused: %v", err)
			return
		}
		warned := fmt.Sprint(change.Notes, warnings(r))
		reader := newMachine(t).open(t, w.store)
		reader.Unlock(second)
		s, err := reader.Head(t.Context(), "web-1", "web")
		if (err != nil || s.Body == nil) && !strings.Contains(warned, fp) {
			t.Errorf("it was added (past %v, warned %q), and reads nothing: %v", change.Past, warned, err)
		}
	})

	t.Run("rubbish in epochs and certificates blocks no change of keys", func(t *testing.T) {
		w := newWorld(t)
		for _, key := range []string{layout.KeyEpoch(2), layout.KeyEpoch(layout.MaxNumber), layout.KeyEpoch(1 << 40), layout.KeyCertificate("web-1", 2), layout.KeyCertificate("web-1", layout.MaxNumber),
			layout.PrefixEpochs + "x", layout.PrefixCertificates("web-1") + "x"} {
			if err := w.store.Put(t.Context(), key, []byte("rubbish"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		second := newIdentity(t, identity.X25519)
		if _, err := w.operator(t).AddRecipient(t.Context(), second.Recipients[0], now); err != nil {
			t.Error(err)
		}
		if _, err := w.operator(t).RemoveRecipient(t.Context(), second.Recipients[0], now); err != nil {
			t.Error(err)
		}
		r := machine{t.TempDir(), "again"}.open(t, w.store)
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Error(err)
		}
	})
}
