package statement

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"
	"unicode/utf8"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Limits of an epoch's lists.
const (
	maxRecipients = 4096
	publicKeyLen  = 1216 // MLKEM768-X25519, in bytes
)

// Epoch announces a repository key and the recipients it is wrapped for. The
// owner signs it. The one with the highest number is in force.
type Epoch struct {
	Envelope
	Repository seal.RepositoryID
	Number     uint64 // from 1
	PublicKey  []byte // HPKE, MLKEM768-X25519
	Recipients []string
	Created    time.Time
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// ID names the epoch's key.
func (e *Epoch) ID() seal.EpochID {
	sum := sha256.Sum256(e.PublicKey)
	return seal.EpochID(sum[:8])
}

// Encode signs the epoch with the owner's key.
func (e *Epoch) Encode(key ed25519.PrivateKey) ([]byte, error) {
	if err := checkTimes(e.Created); err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, e.Repository[:])
	r.Uint(4, e.Number)
	r.Uint(6, seal.KEM)
	r.Bytes(8, e.PublicKey)
	recipients := make([][]byte, len(e.Recipients))
	for i, s := range e.Recipients {
		recipients[i] = []byte(s)
	}
	r.List(10, recipients)
	r.Time(12, e.Created)
	r.Unknown(e.Unknown)
	return encode(wire.KindEpoch, &r, key, ParseEpoch)
}

// ParseEpoch reads an epoch, which shares memory with object, and trusts
// nothing in it.
func ParseEpoch(object []byte) (*Epoch, error) {
	env, r, err := open(wire.KindEpoch, object)
	if err != nil {
		return nil, err
	}
	e := &Epoch{Envelope: env}
	r.Fixed(tagRepository, e.Repository[:])
	e.Number = validUint(r, 4, r.Uint(4), 1, layout.MaxNumber)
	kem := r.Uint(6)
	e.PublicKey = r.Bytes(8)
	for _, b := range r.List(10, maxRecipients) {
		if len(b) == 0 || !utf8.Valid(b) {
			r.Fail(10, "a recipient that is no text")
		}
		e.Recipients = append(e.Recipients, string(b))
	}
	if len(e.Recipients) == 0 {
		r.Fail(10, "no recipients")
	}
	e.Created = r.Time(12)
	validTime(r, 12, e.Created)
	if e.Unknown, err = r.Finish(); err == nil {
		err = checkKEM(kem)
	}
	if err == nil && len(e.PublicKey) != publicKeyLen {
		err = fmt.Errorf("%w: public key of %d bytes, want %d", wire.ErrMalformed, len(e.PublicKey), publicKeyLen)
	}
	if err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	return e, nil
}

// Verify checks repository and signature, which must be the owner's.
func (e *Epoch) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return e.verify(e.Repository, repo, owner)
}
