package statement

import (
	"crypto/ed25519"
	"fmt"
	"math"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// maxReason limits the text of a reason, in bytes.
const maxReason = 4096

// Tombstone is the list of all snapshots of an environment that are forgotten. So
// only the newest that counts has to be read. It deletes nothing, and a later one
// may take it back.
type Tombstone struct {
	Envelope
	Repository  seal.RepositoryID
	Host        string
	Environment string
	Serial      uint64   // from 1
	Previous    [32]byte // hash of the tombstone before; zero for none
	Forgotten   Numbers
	// Free is the lowest number that no snapshot had when the tombstone was
	// made. From there up Forgotten names only roots that never counted. A
	// snapshot that takes such a number later is not forgotten. 0 when unknown.
	Free uint64
	// Repeated are those of Forgotten that the host forgot, under the certificate
	// with RepeatedSerial. The owner, who signs, only repeats them. They are
	// forgotten only until a later certificate ends that one; see DropEnded.
	Repeated       Numbers
	RepeatedSerial uint64 // 0 when nothing is repeated
	Made           time.Time
	Reason         string // of the change that this tombstone made
	// Reasons of what is forgotten, in ascending order of their texts; see
	// SetReasons.
	Reasons []ForgetReason
	// Certificate of the host that signed; nil when the owner did.
	Certificate *Certificate
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the tombstone with the key of its certificate, or with the
// owner's where it has none.
func (x *Tombstone) Encode(key ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindTombstone, x, key)
}

// ParseTombstone reads a tombstone, which shares memory with object, and
// trusts nothing in it.
func ParseTombstone(object []byte) (*Tombstone, error) {
	return parse[Tombstone](wire.KindTombstone, object)
}

func (x *Tombstone) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	name(c, 6, &x.Environment)
	c.Uint(8, &x.Serial, 1, layout.MaxNumber)
	c.Hash(10, &x.Previous)
	numbers(c, 12, &x.Forgotten)
	moment(c, 14, &x.Made)
	reason(c, 15, &x.Reason)
	signer(c, 16, &x.Certificate, x.Repository, x.Host)
	reasons(c, 17, &x.Reasons)
	c.Uint(18, &x.Free, 0, math.MaxUint64)
	numbers(c, 20, &x.Repeated)
	c.Uint(22, &x.RepeatedSerial, 0, math.MaxUint64)
	switch {
	case (len(x.Repeated) > 0) != (x.RepeatedSerial > 0) || len(x.Repeated) > 0 && x.Certificate != nil:
		c.Fail(20, "repeated numbers without a serial, or of a host that signs itself")
	case len(x.Repeated.Without(x.Forgotten)) > 0:
		c.Fail(20, "repeated numbers that are not forgotten")
	}
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature: by owner, or by the key of the
// certificate, which owner must have signed. CheckTombstoneCertificate also checks
// that no later certificate ended that one.
func (x *Tombstone) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
}

// DropEnded removes Repeated, also from Forgotten, when a later certificate has ended
// the one with RepeatedSerial. certs are the certificates of the host, verified.
func (x *Tombstone) DropEnded(certs []*Certificate) {
	ended, there := false, 0
	for _, c := range certs {
		ended = ended || c.Serial > x.RepeatedSerial
		if c.Serial == x.RepeatedSerial {
			there++ // of two with one serial neither counts
		}
	}
	if ended || there > 1 {
		x.Forgotten = x.Forgotten.Without(x.Repeated)
		x.Repeated, x.RepeatedSerial = nil, 0
	}
}

// Own is what the owner forgot and does not only repeat; nil where a host signed.
func (x *Tombstone) Own() Numbers {
	if x == nil || x.Certificate != nil {
		return nil
	}
	return x.Forgotten.Without(x.Repeated)
}

// HostSerial is the serial of the certificate under which the host forgot what the
// owner did not; 0 when it forgot nothing.
func (x *Tombstone) HostSerial() uint64 {
	if x.Certificate != nil {
		return x.Certificate.Serial
	}
	return x.RepeatedSerial
}

// verifySigner checks a statement that the owner or a certified host signs.
func verifySigner(e *Envelope, of seal.RepositoryID, cert *Certificate, repo seal.RepositoryID, owner ed25519.PublicKey) error {
	if cert == nil {
		return e.verify(of, repo, owner)
	}
	if err := cert.Verify(repo, owner); err != nil {
		return fmt.Errorf("%v: %w", e.kind, err)
	}
	return e.verify(of, repo, cert.HostKey)
}
