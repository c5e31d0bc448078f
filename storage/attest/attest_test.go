package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

var now = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

// world is a repository of host web-1, and the identity of its owner.
type world struct {
	store *storagetest.Memory
	id    *identity.File
	host  *machine // with the host key, without an identity
	owner *machine // with the identity, and no host
}

// machine has the repository open. found is what it reported.
type machine struct {
	*Ledger
	state string
	found *authentic.Findings
}

const url = "s3://bucket/repo"

func newWorld(t testing.TB) *world {
	t.Helper()
	k, err := identity.Generate(identity.X25519)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "identity")
	if err := identity.WriteFile(path, k, identity.WriteOptions{Created: now}); err != nil {
		t.Fatal(err)
	}
	w := &world{store: storagetest.NewMemory()}
	if w.id, err = identity.Load(path, nil); err != nil {
		t.Fatal(err)
	}
	w.host = &machine{state: t.TempDir(), found: &authentic.Findings{}}
	tr, _, err := trust.Init(t.Context(), w.store, trust.InitOptions{Recipients: w.id.Recipients, Host: "web-1", StateDir: w.host.state, URL: url, MachineID: "host", Now: now, Report: w.host.found.Add})
	if err != nil {
		t.Fatal(err)
	}
	w.host.Ledger = Open(tr)
	w.owner = w.machine(t, t.TempDir(), w.id)
	return w
}

// machine opens the repository with a state directory.
func (w *world) machine(t testing.TB, state string, identities ...*identity.File) *machine {
	t.Helper()
	m := &machine{state: state, found: &authentic.Findings{}}
	tr, err := trust.Open(t.Context(), w.store, trust.Options{StateDir: state, URL: url, MachineID: state, Now: now, Report: m.found.Add})
	if err != nil {
		t.Fatal(err)
	}
	tr.Unlock(identities...)
	m.Ledger = Open(tr)
	return m
}

func (m *machine) key(t testing.TB) *Key {
	t.Helper()
	k, err := m.EnsureKey(t.Context(), "web-1", "drill-1", now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (m *machine) all(t testing.TB) []*Attestation {
	t.Helper()
	all, err := m.All(t.Context(), "web-1", "web")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (m *machine) tampering(t testing.TB) (texts []string) {
	t.Helper()
	for _, f := range m.found.Take() {
		if f.Kind == authentic.Tampering {
			texts = append(texts, f.Err.Error())
		}
	}
	return texts
}

// result is one that uses every field.
func result() *Result {
	return &Result{
		Subject: Subject{"web-1", "web", 42, [32]byte{1, 2}}, Content: [32]byte{3}, Machine: "drill-1", Version: "0.9 <dev>", Config: [32]byte{4}, Started: now.Add(123), Passed: true, Level: Probed,
		Isolation: Isolation{Rung: "namespaces", Base: "host", Attempts: 9, Refused: 9, Limits: "cgroup v2"},
		Phases:    []Phase{{"restore", 30 * time.Second}, {"probes", 11 * time.Second}}, Store: 20 * time.Second, Files: 1000, Bytes: 1 << 60, Of: 1 << 61,
		Probes:   []Probe{{Name: "rows", Kind: "sqlite", Status: Passed, Required: true, Outside: true, Proves: true, Took: time.Second}, {Name: "self & <co>", Kind: "command", Status: NotTested, Cause: "no such program", Took: 0}},
		Unproven: []string{"a sample was drilled"}, Evidence: []byte("secret output of a probe"),
	}
}

func put(t testing.TB, m *machine, r *Result, k *Key) *Attestation {
	t.Helper()
	a, err := m.Put(t.Context(), r, k, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAttestation(t *testing.T) {
	t.Run("reads back and its evidence opens with an identity", func(t *testing.T) {
		w := newWorld(t)
		a := put(t, w.owner, result(), w.owner.key(t))
		all := w.host.all(t)
		if len(all) != 1 || all[0].Err != nil || all[0].SelfAttested || all[0].Key != a.Key || all[0].Stored.IsZero() {
			t.Fatalf("the host reads %+v", all)
		}
		want := result()
		want.Evidence = nil
		if got, _ := json.Marshal(all[0].Result); !bytes.Equal(got, must(json.Marshal(want))) {
			t.Errorf("it reads back as %s", got)
		}
		if all[0].RTO() != 41*time.Second {
			t.Errorf("RTO %v", all[0].RTO())
		}
		object := must(w.host.Object(t.Context(), all[0]))
		if bytes.Contains(object, []byte("secret")) || bytes.Contains(must(base64.StdEncoding.DecodeString(field(t, object, "payload"))), []byte("secret output")) {
			t.Error("the evidence is readable with the store's credentials")
		}
		if _, err := w.host.Evidence(t.Context(), all[0]); !errors.Is(err, trust.ErrNoUsableIdentity) {
			t.Errorf("a host opens the evidence: %v", err)
		}
		if b, err := w.owner.Evidence(t.Context(), all[0]); err != nil || string(b) != "secret output of a probe" {
			t.Errorf("evidence %q, %v", b, err)
		}
		if _, err := w.owner.Put(t.Context(), result(), w.owner.key(t), now); err != nil { // evidence is sealed again: another object
			t.Error(err)
		}
		if n := len(w.host.all(t)); n != 2 {
			t.Errorf("%d attestations", n)
		}
	})

	// The tools of others verify an attestation as it lies in the store.
	t.Run("others verify an attestation", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		a := put(t, w.owner, result(), k)
		object := must(w.owner.Object(t.Context(), a))
		t.Run("the reference library of DSSE", func(t *testing.T) {
			var e dsse.Envelope
			if err := json.Unmarshal(object, &e); err != nil {
				t.Fatal(err)
			}
			v := must(dsse.NewEnvelopeVerifier(ed25519Verifier{k.AttestKey.Key}))
			if keys, err := v.Verify(t.Context(), &e); err != nil || len(keys) != 1 {
				t.Fatalf("%v, %v", keys, err)
			}
			payload := must(e.DecodeB64Payload())
			var s struct {
				Type    string `json:"_type"`
				Subject []struct{ Digest map[string]string }
			}
			if err := json.Unmarshal(payload, &s); err != nil || s.Type != "https://in-toto.io/Statement/v1" || s.Subject[0].Digest["sha256"] != fmt.Sprintf("%x", a.Subject.ID) {
				t.Errorf("%s %v", payload, err)
			}
			payload[len(payload)-2] ^= 1
			e.Payload = base64.StdEncoding.EncodeToString(payload)
			if _, err := v.Verify(t.Context(), &e); err == nil {
				t.Error("it verifies another payload, too")
			}
		})
		t.Run("openssl", func(t *testing.T) {
			if _, err := exec.LookPath("openssl"); err != nil {
				t.Skip("there is no openssl")
			}
			dir := t.TempDir()
			payload := must(base64.StdEncoding.DecodeString(field(t, object, "payload")))
			var e struct{ Signatures []struct{ Sig []byte } }
			if err := json.Unmarshal(object, &e); err != nil {
				t.Fatal(err)
			}
			pae := fmt.Appendf(nil, "DSSEv1 28 application/vnd.in-toto+json %d %s", len(payload), payload)
			verify := func(message []byte) error {
				for name, b := range map[string][]byte{"pem": PEM(k.AttestKey.Key), "message": message, "sig": e.Signatures[0].Sig} {
					if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				cmd := exec.Command("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pem", "-in", "message", "-sigfile", "sig")
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			}
			if err := verify(pae); err != nil {
				t.Error(err)
			}
			pae[len(pae)-1] ^= 1
			if verify(pae) == nil {
				t.Error("openssl verifies another message, too")
			}
		})
	})

	t.Run("forgeries are refused each with its reason", func(t *testing.T) {
		_, strange, _ := ed25519.GenerateKey(nil)
		strangeID := statement.AttestKeyID(public(strange))
		for name, c := range map[string]struct {
			forge func(t *testing.T, f *forgery)
			want  string
			is    error
		}{
			"by a key that nobody certified": {func(t *testing.T, f *forgery) {
				f.put(t, signed(t, f.payload(t, result()), strangeID, strange), result().Subject, strangeID)
			}, "the owner certified no attest key of this ID", ErrUncertified},
			"by the key of the host": {func(t *testing.T, f *forgery) {
				h := must(f.w.host.t.Host(t.Context())).SigningKey()
				id := statement.AttestKeyID(public(h))
				f.put(t, signed(t, f.payload(t, result()), id, h), result().Subject, id)
			}, "certified no attest key", ErrUncertified},
			"by the key of the host under the ID of an attest key": {func(t *testing.T, f *forgery) {
				h := must(f.w.host.t.Host(t.Context())).SigningKey()
				f.put(t, signed(t, f.payload(t, result()), f.k.ID(), h), result().Subject, f.k.ID())
			}, "signature does not verify", statement.ErrSignature},
			"by a certificate that the host signed": {func(t *testing.T, f *forgery) {
				h := must(f.w.host.t.Host(t.Context())).SigningKey()
				x := &statement.AttestKey{Repository: f.w.host.t.ID(), Machine: "drill-1", Serial: 1, Key: public(strange), Issued: now, Hosts: []string{"*"}}
				if err := f.w.store.PlainPut(t.Context(), layout.KeyAttestKey(strangeID, 1), must(x.Encode(h))); err != nil {
					t.Fatal(err)
				}
				f.put(t, signed(t, f.payload(t, result()), strangeID, strange), result().Subject, strangeID)
			}, "certified no attest key", ErrUncertified},
			"replayed for another root at its number": {func(t *testing.T, f *forgery) {
				r := result()
				r.Subject.ID[0] ^= 1
				p := bytes.ReplaceAll(f.payload(t, result()), fmt.Appendf(nil, "%x", result().Subject.ID), fmt.Appendf(nil, "%x", r.Subject.ID))
				object := signed(t, f.payload(t, result()), f.k.ID(), f.k.private)
				f.put(t, bytes.Replace(object, encoded(f.payload(t, result())), encoded(p), 1), r.Subject, f.k.ID())
			}, "signature does not verify", statement.ErrSignature},
			"replayed for another number": {func(t *testing.T, f *forgery) {
				s := result().Subject
				s.Number = 43
				f.put(t, signed(t, f.payload(t, result()), f.k.ID(), f.k.private), s, f.k.ID())
			}, "another snapshot than its place: web-1/web@42", ErrMisplaced},
			"replayed for another environment": {func(t *testing.T, f *forgery) {
				r := result()
				r.Subject.Environment = "db"
				f.put(t, signed(t, f.payload(t, r), f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "another snapshot than its place: web-1/db@42", ErrMisplaced},
			"replayed for another host": {func(t *testing.T, f *forgery) {
				r := result()
				r.Subject.Host = "web-2"
				f.put(t, signed(t, f.payload(t, r), f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "another snapshot than its place: web-2/web@42", ErrMisplaced},
			"of another repository": {func(t *testing.T, f *forgery) {
				p := must(encode(seal.RepositoryID{9}.String(), bare(result()), nil))
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "belongs to another repository", statement.ErrOtherRepository},
			"edited from failed to passed": {func(t *testing.T, f *forgery) {
				r := bare(result())
				r.Passed = false
				failed := must(encode(f.w.host.t.ID().String(), r, nil))
				object := signed(t, failed, f.k.ID(), f.k.private)
				passed := must(encode(f.w.host.t.ID().String(), bare(result()), nil))
				f.put(t, bytes.Replace(object, encoded(failed), encoded(passed), 1), r.Subject, f.k.ID())
			}, "signature does not verify", statement.ErrSignature},
			"with a bit flipped in the store": {func(t *testing.T, f *forgery) {
				object := signed(t, f.payload(t, result()), f.k.ID(), f.k.private)
				f.put(t, object, result().Subject, f.k.ID())
				f.w.store.Edit(layout.KeyAttestation("web-1", "web", 42, f.k.ID(), sha256.Sum256(object)), func(b []byte) []byte { b[100] ^= 1; return b })
			}, "its bytes are not those of its name", nil},
			"with the ID of another key in the envelope": {func(t *testing.T, f *forgery) {
				f.put(t, signed(t, f.payload(t, result()), strangeID, f.k.private), result().Subject, f.k.ID())
			}, "the envelope names key", ErrMisplaced},
			"below the ID of another certified key": {func(t *testing.T, f *forgery) {
				other := f.w.machine(t, t.TempDir(), f.w.id).key(t)
				f.put(t, signed(t, f.payload(t, result()), f.k.ID(), f.k.private), result().Subject, other.ID())
			}, "the envelope names key", ErrMisplaced},
			"with two signatures": {func(t *testing.T, f *forgery) {
				p := f.payload(t, result())
				sig := signature{f.k.ID().String(), ed25519.Sign(f.k.private, preAuthentication(p))}
				f.put(t, must(canonical(envelope{payloadType, p, []signature{sig, sig}})), result().Subject, f.k.ID())
			}, "2 signatures, not one", nil},
			"without a signature": {func(t *testing.T, f *forgery) {
				f.put(t, must(canonical(envelope{payloadType, f.payload(t, result()), []signature{}})), result().Subject, f.k.ID())
			}, "0 signatures, not one", nil},
			"with a payload of another type": {func(t *testing.T, f *forgery) {
				p := f.payload(t, result())
				f.put(t, must(canonical(envelope{"text/plain", p, []signature{{f.k.ID().String(), ed25519.Sign(f.k.private, preAuthentication(p))}}})), result().Subject, f.k.ID())
			}, `a payload of type "text/plain"`, nil},
			"signed over the payload alone": {func(t *testing.T, f *forgery) {
				p := f.payload(t, result())
				f.put(t, must(canonical(envelope{payloadType, p, []signature{{f.k.ID().String(), ed25519.Sign(f.k.private, p)}}})), result().Subject, f.k.ID())
			}, "signature does not verify", statement.ErrSignature},
			"with a member twice": {func(t *testing.T, f *forgery) {
				p := bytes.Replace(f.payload(t, result()), []byte(`"passed":true`), []byte(`"passed":false,"passed":true`), 1)
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "not in the form of the format", errForm},
			"with a member that is unknown": {func(t *testing.T, f *forgery) {
				p := bytes.Replace(f.payload(t, result()), []byte(`"passed":true`), []byte(`"passed":true,"also":1`), 1)
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "not in the form of the format", errForm},
			"with a result that its probes do not give": {func(t *testing.T, f *forgery) {
				p := bytes.Replace(f.payload(t, result()), []byte(`"result":"WARNED"`), []byte(`"result":"PASSED"`), 1)
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "not in the form of the format", errForm},
			"of a later version": {func(t *testing.T, f *forgery) {
				p := bytes.Replace(f.payload(t, result()), []byte(`"version":1`), []byte(`"version":2`), 1)
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "made by another version of the format", wire.ErrVersion},
			"with an envelope that has more": {func(t *testing.T, f *forgery) {
				object := signed(t, f.payload(t, result()), f.k.ID(), f.k.private)
				f.put(t, bytes.Replace(object, []byte("{"), []byte(`{"also":1,`), 1), result().Subject, f.k.ID())
			}, "not in the form of the format", errForm},
			"by a key whose scope does not have the host": {func(t *testing.T, f *forgery) {
				must(f.w.owner.certify(t.Context(), &statement.AttestKey{Machine: "drill-1", Key: f.k.AttestKey.Key, Hosts: []string{"db-*"}}, now))
				f.put(t, signed(t, f.payload(t, result()), f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "may not speak of this host", statement.ErrOutOfScope},
			"in the name of another machine": {func(t *testing.T, f *forgery) {
				r := result()
				r.Machine = "drill-2"
				f.put(t, signed(t, f.payload(t, r), f.k.ID(), f.k.private), r.Subject, f.k.ID())
			}, "it names machine drill-2", nil},
			"by a revoked key": {func(t *testing.T, f *forgery) {
				f.put(t, signed(t, f.payload(t, result()), f.k.ID(), f.k.private), result().Subject, f.k.ID())
				must(f.w.owner.Revoke(t.Context(), f.k.ID(), time.Now().Add(-time.Hour), now))
			}, "the attest key was revoked, and the store took this later", ErrRevoked},
			"evidence of another digest": {func(t *testing.T, f *forgery) {
				e := &sealed{Epoch: "00", Sealed: []byte("x")}
				p := must(encode(f.w.host.t.ID().String(), bare(result()), e))
				f.put(t, signed(t, p, f.k.ID(), f.k.private), result().Subject, f.k.ID())
			}, "the evidence is not that of its digest", nil},
			"too long": {func(t *testing.T, f *forgery) {
				f.put(t, bytes.Repeat([]byte(" "), MaxObject+1), result().Subject, f.k.ID())
			}, "longer than the limit", nil},
			"no JSON": {func(t *testing.T, f *forgery) { f.put(t, []byte("{"), result().Subject, f.k.ID()) }, "unexpected end of JSON input", nil},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				f := &forgery{w: w, k: w.owner.key(t)}
				c.forge(t, f)
				found := 0
				for _, reader := range []*machine{w.host, w.machine(t, "", w.id)} {
					for _, number := range []uint64{42, 43} {
						all, err := reader.Of(t.Context(), "web-1", "web", number)
						if err != nil {
							t.Fatal(err)
						}
						for _, a := range all {
							found++
							if a.Err == nil || !strings.Contains(a.Err.Error(), c.want) || c.is != nil && !errors.Is(a.Err, c.is) {
								t.Errorf("error %v, want %q", a.Err, c.want)
							}
						}
					}
				}
				if found != 2 {
					t.Errorf("%d attestations were read, want one by each reader", found)
				}
			})
		}
	})

	t.Run("what hides or replaces an attestation is reported", func(t *testing.T) {
		w := newWorld(t)
		a := put(t, w.owner, result(), w.owner.key(t))
		stored := w.host.all(t)[0].Stored
		w.store.Overwrite(a.Key, []byte("other bytes"))
		if all := w.host.all(t); all[0].Err != nil || !all[0].Stored.Equal(stored) {
			t.Errorf("overwritten: %v, stored %v", all[0].Err, all[0].Stored)
		}
		if found := w.host.tampering(t); len(found) != 1 {
			t.Errorf("it reports %q", found)
		}
		if err := w.store.Delete(t.Context(), a.Key); err != nil {
			t.Fatal(err)
		}
		if all := w.host.all(t); len(all) != 1 || all[0].Err != nil {
			t.Errorf("hidden: %v", all)
		}
		if found := w.host.tampering(t); len(found) != 1 || !strings.Contains(found[0], "hidden by a delete marker") {
			t.Errorf("it reports %q", found)
		}
	})

	t.Run("any number of rubbish blocks nothing", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		w := newWorld(t)
		k := w.owner.key(t)
		good := put(t, w.owner, result(), k)
		flood := func(id layout.KeyID, n int) {
			for i := range n {
				hash := sha256.Sum256(fmt.Append(nil, id, i))
				if err := w.store.Put(t.Context(), layout.KeyAttestation("web-1", "web", uint64(i+1), id, hash), []byte("rubbish"), storage.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		counting := func(most int) {
			t.Helper()
			all, n := w.reads(t, t.TempDir(), "attestations/")
			counts := 0
			for _, a := range all {
				if a.Err == nil && a.Key == good.Key {
					counts++
				}
			}
			if counts != 1 || len(all) > maxRubbish+1 || n > most {
				t.Errorf("%d of %d attestations count, and %d objects are read", counts, len(all), n)
			}
		}
		flood(layout.KeyID{1}, maxRead+1)
		counting(1)

		other := must(w.machine(t, t.TempDir(), w.id).EnsureKey(t.Context(), "db-1", "drill-2", now))
		must(w.owner.certify(t.Context(), &statement.AttestKey{Machine: "drill-2", Key: other.AttestKey.Key, Hosts: []string{"db-*"}}, now))
		flood(other.ID(), 2*maxRubbish)
		counting(1 + maxRubbish)
		must(w.owner.certify(t.Context(), &statement.AttestKey{Machine: "drill-2", Key: other.AttestKey.Key, Hosts: []string{"*"}, Before: time.Now().Add(-time.Hour)}, now))
		counting(1 + maxRubbish)
	})

	t.Run("the machine that captured attests itself", func(t *testing.T) {
		w := newWorld(t)
		own := &machine{found: &authentic.Findings{}}
		// Its state directory is that of machine "host".
		tr, err := trust.Open(t.Context(), w.store, trust.Options{StateDir: w.host.state, URL: url, MachineID: "host", Now: now, Report: own.found.Add})
		if err != nil {
			t.Fatal(err)
		}
		tr.Unlock(w.id)
		own.Ledger = Open(tr)
		key := own.key(t)
		if key.Host != "web-1" {
			t.Errorf("its key is of host %q", key.Host)
		}
		put(t, own, result(), key)
		if all := w.owner.all(t); !all[0].SelfAttested || all[0].Err != nil {
			t.Errorf("%+v", all[0])
		}
		other := result()
		other.Subject.Host = "web-2"
		put(t, own, other, key)
		if all, err := w.owner.All(t.Context(), "web-2", "web"); err != nil || len(all) != 1 || all[0].SelfAttested {
			t.Errorf("for another host it is no self-attestation: %v %v", all, err)
		}
	})

	// The bytes of an attestation, which others read, are part of the format.
	t.Run("is the vector", func(t *testing.T) {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
		evidence := []byte("sealed")
		payload := must(encode(seal.RepositoryID{1, 2}.String(), bare(result()), &sealed{"0011223344556677", sha256.Sum256(evidence), evidence}))
		object := must(sign(payload, statement.AttestKeyID(public(key)), key))
		for name, got := range map[string][]byte{"statement.json": payload, "envelope.json": object} {
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := must(os.ReadFile(path)); !bytes.Equal(got, want) {
				t.Errorf("%s is no longer what it was: the format changed\n%s", name, got)
			}
		}
	})

	t.Run("what no drill reports is not written", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		for name, edit := range map[string]func(*Result){
			"a host in capitals":       func(r *Result) { r.Subject.Host = "Web" },
			"snapshot 0":               func(r *Result) { r.Subject.Number = 0 },
			"a level that is none":     func(r *Result) { r.Level = 9 },
			"a pass without a level":   func(r *Result) { r.Level = Unproven },
			"a probe without a status": func(r *Result) { r.Probes[0].Status = "" },
			"a negative duration":      func(r *Result) { r.Phases[0].Took = -1 },
			"a duration of years":      func(r *Result) { r.Store = 9000 * time.Hour },
			"a text that is no UTF-8":  func(r *Result) { r.Unproven[0] = "\xff" },
			"a text that is long":      func(r *Result) { r.Probes[0].Cause = strings.Repeat("a", 1025) },
			"fewer ways out than none": func(r *Result) { r.Isolation.Attempts = -1 },
			"many probes":              func(r *Result) { r.Probes = make([]Probe, 1025) },
			"much evidence":            func(r *Result) { r.Evidence = make([]byte, MaxEvidence+1) },
			"no time":                  func(r *Result) { r.Started = time.Time{} },
		} {
			r := result()
			edit(r)
			if _, err := w.owner.Put(t.Context(), r, k, now); err == nil {
				t.Errorf("%s is written", name)
			}
		}
		r := result()
		r.Evidence = make([]byte, MaxEvidence)
		put(t, w.owner, r, k)
		if n := len(w.host.all(t)); n != 1 {
			t.Errorf("%d attestations", n)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func field(t *testing.T, object []byte, name string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(object, &m); err != nil {
		t.Fatal(err)
	}
	return m[name].(string)
}

type ed25519Verifier struct{ key ed25519.PublicKey }

func (v ed25519Verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.key, data, sig) {
		return errors.New("it does not verify")
	}
	return nil
}
func (v ed25519Verifier) KeyID() (string, error)   { return statement.AttestKeyID(v.key).String(), nil }
func (v ed25519Verifier) Public() crypto.PublicKey { return v.key }

// forgery puts an object where it would count.
type forgery struct {
	w *world
	k *Key
}

// put stores an object below the place of a snapshot and a key.
func (f *forgery) put(t *testing.T, object []byte, s Subject, id layout.KeyID) {
	t.Helper()
	key := layout.KeyAttestation(s.Host, s.Environment, s.Number, id, sha256.Sum256(object))
	if err := f.w.store.Put(t.Context(), key, object, storage.PutOptions{SHA256: sha256.Sum256(object)}); err != nil {
		t.Fatal(err)
	}
}

// signed is a payload in an envelope.
func signed(t *testing.T, payload []byte, id layout.KeyID, key ed25519.PrivateKey) []byte {
	t.Helper()
	return must(sign(payload, id, key))
}

func (f *forgery) payload(t *testing.T, r *Result) []byte {
	t.Helper()
	return must(encode(f.w.host.t.ID().String(), bare(r), nil))
}

// bare is a result without evidence.
func bare(r *Result) *Result { r.Evidence = nil; return r }

func encoded(payload []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(payload)) }

func TestAttestKey(t *testing.T) {
	t.Run("a revocation leaves what the store took before", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		put(t, w.owner, result(), k)
		must(w.owner.Revoke(t.Context(), k.ID(), time.Now().Add(time.Hour), now))
		if all := w.host.all(t); len(all) != 1 || all[0].Err != nil {
			t.Errorf("%v", all[0].Err)
		}
		if _, err := w.owner.Put(t.Context(), result(), must2(w.owner.EnsureKey(t.Context(), "web-1", "drill-1", now)), now); !errors.Is(err, ErrNotCertified) {
			t.Errorf("a revoked key signs: %v", err)
		}
	})

	t.Run("an older list does not revive a revoked key", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		put(t, w.owner, result(), k)
		must(w.owner.Revoke(t.Context(), k.ID(), time.Now().Add(-time.Hour), now))
		if all := w.host.all(t); !errors.Is(all[0].Err, ErrRevoked) {
			t.Fatalf("%v", all[0].Err)
		}
		w.store.Forget(layout.KeyAttestKey(k.ID(), 2))
		for _, m := range []*machine{w.host, w.machine(t, w.host.state)} {
			if all := m.all(t); !errors.Is(all[0].Err, ErrRevoked) {
				t.Errorf("an older list of certificates revives a key: %v", all[0].Err)
			}
			if found := m.tampering(t); len(found) == 0 || !strings.Contains(found[0], "attest key certificates below") {
				t.Errorf("it reports %q", found)
			}
		}
		if all := w.machine(t, t.TempDir()).all(t); all[0].Err != nil {
			t.Errorf("a machine without memory: %v", all[0].Err)
		}
	})

	t.Run("is made and certified at first need", func(t *testing.T) {
		w := newWorld(t)
		k := w.owner.key(t)
		if k.Serial != 1 || k.Host != "" || !k.Speaks("anything") || k.Machine != "drill-1" {
			t.Errorf("%+v", k.AttestKey)
		}
		if again := w.machine(t, w.owner.state).key(t); again.ID() != k.ID() || again.Serial != 1 {
			t.Errorf("it is made again: %v", again)
		}
		file := filepath.Join(w.owner.state, "repos", w.owner.t.ID().String(), "attest.key")
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if s := fmt.Sprintf("%v %+v %x %#v", k, k, k, k); strings.Contains(s, fmt.Sprintf("%x", k.private.Seed())) || !strings.Contains(s, k.ID().String()) {
			t.Errorf("it prints %s", s)
		}
		saved := filepath.Join(t.TempDir(), "saved")
		if err := os.WriteFile(saved, must(os.ReadFile(file)), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, edit := range map[string]func([]byte) []byte{"of another machine": func(b []byte) []byte { return bytes.Replace(b, []byte("Machine: "), []byte("Machine: 0"), 1) }, "cut short": func(b []byte) []byte { return b[:len(b)-9] }, "changed": func(b []byte) []byte { b[len(b)/2] = 0; return b }, "of nothing": func([]byte) []byte { return []byte{} }} {
			whole, err := os.ReadFile(saved)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, edit(whole), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := w.owner.EnsureKey(t.Context(), "web-1", "drill-1", now); err == nil || !strings.Contains(err.Error(), "attest.key is damaged") {
				t.Errorf("a key file %s: %v", name, err)
			}
		}
	})

	t.Run("a drill host is certified by request", func(t *testing.T) {
		w := newWorld(t)
		drill := w.machine(t, t.TempDir())
		if _, err := drill.EnsureKey(t.Context(), "web-1", "drill-1", now); !errors.Is(err, ErrNotCertified) || !errors.Is(err, trust.ErrNoUsableIdentity) || !strings.Contains(err.Error(), "knowngood attest key --request") {
			t.Fatalf("%v", err)
		}
		request, id, err := drill.Request("drill-1", now)
		if err != nil {
			t.Fatal(err)
		}
		x, err := w.owner.Certify(t.Context(), request, []string{"web-*"}, now)
		if err != nil || x.ID() != id || x.Serial != 1 {
			t.Fatalf("%+v %v", x, err)
		}
		k := drill.key(t)
		put(t, drill, result(), k)
		if all := w.host.all(t); len(all) != 1 || all[0].Err != nil || all[0].SelfAttested {
			t.Errorf("%+v", all[0])
		}
		r := result()
		r.Subject.Host = "db-1"
		if _, err := drill.Put(t.Context(), r, k, now); !errors.Is(err, ErrNotCertified) {
			t.Errorf("out of scope: %v", err)
		}
		if _, err := drill.EnsureKey(t.Context(), "db-1", "drill-1", now); !errors.Is(err, ErrNotCertified) {
			t.Errorf("out of scope: %v", err)
		}
		if x, err = w.owner.Certify(t.Context(), request, []string{"web-*", "db-*"}, now); err != nil || x.Serial != 2 {
			t.Errorf("%+v %v", x, err)
		}
		if keys, err := w.host.Keys(t.Context()); err != nil || len(keys) != 1 || keys[0].Serial != 2 {
			t.Errorf("%v %v", keys, err)
		}
		hostKey := must(w.host.t.Host(t.Context())).SigningKey()
		own := &statement.AttestKey{Repository: w.host.t.ID(), Machine: "web-1", Serial: 1, Key: public(hostKey), Issued: now}
		forged := *own
		forged.Key = public(k.private)
		elsewhere := *own
		elsewhere.Repository = seal.RepositoryID{9}
		for name, bad := range map[string]string{
			"nothing": "", "no base64": "!", "no statement": "AAAA",
			"the key of a host":    base64.RawURLEncoding.EncodeToString(must(own.Encode(hostKey))),
			"a key of others":      base64.RawURLEncoding.EncodeToString(must(forged.Encode(hostKey))),
			"another repository's": base64.RawURLEncoding.EncodeToString(must(elsewhere.Encode(hostKey))),
		} {
			if _, err := w.owner.Certify(t.Context(), bad, []string{"*"}, now); err == nil {
				t.Errorf("%s is certified", name)
			}
		}
		if _, err := w.owner.Certify(t.Context(), request, []string{"web/*"}, now); err == nil {
			t.Error("a pattern with a slash is certified")
		}
		if _, err := drill.Certify(t.Context(), request, []string{"*"}, now); !errors.Is(err, trust.ErrNoUsableIdentity) {
			t.Errorf("without an owner key: %v", err)
		}
	})
}

// must2 is the value, and a key that is not certified where there is an error.
func must2(k *Key, err error) *Key {
	if err == nil {
		panic("the key is certified")
	}
	return &Key{AttestKey: &statement.AttestKey{Before: now}}
}

var update = flag.Bool("update", false, "write the vectors anew")

func FuzzAttestation(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(nil)
	id := statement.AttestKeyID(public(key))
	failed := bare(result())
	failed.Passed, failed.Level, failed.Probes, failed.Phases, failed.Unproven = false, Unproven, nil, nil, nil
	for _, r := range []*Result{bare(result()), failed} {
		sum := sha256.Sum256([]byte("x"))
		payload := must(encode(seal.RepositoryID{1}.String(), r, &sealed{"0011223344556677", sum, []byte("x")}))
		f.Add(payload, must(sign(payload, id, key)))
	}
	f.Fuzz(func(t *testing.T, payload, object []byte) {
		if repo, r, evidence, err := decode(payload); err == nil {
			if again, err := encode(repo, r, evidence); err != nil || !bytes.Equal(again, payload) {
				t.Errorf("%s became %s, %v", payload, again, err)
			}
		}
		if payload, id, sig, err := openEnvelope(object); err == nil {
			if again := must(canonical(envelope{payloadType, payload, []signature{{id.String(), sig}}})); !bytes.Equal(again, object) {
				t.Errorf("%s became %s", object, again)
			}
		}
	})
}
