package statement

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Certificate names the key that a host signs with. The owner signs it. One with
// a higher serial ends those before it; see CheckRootCertificate.
type Certificate struct {
	Envelope
	Repository seal.RepositoryID
	Host       string
	Serial     uint64 // from 1
	HostKey    ed25519.PublicKey
	Issued     time.Time
	Previous   [32]byte // hash of the certificate before; zero for the first
	// Heads are the last roots of the host's environments that were signed
	// under the certificates before, sorted by environment.
	Heads []Head
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the certificate with the owner's key.
func (x *Certificate) Encode(owner ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindCertificate, x, owner)
}

// ParseCertificate reads a host certificate, which shares memory with object,
// and trusts nothing in it.
func ParseCertificate(object []byte) (*Certificate, error) {
	return parse[Certificate](wire.KindCertificate, object)
}

func (x *Certificate) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	c.Uint(6, &x.Serial, 1, layout.MaxNumber)
	publicKey(c, 8, &x.HostKey)
	moment(c, 10, &x.Issued)
	c.Hash(12, &x.Previous)
	heads(c, 14, &x.Heads)
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature.
func (x *Certificate) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, owner)
}

// certificateOf is the certificate of a statement made by host of repo.
func certificateOf(c *wire.Codec, tag uint64, cert **Certificate, repo seal.RepositoryID, host string) {
	if !signer(c, tag, cert, repo, host) {
		c.Fail(tag, "the certificate is missing")
	}
}

// signer is the certificate of the host of repo that made a statement. Where there is
// none, the owner made it.
func signer(c *wire.Codec, tag uint64, cert **Certificate, repo seal.RepositoryID, host string) (there bool) {
	var object []byte
	if *cert != nil {
		object = (*cert).Bytes()
	}
	if c.Bytes(tag, &object); !c.Reads() || object == nil {
		return object != nil
	}
	x, err := ParseCertificate(object)
	if err == nil && (x.Repository != repo || x.Host != host) {
		err = fmt.Errorf("%w: host certificate of %s in repository %v", wire.ErrMalformed, x.Host, x.Repository)
	}
	*cert = x
	c.Refuse(err)
	return true
}

// ErrOtherDescriptor is a join request of a host that was shown another
// descriptor than that of the repository.
var ErrOtherDescriptor = errors.New("the host was shown another repository")

// JoinRequest asks the owner for a certificate. The key that it names signs
// it; it is carried by hand and not stored in the repository.
type JoinRequest struct {
	Envelope
	Repository seal.RepositoryID
	Host       string
	HostKey    ed25519.PublicKey
	Created    time.Time
	// Descriptor is the SHA-256 of the descriptor that the host trusts. The
	// repository ID is not enough: anybody can put it into a descriptor that
	// names another owner.
	Descriptor [32]byte
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the request with the secret half of HostKey.
func (j *JoinRequest) Encode(host ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindJoinRequest, j, host)
}

// ParseJoinRequest reads a join request, which shares memory with object, and
// trusts nothing in it.
func ParseJoinRequest(object []byte) (*JoinRequest, error) {
	return parse[JoinRequest](wire.KindJoinRequest, object)
}

func (j *JoinRequest) fields(c *wire.Codec) {
	c.Fixed(tagRepository, j.Repository[:])
	name(c, 4, &j.Host)
	publicKey(c, 6, &j.HostKey)
	moment(c, 8, &j.Created)
	c.Fixed(10, j.Descriptor[:])
	c.Unknown(&j.Unknown)
}

// Verify checks the repository, the signature, by the key that the request
// names, and that the host trusts the descriptor with this hash: the pin of
// the repository. The error wraps ErrOtherDescriptor when it trusts another.
func (j *JoinRequest) Verify(repo seal.RepositoryID, descriptor [32]byte) error {
	if err := j.verify(j.Repository, repo, j.HostKey); err != nil {
		return err
	}
	if j.Descriptor != descriptor {
		return fmt.Errorf("join request of host %s: %w: it trusts the pin %x, and the pin of this repository is %x", j.Host, ErrOtherDescriptor, j.Descriptor, descriptor)
	}
	return nil
}
