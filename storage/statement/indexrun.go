package statement

import (
	"crypto/ed25519"
	"fmt"
	"math"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// IndexRun is a signed part of a domain's index. storage/index encodes its body.
type IndexRun struct {
	Envelope
	Repository seal.RepositoryID
	Host       string
	Domain     seal.DomainID
	Generation uint64 // from 1, one above the highest seen
	Salt       seal.Salt
	// Replaces are the hashes of runs that count as absent beside this one.
	Replaces    [][32]byte
	SealedBody  []byte // sealed under the run key
	Certificate *Certificate
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the run with the host key.
func (x *IndexRun) Encode(host ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindIndexRun, x, host)
}

// ParseIndexRun reads an index run, which shares memory with object, and
// trusts nothing in it.
func ParseIndexRun(object []byte) (*IndexRun, error) {
	return parse[IndexRun](wire.KindIndexRun, object)
}

func (x *IndexRun) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	c.Fixed(6, x.Domain[:])
	c.Uint(8, &x.Generation, 1, layout.MaxNumber)
	c.Fixed(10, x.Salt[:])
	hashes(c, 12, &x.Replaces)
	nonEmpty(c, 14, &x.SealedBody, MaxIndexRunPayload)
	certificateOf(c, 15, &x.Certificate, x.Repository, x.Host)
	c.Unknown(&x.Unknown)
}

// hashes are in any order.
func hashes(c *wire.Codec, tag uint64, list *[][32]byte) {
	wire.List(c, tag, list, 32, math.MaxInt, func(b []byte, h *[32]byte) []byte { return append(b, h[:]...) }, func(d *wire.Decoder, h *[32]byte) { d.Copy(h[:]) })
}

// Verify checks repository, the certificate by owner, and the signature by the
// certified host key. It does not check whether a later certificate ended that
// one: an index has only hints, and the objects that they lead to are verified.
func (x *IndexRun) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	if err := x.Certificate.Verify(repo, owner); err != nil {
		return fmt.Errorf("index run: %w", err)
	}
	return x.verify(x.Repository, repo, x.Certificate.HostKey)
}
