package repository_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// listings counts the listings under a prefix since the last call.
func listings(f *storagetest.Faulty, prefix string, since *int) (n int) {
	log := f.Log()
	for _, op := range log[*since:] {
		if op.Op == storagetest.List && strings.HasPrefix(op.Key, prefix) {
			n++
		}
	}
	*since = len(log)
	return n
}

func TestCertificates(t *testing.T) {
	t.Run("a listing of them counts for a while", func(t *testing.T) {
		w := newWorld(t)
		store := storagetest.NewFaulty(w.store)
		for _, c := range []struct {
			fresh time.Duration
			most  int
		}{{time.Hour, 1}, {0, 100}} {
			r, err := repository.Open(t.Context(), store, repository.Options{Options: trust.Options{StateDir: w.m.state, URL: url, MachineID: w.m.id, Now: now, Fresh: c.fresh}})
			if err != nil {
				t.Fatal(err)
			}
			since := len(store.Log())
			h, err := r.Host(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			commit(t, host{h, r}, "web")
			commit(t, host{h, r}, "web")
			n := listings(store, layout.PrefixAllCertificates, &since)
			if n < 1 || n > c.most || c.fresh == 0 && n < 3 {
				t.Errorf("fresh for %v: %d listings", c.fresh, n)
			}
		}
	})

	t.Run("what a repository publishes itself it sees at once", func(t *testing.T) {
		w := newWorld(t)
		r, err := repository.Open(t.Context(), w.store, repository.Options{Options: trust.Options{StateDir: w.m.state, URL: url, MachineID: w.m.id, Now: now, Fresh: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		r.Unlock(w.id)
		h, err := r.Host(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		commit(t, host{h, r}, "web")
		before, err := r.CurrentEpoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: h.Name, Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		if again, err := r.Host(t.Context()); err != nil || again.Certificate.Serial != 2 {
			t.Errorf("host %+v, %v", again, err)
		}
		other := newIdentity(t, identity.X25519)
		if _, err := r.AddRecipient(t.Context(), other.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		if _, err := r.RemoveRecipient(t.Context(), other.Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		if after, err := r.CurrentEpoch(t.Context()); err != nil || after.ID == before.ID {
			t.Errorf("epoch %v after %v, %v", after, before, err)
		}
	})

	// A host whose certificates somebody removed is listed and found all the same.
	t.Run("a host without them is not forgotten", func(t *testing.T) {
		w, plain := plainWorld(t, 2)
		for _, key := range w.store.Keys() {
			if strings.HasPrefix(key, layout.PrefixAllCertificates) {
				if err := plain.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
		r := newMachine(t).open(t, plain)
		r.Unlock(w.id)
		if hosts, err := r.AllHosts(t.Context()); err != nil || len(hosts) != 1 || hosts[0] != "web-1" {
			t.Errorf("hosts %q, %v", hosts, err)
		}
		ref, _, err := history.ParseRef("web")
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Resolve(t.Context(), ref, "elsewhere")
		if err != nil || s.Number != 2 {
			t.Fatalf("resolved %v, %v", s, err)
		}
		byID := history.Ref{ID: fmt.Sprintf("%x", s.ID[:8])}
		if again, err := r.Resolve(t.Context(), byID, "elsewhere"); err != nil || again.ID != s.ID {
			t.Errorf("resolved %v, %v", again, err)
		}
	})
}
