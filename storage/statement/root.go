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
	var r wire.Record
	r.Bytes(tagRepository, x.Repository[:])
	r.Text(4, x.Host)
	r.Text(6, x.Environment)
	r.Uint(8, x.Number)
	putOptionalHash(&r, 10, x.Previous)
	if x.Certificate != nil {
		r.Bytes(12, x.Certificate.Bytes())
	}
	r.Bytes(14, x.Domain[:])
	r.Bytes(16, x.Epoch[:])
	r.Bytes(18, x.SealedDomain)
	r.Bytes(20, x.Salt[:])
	r.Bytes(22, x.SealedBody)
	r.Bytes(24, appendHashes(x.IndexRuns))
	r.Unknown(x.Unknown)
	return encode(wire.KindRoot, &r, host, ParseRoot)
}

// ParseRoot reads a root, which shares memory with object, and trusts nothing
// in it.
func ParseRoot(object []byte) (*Root, error) {
	env, r, err := open(wire.KindRoot, object)
	if err != nil {
		return nil, err
	}
	x := &Root{Envelope: env}
	r.Fixed(tagRepository, x.Repository[:])
	x.Host = name(r, 4)
	x.Environment = name(r, 6)
	x.Number = validUint(r, 8, r.Uint(8), 1, layout.MaxNumber)
	x.Previous = optionalHash(r, 10)
	if (x.Number == 1) != (x.Previous == [32]byte{}) {
		r.Fail(10, "the first root, and no other, names no root before it")
	}
	cert := r.Bytes(12)
	r.Fixed(14, x.Domain[:])
	r.Fixed(16, x.Epoch[:])
	x.SealedDomain = nonEmpty(r, 18, seal.MaxSealed)
	r.Fixed(20, x.Salt[:])
	x.SealedBody = nonEmpty(r, 22, MaxPayload)
	x.IndexRuns = parseHashes(r, 24)
	if n := len(x.IndexRuns); n > maxIndexRuns || !ascending(x.IndexRuns) {
		r.Fail(24, "%d index runs, or not in order", n)
	}
	if x.Unknown, err = r.Finish(); err == nil {
		x.Certificate, err = certificateOf(cert, x.Repository, x.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return x, nil
}

// Verify checks repository and signature against host, which must come from a
// certificate that counts; CheckRootCertificate does all of it.
func (x *Root) Verify(repo seal.RepositoryID, host ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, host)
}

// Ref is the name of the snapshot within its host, as in web@42.
func (x *Root) Ref() string { return fmt.Sprintf("%s@%d", x.Environment, x.Number) }
