package check_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/wire"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// seals puts a pack of the host whose trailer names an epoch.
func (w *world) seals(epoch *seal.Epoch) (key string) {
	w.t.Helper()
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	session, err := seal.NewSession(r.ID(), epoch)
	w.Check(err)
	b := pack.NewBuilder(wire.KindPack, r.ID(), host.Domain, session, nil)
	content := []byte("content")
	b.Add(pack.StoredFrame(nil, content), len(content), []pack.Chunk{{ID: [32]byte{1}, Len: uint32(len(content))}})
	object, sum, _ := b.Finish(pack.ObjectList{})
	key = layout.KeyPack(enginetest.Host, host.Domain.ID, sum)
	w.Check(w.Store.Put(w.Ctx, key, object, storage.PutOptions{}))
	return key
}

// Who has the keys of a host can seal to any epoch.
func TestUnopenedPack(t *testing.T) {
	t.Parallel()
	t.Run("is no damage when the owner announced its epoch, and ends no check", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		made, err := identity.Generate(identity.X25519)
		w.Check(err)
		file := filepath.Join(t.TempDir(), "identity")
		w.Check(identity.WriteFile(file, made, identity.WriteOptions{Created: time.Now()}))
		former, err := identity.Load(file, nil)
		w.Check(err)
		_, err = w.Bare().AddRecipient(w.Ctx, made.Recipient, time.Now())
		w.Check(err)
		_, err = w.Bare().RemoveRecipient(w.Ctx, made.Recipient, time.Now())
		w.Check(err)
		epoch, err := w.Bare().CurrentEpoch(w.Ctx)
		w.Check(err)
		w.seals(epoch)

		r := w.Open("")
		r.Unlock(former)
		report, err := check.Run(w.Ctx, r, check.Options{ReadData: 1})
		w.Check(err)
		if len(report.Damage) > 0 || !contains(report.Notes, "cannot be opened with this identity") || report.Snapshots != 1 {
			t.Errorf("damage %q, notes %q", damage(report), report.Notes)
		}
	})
	t.Run("is damaged when the owner announced no such epoch", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		secret, err := seal.NewEpochSecret()
		w.Check(err)
		w.seals(secret.Epoch)
		report := w.run(check.Options{ReadData: 1})
		if d := strings.Join(damage(report), "\n"); !strings.Contains(d, secret.ID.String()) || len(report.Damage) != 1 {
			t.Errorf("damage %q, notes %q", d, report.Notes)
		}
	})
	t.Run("has the epochs listed once, however many there are", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		const epochs = 8
		for range epochs {
			secret, err := seal.NewEpochSecret()
			w.Check(err)
			w.seals(secret.Epoch)
		}

		log := storagetest.NewFaulty(w.Store)
		r, err := repository.Open(w.Ctx, log, repository.Options{Options: trust.Options{StateDir: t.TempDir(), URL: w.URL, Now: time.Now(), Fresh: time.Minute}})
		w.Check(err)
		r.Unlock(w.ID)
		report, err := check.Run(w.Ctx, r, check.Options{ReadData: 1})
		w.Check(err)
		lists := 0
		for _, op := range log.Log() {
			if op.Op == storagetest.List && op.Key == layout.PrefixEpochs {
				lists++
			}
		}
		if len(report.Damage) != epochs || lists > 2 { // one is for the newest
			t.Errorf("%d damaged, the epochs were listed %d times", len(report.Damage), lists)
		}
	})
}
