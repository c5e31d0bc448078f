package statement

import (
	"bytes"
	"crypto/ed25519"
	"fmt"

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
	var r wire.Record
	r.Bytes(tagRepository, x.Repository[:])
	r.Text(4, x.Host)
	r.Bytes(6, x.Domain[:])
	r.Uint(8, x.Generation)
	r.Bytes(10, x.Salt[:])
	r.Bytes(12, appendHashes(x.Replaces))
	r.Bytes(14, x.SealedBody)
	if x.Certificate != nil {
		r.Bytes(15, x.Certificate.Bytes())
	}
	r.Unknown(x.Unknown)
	return encode(wire.KindIndexRun, &r, host, ParseIndexRun)
}

// ParseIndexRun reads an index run, which shares memory with object, and
// trusts nothing in it.
func ParseIndexRun(object []byte) (*IndexRun, error) {
	env, r, err := open(wire.KindIndexRun, object)
	if err != nil {
		return nil, err
	}
	x := &IndexRun{Envelope: env}
	r.Fixed(tagRepository, x.Repository[:])
	x.Host = name(r, 4)
	r.Fixed(6, x.Domain[:])
	x.Generation = validUint(r, 8, r.Uint(8), 1, layout.MaxNumber)
	r.Fixed(10, x.Salt[:])
	x.Replaces = parseHashes(r, 12)
	x.SealedBody = nonEmpty(r, 14, MaxIndexRunPayload)
	cert := r.Bytes(15)
	if x.Unknown, err = r.Finish(); err == nil {
		x.Certificate, err = certificateOf(cert, x.Repository, x.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("index run: %w", err)
	}
	return x, nil
}

// appendHashes encodes a list of hashes; none is nil.
func appendHashes(hashes [][32]byte) []byte {
	if len(hashes) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(hashes)))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// ascending reports whether hashes are sorted, without duplicates.
func ascending(hashes [][32]byte) bool {
	for i := 1; i < len(hashes); i++ {
		if bytes.Compare(hashes[i-1][:], hashes[i][:]) >= 0 {
			return false
		}
	}
	return true
}

// parseHashes takes a list of hashes.
func parseHashes(r *wire.Fields, tag uint64) [][32]byte {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}
	d := wire.NewDecoder(v)
	n := d.Count(32)
	if n == 0 {
		d.Fail("an empty list")
	}
	hashes := make([][32]byte, n)
	for i := range hashes {
		d.Copy(hashes[i][:])
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return hashes
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
