package attest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"knowngood/storage"
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
// attestation once. What is damaged is read again.
type results struct {
	l       *Ledger
	file    string
	byKey   map[string]kept
	changed bool
}

func (l *Ledger) results(host, env string) *results {
	r := &results{l: l, file: l.t.State.OfStore(filepath.Join("proofs", host, env)), byKey: map[string]kept{}}
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

// of is the result of an object as a listing shows it; nil for none. What others may
// have put over it, or hidden, is read.
func (r *results) of(o storage.Object) *kept {
	k, known := r.byKey[o.Key]
	if !known || o.Hidden || o.Older || o.Size != k.Size || !o.Modified.Equal(k.Modified) {
		return nil
	}
	return &k
}

// keep replaces what is kept by the results that were read, those of the newest
// snapshots first.
func (r *results) keep(listed []storage.Object, all []*Attestation) {
	if r.l.t.State.None() {
		return
	}
	var b bytes.Buffer
	for i, a := range all {
		if !a.verified || listed[i].Hidden || listed[i].Older || !a.Stored.Equal(listed[i].Modified) {
			continue
		}
		result := *a.Result
		line, err := json.Marshal(kept{a.Key, listed[i].Size, listed[i].Modified, a.Result.ID, a.Config, &result, a.HasOutputs})
		if err != nil || b.Len()+len(line) >= maxKept {
			break
		}
		b.Write(append(line, '\n'))
		r.changed = r.changed || r.of(listed[i]) == nil
		delete(r.byKey, a.Key)
	}
	if !r.changed && len(r.byKey) == 0 {
		return
	}
	if err := r.l.t.State.Write(r.file, b.Bytes()); err != nil {
		r.l.t.Warn(fmt.Errorf("attestations are all read again by the next command: %w", err))
	}
}
