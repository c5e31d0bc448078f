package statement

import (
	"crypto/ed25519"
	"slices"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// MaxAccepted is the most snapshots that an acceptance may name.
const MaxAccepted = 4096

// Acceptance is the list of all suspect snapshots of an environment that its
// signer accepts as good. So of each signer only the newest that counts has to be
// read. An acceptance of the owner is valid for everybody. One of a host is valid
// only for that host, and not for a machine that deletes for others.
type Acceptance struct {
	Envelope
	Repository  seal.RepositoryID
	Host        string
	Environment string
	Serial      uint64   // from 1
	Previous    [32]byte // hash of the acceptance before, of any signer; zero for none
	Accepted    []Accepted
	Made        time.Time
	Reason      string
	// Certificate of the host that signed; nil when the owner did.
	Certificate *Certificate
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Accepted is a snapshot by its number and its ID.
type Accepted struct {
	Number uint64
	ID     [32]byte
}

// Names reports whether the acceptance names a snapshot.
func (x *Acceptance) Names(number uint64, id [32]byte) bool {
	return x != nil && slices.Contains(x.Accepted, Accepted{number, id})
}

// Encode signs the acceptance with the key of its certificate, or with the
// owner's where it has none. Accepted must be in the order of the numbers.
func (x *Acceptance) Encode(key ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindAcceptance, x, key)
}

// ParseAcceptance reads an acceptance, which shares memory with object, and
// trusts nothing in it.
func ParseAcceptance(object []byte) (*Acceptance, error) {
	return parse[Acceptance](wire.KindAcceptance, object)
}

func (x *Acceptance) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	name(c, 6, &x.Environment)
	c.Uint(8, &x.Serial, 1, layout.MaxNumber)
	c.Hash(10, &x.Previous)
	if accepted(c, 12, &x.Accepted); len(x.Accepted) == 0 {
		c.Fail(12, "no snapshots")
	}
	moment(c, 14, &x.Made)
	reason(c, 15, &x.Reason)
	signer(c, 16, &x.Certificate, x.Repository, x.Host)
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature: by owner, or by the key of the
// certificate, which owner must have signed. CheckAcceptanceCertificate also
// checks that no later certificate ended that one.
func (x *Acceptance) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
}

// accepted are snapshots in the order of their numbers.
func accepted(c *wire.Codec, tag uint64, list *[]Accepted) {
	before := uint64(0)
	wire.List(c, tag, list, 1+32, MaxAccepted, func(b []byte, a *Accepted) []byte {
		b = append(wire.AppendUvarint(b, a.Number-before), a.ID[:]...)
		before = a.Number
		return b
	}, func(d *wire.Decoder, a *Accepted) {
		gap := d.Uvarint()
		if gap == 0 || gap > layout.MaxNumber-before {
			d.Fail("a snapshot %d after the one before", gap)
		}
		a.Number = before + gap
		d.Copy(a.ID[:])
		before = a.Number
	})
}
