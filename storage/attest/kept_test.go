package attest

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// reads opens the repository as a new process of a machine does, and returns all
// attestations, and how many objects below a prefix were read for that.
func (w *world) reads(t *testing.T, state, prefix string) ([]*Attestation, int) {
	t.Helper()
	log := storagetest.NewFaulty(w.store)
	tr, err := trust.Open(t.Context(), log, trust.Options{StateDir: state, URL: url, MachineID: state, Now: now, Report: w.host.found.Add})
	if err != nil {
		t.Fatal(err)
	}
	all, err := Open(tr).All(t.Context(), "web-1", "web")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range log.Log() {
		if o.Op != storagetest.List && strings.HasPrefix(o.Key, prefix) {
			n++
		}
	}
	return all, n
}

func TestKept(t *testing.T) {
	t.Run("a machine reads an attestation once", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		var put3 []*Attestation
		for n := range 3 {
			r := result()
			r.Subject.Number = uint64(n + 1)
			put3 = append(put3, put(t, w.owner, r, k))
		}
		state := t.TempDir()
		first, n := w.reads(t, state, "att")
		if n != 4 { // and the certificate of the key
			t.Errorf("the first time %d objects are read, want 4", n)
		}
		again, n := w.reads(t, state, "att")
		if n != 0 {
			t.Errorf("the second time %d objects are read, want none", n)
		}
		if !reflect.DeepEqual(again, first) {
			t.Errorf("what is kept is\n%+v, and what was read\n%+v", again[0].Result, first[0].Result)
		}

		t.Run("what was put over it is read", func(t *testing.T) {
			w.store.Overwrite(put3[0].Key, []byte("other bytes"))
			all, n := w.reads(t, state, "attestations/")
			if n == 0 || !reflect.DeepEqual(all, first) {
				t.Errorf("%d requests, %v", n, all)
			}
			if found := w.host.tampering(t); len(found) != 1 {
				t.Errorf("it reports %q", found)
			}
		})
		t.Run("a key that is revoked ends what is kept", func(t *testing.T) {
			must(w.owner.Revoke(t.Context(), k.ID(), time.Now().Add(-time.Hour), now))
			all, _ := w.reads(t, state, "attestations/")
			for _, a := range all {
				if !errors.Is(a.Err, ErrRevoked) {
					t.Errorf("%s counts: %v", a.Key, a.Err)
				}
			}
		})
		t.Run("hosts that a key may not speak of any more", func(t *testing.T) {
			must(w.owner.certify(t.Context(), &statement.AttestKey{Machine: k.Machine, Key: k.AttestKey.Key, Hosts: []string{"db-*"}}, now))
			all, n := w.reads(t, state, "attestations/")
			for _, a := range all[:2] {
				if !errors.Is(a.Err, statement.ErrOutOfScope) {
					t.Errorf("%s counts: %v", a.Key, a.Err)
				}
			}
			if n != 3 { // the versions of the one that was overwritten
				t.Errorf("%d requests", n)
			}
		})
		t.Run("what is kept and damaged is read again", func(t *testing.T) {
			state := t.TempDir()
			w.reads(t, state, "")
			files, err := filepath.Glob(filepath.Join(state, "repos", "*", "stores", "*", "proofs", "web-1", "web"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			if err := os.WriteFile(files[0], []byte("{\"key\": 1}\nrubbish\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if all, n := w.reads(t, state, "attestations/"); len(all) != 3 || n < 3 {
				t.Errorf("%d of %d are read", n, len(all))
			}
		})
	})

	t.Run("a machine remembers a failure that the store does not show", func(t *testing.T) {
		for name, hide := range map[string]func(w *world, failure, pass *Attestation){
			"removed":            func(w *world, failure, _ *Attestation) { w.store.Forget(failure.Key) },
			"all of them":        func(w *world, failure, pass *Attestation) { w.store.Forget(failure.Key); w.store.Forget(pass.Key) },
			"replaced by others": func(w *world, failure, _ *Attestation) { replace(t, w, failure.Key, []byte("rubbish")) },
			"the pass put again": func(w *world, _, pass *Attestation) {
				object := must(w.owner.Object(t.Context(), pass))
				time.Sleep(2 * time.Millisecond)
				replace(t, w, pass.Key, object)
			},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				k := w.owner.key(t)
				pass := put(t, w.owner, result(), k)
				time.Sleep(2 * time.Millisecond)
				failed := result()
				failed.Passed, failed.Level, failed.Evidence = false, Unproven, nil
				failure := put(t, w.owner, failed, k)
				state := t.TempDir()
				w.reads(t, state, "")
				hide(w, failure, pass)
				for range 2 { // it is not forgotten the second time
					all, _ := w.reads(t, state, "")
					v := Policy{}.Judge(Facts{Snapshots: []Candidate{{Number: 42, ID: failed.Subject.ID}}, Attestations: all, Now: now})
					if v.Good != nil || len(all) != 2 {
						t.Errorf("of %d attestations the pass counts", len(all))
					}
					for _, a := range all {
						if a.Gone == (name == "the pass put again" || a.Key == pass.Key && name != "all of them") {
							t.Errorf("%s is gone: %v", a.Key, a.Gone)
						}
					}
				}
				must(w.owner.Revoke(t.Context(), k.ID(), time.Now().Add(-time.Hour), now))
				if all, _ := w.reads(t, state, ""); !errors.Is(all[0].Err, ErrRevoked) || !errors.Is(all[1].Err, ErrRevoked) {
					t.Errorf("a revoked key counts: %v, %v", all[0].Err, all[1].Err)
				}
			})
		}
	})
}

// replace puts an object over another as on a store that keeps no versions.
func replace(t *testing.T, w *world, key string, object []byte) {
	t.Helper()
	w.store.Forget(key)
	if err := w.store.Put(t.Context(), key, object, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}
