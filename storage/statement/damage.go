package statement

import (
	"crypto/ed25519"
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
	return encode(wire.KindDamageReport, x, owner)
}

// ParseDamageReport reads a damage report, which shares memory with object, and
// trusts nothing in it. One that an attest key signed, by field 12, is of a
// newer version.
func ParseDamageReport(object []byte) (*DamageReport, error) {
	return parse[DamageReport](wire.KindDamageReport, object)
}

func (x *DamageReport) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	c.Fixed(6, x.Domain[:])
	moment(c, 8, &x.Made)
	if objects(c, 10, &x.Damaged, false); len(x.Damaged) == 0 {
		c.Fail(10, "no objects")
	}
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature.
func (x *DamageReport) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, owner)
}
