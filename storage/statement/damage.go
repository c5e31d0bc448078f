package statement

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// DamageReport names objects of a domain that a reader found to be missing or
// damaged. It is a hint: the host examines the objects itself. It makes nothing
// deletable.
type DamageReport struct {
	Envelope
	Repository seal.RepositoryID
	Host       string
	Domain     seal.DomainID
	Made       time.Time
	// Damaged are 1 to MaxDeletionObjects, without sizes, in order.
	Damaged []Object
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the report with the owner's key.
func (x *DamageReport) Encode(owner ed25519.PrivateKey) ([]byte, error) {
	if err := checkTimes(x.Made); err != nil {
		return nil, fmt.Errorf("damage report: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, x.Repository[:])
	r.Text(4, x.Host)
	r.Bytes(6, x.Domain[:])
	r.Time(8, x.Made)
	r.Bytes(10, appendObjects(x.Damaged, false))
	r.Unknown(x.Unknown)
	return encode(wire.KindDamageReport, &r, owner, ParseDamageReport)
}

// ParseDamageReport reads a damage report, which shares memory with object, and
// trusts nothing in it. One that an attest key signed, by field 12, is of a
// newer version.
func ParseDamageReport(object []byte) (*DamageReport, error) {
	env, r, err := open(wire.KindDamageReport, object)
	if err != nil {
		return nil, err
	}
	x := &DamageReport{Envelope: env}
	r.Fixed(tagRepository, x.Repository[:])
	x.Host = name(r, 4)
	r.Fixed(6, x.Domain[:])
	x.Made = r.Time(8)
	validTime(r, 8, x.Made)
	if x.Damaged = parseObjects(r, 10, false); len(x.Damaged) == 0 {
		r.Fail(10, "no objects")
	}
	if x.Unknown, err = r.Finish(); err != nil {
		return nil, fmt.Errorf("damage report: %w", err)
	}
	return x, nil
}

// Verify checks repository and signature.
func (x *DamageReport) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, owner)
}
