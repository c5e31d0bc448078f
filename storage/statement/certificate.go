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
func (c *Certificate) Encode(owner ed25519.PrivateKey) ([]byte, error) {
	if err := checkTimes(c.Issued); err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, c.Repository[:])
	r.Text(4, c.Host)
	r.Uint(6, c.Serial)
	r.Bytes(8, c.HostKey)
	r.Time(10, c.Issued)
	putOptionalHash(&r, 12, c.Previous)
	r.Bytes(14, appendHeads(c.Heads))
	r.Unknown(c.Unknown)
	return encode(wire.KindCertificate, &r, owner, ParseCertificate)
}

// ParseCertificate reads a host certificate, which shares memory with object,
// and trusts nothing in it.
func ParseCertificate(object []byte) (*Certificate, error) {
	env, r, err := open(wire.KindCertificate, object)
	if err != nil {
		return nil, err
	}
	c := &Certificate{Envelope: env}
	r.Fixed(tagRepository, c.Repository[:])
	c.Host = name(r, 4)
	c.Serial = validUint(r, 6, r.Uint(6), 1, layout.MaxNumber)
	c.HostKey = publicKey(r, 8)
	c.Issued = r.Time(10)
	validTime(r, 10, c.Issued)
	c.Previous = optionalHash(r, 12)
	c.Heads = parseHeads(r, 14)
	if c.Unknown, err = r.Finish(); err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	return c, nil
}

// Verify checks repository and signature.
func (c *Certificate) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return c.verify(c.Repository, repo, owner)
}

// certificateOf reads the certificate out of a statement made by host of repo.
func certificateOf(object []byte, repo seal.RepositoryID, host string) (*Certificate, error) {
	c, err := ParseCertificate(object)
	if err != nil {
		return nil, err
	}
	if c.Repository != repo || c.Host != host {
		return nil, fmt.Errorf("%w: host certificate of %s in repository %v", wire.ErrMalformed, c.Host, c.Repository)
	}
	return c, nil
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
	if err := checkTimes(j.Created); err != nil {
		return nil, fmt.Errorf("join request: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, j.Repository[:])
	r.Text(4, j.Host)
	r.Bytes(6, j.HostKey)
	r.Time(8, j.Created)
	r.Bytes(10, j.Descriptor[:])
	r.Unknown(j.Unknown)
	return encode(wire.KindJoinRequest, &r, host, ParseJoinRequest)
}

// ParseJoinRequest reads a join request, which shares memory with object, and
// trusts nothing in it.
func ParseJoinRequest(object []byte) (*JoinRequest, error) {
	env, r, err := open(wire.KindJoinRequest, object)
	if err != nil {
		return nil, err
	}
	j := &JoinRequest{Envelope: env}
	r.Fixed(tagRepository, j.Repository[:])
	j.Host = name(r, 4)
	j.HostKey = publicKey(r, 6)
	j.Created = r.Time(8)
	validTime(r, 8, j.Created)
	r.Fixed(10, j.Descriptor[:])
	if j.Unknown, err = r.Finish(); err != nil {
		return nil, fmt.Errorf("join request: %w", err)
	}
	return j, nil
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
