package attest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Why an attestation does not count, besides statement.ErrSignature,
// statement.ErrOtherRepository and statement.ErrOutOfScope.
var (
	ErrUncertified = errors.New("the owner certified no attest key of this ID")
	ErrRevoked     = errors.New("the attest key was revoked, and the store took this later")
	ErrMisplaced   = errors.New("it is about another snapshot than its place")
)

// maxRead is how many attestations of an environment are read. maxRubbish is how many
// of those that count in no case are shown besides: others may put any number of these.
const (
	maxRead    = 65536
	maxRubbish = 1024
)

// ahead is how many of them are fetched at once.
const ahead = 16

// Ledger has the attestations of a repository, and with them the attest keys and the
// marks. Its methods may be called concurrently.
type Ledger struct {
	*Certifier
	*Marker
	t *trust.Trust
}

// Open returns the attestations of a repository.
func Open(t *trust.Trust) *Ledger {
	c := &Certifier{t}
	return &Ledger{c, &Marker{t, c}, t}
}

// Attestation is a result as it is stored.
type Attestation struct {
	*Result             // whose Evidence is not opened; nil where it could not be read
	Key        string   // of the object
	ID         [32]byte // of the object: its SHA-256
	KeyID      layout.KeyID
	Stored     time.Time // when the store took it
	HasOutputs bool      // it has evidence; see Evidence
	// SelfAttested reports whether the machine that drilled is the host of the
	// snapshot, by the certificate of its key.
	SelfAttested bool
	// Gone is whether the store does not show it any more, and this machine remembers it.
	Gone bool
	// Err is why it does not count, and nil when it does.
	Err error

	verified bool // its bytes, whatever its key may attest
}

// Put signs a result and stores it. What is in Evidence is sealed to the newest epoch.
func (l *Ledger) Put(ctx context.Context, r *Result, key *Key, now time.Time) (*Attestation, error) {
	if !key.Before.IsZero() || !key.Speaks(r.Host) {
		return nil, fmt.Errorf("%w: a result about host %s", ErrNotCertified, r.Host)
	}
	if len(r.Evidence) > MaxEvidence {
		return nil, fmt.Errorf("evidence of %d bytes is over the limit of %d", len(r.Evidence), MaxEvidence)
	}
	var evidence *sealed
	if len(r.Evidence) > 0 {
		epoch, err := l.t.CurrentEpoch(ctx)
		if err != nil {
			return nil, err
		}
		b, err := epoch.SealEvidence(l.t.ID(), r.Subject.ID, r.Evidence)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		evidence = &sealed{epoch.ID.String(), sum, b}
	}
	named := *r
	named.Machine = key.Machine
	payload, err := encode(l.t.ID().String(), &named, evidence)
	if err != nil {
		return nil, fmt.Errorf("attest %v: %w", r.Subject, err)
	}
	object, err := sign(payload, key.ID(), key.private)
	if err != nil {
		return nil, err
	}
	a := &Attestation{ID: sha256.Sum256(object), KeyID: key.ID()}
	a.Key = layout.KeyAttestation(r.Host, r.Environment, r.Number, a.KeyID, a.ID)
	if err := l.verify(a, object, key.AttestKey); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	if err := l.t.Put(ctx, a.Key, object, now); err != nil && !errors.Is(err, storage.ErrExists) { // its name is its content
		return nil, fmt.Errorf("store the attestation of %v: %w", r.Subject, err)
	}
	return a, nil
}

// All are the attestations of an environment, those that the store took last first,
// and with them those that do not count, and those that this machine remembers.
func (l *Ledger) All(ctx context.Context, host, env string) ([]*Attestation, error) {
	return l.under(ctx, layout.PrefixAttestations(host, env), l.results(host, env), true)
}

// Of are the attestations of a snapshot, as All has them.
func (l *Ledger) Of(ctx context.Context, host, env string, number uint64) ([]*Attestation, error) {
	return l.under(ctx, layout.PrefixAttestationsOf(host, env, number), l.results(host, env), false)
}

// under are the attestations below a prefix, those that the store took last first.
// They are all that have results when that is said.
func (l *Ledger) under(ctx context.Context, prefix string, results *results, whole bool) ([]*Attestation, error) {
	listed, keys, err := l.list(ctx, prefix)
	if err != nil || len(listed) == 0 && (!whole || len(results.byKey) == 0) {
		return nil, err
	}
	objects := func(context.Context) iter.Seq2[storage.Object, error] {
		return func(yield func(storage.Object, error) bool) {
			for _, o := range listed {
				if !yield(o, nil) {
					return
				}
			}
		}
	}
	var all []*Attestation
	for a, err := range ledger.Ordered(ctx, ahead, objects, func(ctx context.Context, o storage.Object) (*Attestation, error) {
		return l.read(ctx, o, keys, results)
	}) {
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	if whole {
		if all, err = results.addGone(ctx, all, keys); err != nil {
			return nil, err
		}
		results.keep(listed, all)
	}
	slices.SortStableFunc(all, func(a, b *Attestation) int { return b.Stored.Compare(a.Stored) })
	return all, nil
}

// None reports whether nothing was ever said of an environment: by drills or by marks.
// It lists, and reads only what there is.
func (l *Ledger) None(ctx context.Context, host, env string) (bool, error) {
	all, err := l.All(ctx, host, env)
	if err != nil || len(all) > 0 {
		return false, err
	}
	m, err := l.Marks(ctx, host, env)
	return err == nil && len(m.said) == 0 && len(m.host) == 0, err
}

// list returns the objects below a prefix whose keys are those of attestations, and
// the attest keys where there are any.
func (l *Ledger) list(ctx context.Context, prefix string) (listed []storage.Object, keys map[layout.KeyID]*statement.AttestKey, err error) {
	read, rubbish := 0, 0
	for o, err := range l.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
		if err != nil {
			return nil, nil, fmt.Errorf("list attestations: %w", err)
		}
		host, _, _, id, _, ok := layout.ParseAttestationKey(o.Key)
		if !ok {
			continue
		}
		if keys == nil {
			if keys, err = l.keys(ctx); err != nil {
				return nil, nil, err
			}
		}
		_, why := machineOf(keys[id], host, o.Modified)
		if earlier := o.Older || o.Hidden; why == nil || earlier && errors.Is(why, ErrRevoked) {
			read++
		} else if rubbish++; rubbish > maxRubbish {
			continue
		}
		if read > maxRead {
			return nil, nil, &authentic.DamageError{Key: prefix, What: "attestations", Err: fmt.Errorf("more than %d objects by certified keys: find out who puts them there, and revoke the key", maxRead)}
		}
		listed = append(listed, o)
	}
	return listed, keys, nil
}

// read reads the attestation that a listing shows, unless its result is kept. The
// error is of the store.
func (l *Ledger) read(ctx context.Context, o storage.Object, keys map[layout.KeyID]*statement.AttestKey, results *results) (*Attestation, error) {
	a := &Attestation{Key: o.Key, Stored: o.Modified}
	_, _, _, a.KeyID, a.ID, _ = layout.ParseAttestationKey(o.Key)
	key := keys[a.KeyID]
	if key == nil { // anybody may put any number of these
		a.Err = ErrUncertified
		return a, nil
	}
	known, remembered := results.byKey[o.Key]
	if remembered && known.shows(o) {
		a = known.attestation(key)
		a.Stored = o.Modified
		return a, nil
	}
	object, stored, err := l.bytes(ctx, o, a.ID)
	switch {
	case authentic.Damaged(err) && remembered:
		a = known.attestation(key)
		a.Gone = true
		return a, nil
	case authentic.Damaged(err):
		a.Err = err
		return a, nil
	case err != nil:
		return nil, err
	}
	a.Stored = stored
	if remembered && known.Modified.Before(stored) {
		a.Stored = known.Modified // it was put again, so that it seems newer than it is
	}
	a.Err = l.verify(a, object, key)
	return a, nil
}

// bytes reads an object that is named by its hash, and when the store took that
// version of it.
func (l *Ledger) bytes(ctx context.Context, o storage.Object, hash [32]byte) ([]byte, time.Time, error) {
	object, err := l.t.Read.Listed(ctx, o, authentic.Want{What: "attestation", Limit: MaxObject, Verify: func(object []byte) error {
		if sum := sha256.Sum256(object); sum != hash {
			return fmt.Errorf("its bytes are not those of its name: their hash is %x", sum)
		}
		return nil
	}})
	return object.Bytes, object.Stored, err
}

// verify reads an object with the bytes of its name into a, and returns why it does
// not count. A Stored of zero is that of one which is not stored yet.
func (l *Ledger) verify(a *Attestation, object []byte, key *statement.AttestKey) error {
	payload, id, sig, err := openEnvelope(object)
	if err != nil {
		return err
	}
	if id != a.KeyID || key.ID() != id {
		return fmt.Errorf("%w: the envelope names key %v, its place key %v", ErrMisplaced, id, a.KeyID)
	}
	if !ed25519.Verify(key.Key, preAuthentication(payload), sig) {
		return statement.ErrSignature
	}
	repo, r, evidence, err := decode(payload)
	if err != nil {
		return err
	}
	a.Result, a.HasOutputs = r, evidence != nil
	switch {
	case repo != l.t.ID().String():
		return fmt.Errorf("attestation of repository %q: %w", repo, statement.ErrOtherRepository)
	case layout.KeyAttestation(r.Host, r.Environment, r.Number, id, a.ID) != a.Key:
		return fmt.Errorf("%w: %v", ErrMisplaced, r.Subject)
	}
	a.verified = true
	return a.covered(key)
}

// covered returns why the certificate of its key does not cover an attestation that
// is verified, and finds out whether it is self-attested.
func (a *Attestation) covered(key *statement.AttestKey) error {
	r := a.Result
	a.SelfAttested = key.Host == r.Host
	machine, err := machineOf(key, r.Host, a.Stored)
	if err == nil && r.Machine != machine {
		err = fmt.Errorf("it names machine %s, and its key is that of %s", r.Machine, machine)
	}
	return err
}

// Object is an attestation as it is stored: a DSSE envelope.
func (l *Ledger) Object(ctx context.Context, a *Attestation) ([]byte, error) {
	for o, err := range l.t.Store().List(ctx, storage.ListOptions{Prefix: a.Key, Hidden: true, Limit: 1}) {
		if err != nil || o.Key == a.Key {
			object, _, rerr := l.bytes(ctx, o, a.ID)
			return object, cmp.Or(err, rerr)
		}
	}
	return nil, &authentic.DamageError{Key: a.Key, What: "attestation", Err: storage.ErrNotFound}
}

// Evidence is what the probes of a drill printed, which an identity opens; nil for
// nothing.
func (l *Ledger) Evidence(ctx context.Context, a *Attestation) ([]byte, error) {
	object, err := l.Object(ctx, a)
	if err != nil {
		return nil, err
	}
	payload, _, _, err := openEnvelope(object)
	if err != nil {
		return nil, err
	}
	_, r, evidence, err := decode(payload)
	if evidence == nil || err != nil {
		return nil, err
	}
	var epoch seal.EpochID
	b, err := hex.DecodeString(evidence.Epoch)
	if err != nil || len(b) != len(epoch) {
		return nil, fmt.Errorf("the evidence is sealed to %q, which is no epoch", evidence.Epoch)
	}
	copy(epoch[:], b)
	secret, err := l.t.EpochSecret(ctx, epoch)
	if err != nil {
		return nil, err
	}
	return secret.OpenEvidence(l.t.ID(), r.ID, evidence.Sealed)
}
