package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// maxKept is how many bytes of results of an environment this machine keeps.
const maxKept = 8 << 20

// kept is a result whose object was read and verified. Only what its attest key may
// attest is decided each time.
type kept struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"` // as the listing showed it
	ID       Hash      `json:"id"`       // of the snapshot, and the digest of the configuration: Result has neither in JSON
	Config   Hash      `json:"config"`
	Result   *Result   `json:"result"`
	Outputs  bool      `json:"outputs"`
}

// results are those of an environment that this machine keeps, so that it reads each
// attestation once, and knows what the store does not show any more. What is damaged
// is read again.
type results struct {
	l       *Ledger
	file    string
	byKey   map[string]kept
	changed bool
}

func (l *Ledger) memory(host, env string) string {
	return l.t.State.OfStore(filepath.Join("proofs", host, env))
}

// Memory is the file in which this machine remembers the results of an environment.
func (l *Ledger) Memory(host, env string) string {
	return l.t.State.Dir().Path(l.memory(host, env))
}

func (l *Ledger) results(host, env string) *results {
	r := &results{l: l, file: l.memory(host, env), byKey: map[string]kept{}}
	if l.t.State.None() {
		return r
	}
	b, err := l.t.State.Read(r.file)
	if err != nil {
		l.t.Warn(err)
	}
	for line := range bytes.Lines(b) {
		var k kept
		if json.Unmarshal(line, &k) == nil && k.Result != nil && k.ID != (Hash{}) {
			k.Result.ID, k.Result.Config = k.ID, k.Config
			r.byKey[k.Key] = k
		}
	}
	return r
}

// shows reports whether a listing shows the object as it was when it was read. What
// others may have put over it, or hidden, is read.
func (k *kept) shows(o storage.Object) bool {
	return !o.Hidden && !o.Older && o.Size == k.Size && o.Modified.Equal(k.Modified)
}

// attestation is one that was read, and that counts as far as its key now may attest.
func (k *kept) attestation(key *statement.AttestKey) *Attestation {
	a := &Attestation{Key: k.Key, Stored: k.Modified, Result: k.Result, HasOutputs: k.Outputs, verified: true}
	_, _, _, a.KeyID, a.ID, _ = layout.ParseAttestationKey(k.Key)
	if a.Err = ErrUncertified; key != nil {
		a.Err = a.covered(key)
	}
	return a
}

// addGone adds those that are kept and that the store does not show any more: else who
// can delete there would end a failure, so that an earlier pass counts again.
func (r *results) addGone(ctx context.Context, all []*Attestation, keys map[layout.KeyID]*statement.AttestKey) (_ []*Attestation, err error) {
	shown := map[string]bool{}
	for _, a := range all {
		shown[a.Key] = true
	}
	for _, name := range slices.Sorted(maps.Keys(r.byKey)) {
		if shown[name] {
			continue
		}
		if keys == nil {
			if keys, err = r.l.keys(ctx); err != nil {
				return nil, err
			}
		}
		k := r.byKey[name]
		_, _, _, id, _, _ := layout.ParseAttestationKey(name)
		a := k.attestation(keys[id])
		a.Gone = true
		all = append(all, a)
	}
	return all, nil
}

// keep replaces what is kept by the results that were read, those of the newest
// snapshots first.
func (r *results) keep(listed []storage.Object, all []*Attestation) {
	if r.l.t.State.None() {
		return
	}
	var b bytes.Buffer
	for i, a := range all {
		k, remembered := r.byKey[a.Key]
		switch {
		case !a.verified:
			continue
		case remembered && k.Modified.Equal(a.Stored):
		case i >= len(listed) || listed[i].Hidden || listed[i].Older || !a.Stored.Equal(listed[i].Modified):
			continue
		default:
			k = kept{a.Key, listed[i].Size, listed[i].Modified, a.Result.ID, a.Config, a.Result, a.HasOutputs}
			r.changed = true
		}
		line, err := json.Marshal(k)
		if err != nil || b.Len()+len(line) >= maxKept {
			break
		}
		b.Write(append(line, '\n'))
		delete(r.byKey, a.Key)
	}
	if !r.changed && len(r.byKey) == 0 {
		return
	}
	if err := r.l.t.State.Write(r.file, b.Bytes()); err != nil {
		r.l.t.Warn(fmt.Errorf("attestations are all read again by the next command: %w", err))
	}
}
