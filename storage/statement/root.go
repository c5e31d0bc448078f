package statement

import (
	"crypto/ed25519"
	"fmt"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// maxIndexRuns is the most index runs that a root names.
const maxIndexRuns = 4096

// Root commits a snapshot. The host key signs it; its hash is the snapshot ID.
type Root struct {
	Envelope
	Repository   seal.RepositoryID
	Host         string
	Environment  string
	Number       uint64   // from 1
	Previous     [32]byte // hash of the root before in this environment; zero for the first
	Certificate  *Certificate
	Domain       seal.DomainID
	Epoch        seal.EpochID
	SealedDomain []byte // the domain secret, sealed to Epoch
	Salt         seal.Salt
	SealedBody   []byte // a RootBody, sealed under the root key
	// IndexRuns are the hashes of the live index runs that the writer has seen or
	// published, sorted. Their keys name them, so they are no secret, and sealed they
	// would not compress in a catalogue.
	IndexRuns [][32]byte
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the root with the host key.
func (x *Root) Encode(host ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindRoot, x, host)
}

// ParseRoot reads a root, which shares memory with object, and trusts nothing
// in it.
func ParseRoot(object []byte) (*Root, error) { return parse[Root](wire.KindRoot, object) }

func (x *Root) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	name(c, 6, &x.Environment)
	c.Uint(8, &x.Number, 1, layout.MaxNumber)
	if c.Hash(10, &x.Previous); (x.Number == 1) != (x.Previous == [32]byte{}) {
		c.Fail(10, "the first root, and no other, names no root before it")
	}
	certificateOf(c, 12, &x.Certificate, x.Repository, x.Host)
	c.Fixed(14, x.Domain[:])
	c.Fixed(16, x.Epoch[:])
	nonEmpty(c, 18, &x.SealedDomain, seal.MaxSealed)
	c.Fixed(20, x.Salt[:])
	nonEmpty(c, 22, &x.SealedBody, MaxPayload)
	hashes(c, 24, &x.IndexRuns)
	for i, h := range x.IndexRuns {
		if i >= maxIndexRuns || i > 0 && compareHashes(x.IndexRuns[i-1], h) >= 0 {
			c.Fail(24, "%d index runs, or not in order", len(x.IndexRuns))
		}
	}
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature against host, which must come from a
// certificate that counts; CheckRootCertificate does all of it.
func (x *Root) Verify(repo seal.RepositoryID, host ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, host)
}

// Ref is the name of the snapshot within its host, as in web@42.
func (x *Root) Ref() string { return fmt.Sprintf("%s@%d", x.Environment, x.Number) }
