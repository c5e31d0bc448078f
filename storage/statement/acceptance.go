package statement

import (
	"crypto/ed25519"
	"fmt"
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
	if err := checkTimes(x.Made); err != nil {
		return nil, fmt.Errorf("acceptance: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, x.Repository[:])
	r.Text(4, x.Host)
	r.Text(6, x.Environment)
	r.Uint(8, x.Serial)
	putOptionalHash(&r, 10, x.Previous)
	r.Bytes(12, appendAccepted(x.Accepted))
	r.Time(14, x.Made)
	r.Text(15, x.Reason)
	if x.Certificate != nil {
		r.Bytes(16, x.Certificate.Bytes())
	}
	r.Unknown(x.Unknown)
	return encode(wire.KindAcceptance, &r, key, ParseAcceptance)
}

// ParseAcceptance reads an acceptance, which shares memory with object, and
// trusts nothing in it.
func ParseAcceptance(object []byte) (*Acceptance, error) {
	env, r, err := open(wire.KindAcceptance, object)
	if err != nil {
		return nil, err
	}
	x := &Acceptance{Envelope: env}
	r.Fixed(tagRepository, x.Repository[:])
	x.Host = name(r, 4)
	x.Environment = name(r, 6)
	x.Serial = validUint(r, 8, r.Uint(8), 1, layout.MaxNumber)
	x.Previous = optionalHash(r, 10)
	x.Accepted = parseAccepted(r, 12)
	x.Made = r.Time(14)
	validTime(r, 14, x.Made)
	x.Reason = r.Text(15)
	if len(x.Reason) > maxReason {
		r.Fail(15, "a reason of %d bytes", len(x.Reason))
	}
	cert := r.Bytes(16)
	if x.Unknown, err = r.Finish(); err == nil && cert != nil {
		x.Certificate, err = certificateOf(cert, x.Repository, x.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("acceptance: %w", err)
	}
	return x, nil
}

// Verify checks repository and signature: by owner, or by the key of the
// certificate, which owner must have signed. CheckAcceptanceCertificate also
// checks that no later certificate ended that one.
func (x *Acceptance) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
}

func appendAccepted(list []Accepted) []byte {
	b := wire.AppendUvarint(nil, uint64(len(list)))
	before := uint64(0)
	for _, a := range list {
		b = append(wire.AppendUvarint(b, a.Number-before), a.ID[:]...)
		before = a.Number
	}
	return b
}

// parseAccepted takes a list of snapshots, which must not be empty.
func parseAccepted(r *wire.Fields, tag uint64) []Accepted {
	d := wire.NewDecoder(r.Bytes(tag))
	n := d.Count(1 + 32)
	if n == 0 || n > MaxAccepted {
		d.Fail("%d snapshots", n)
		n = 0
	}
	list := make([]Accepted, n)
	before := uint64(0)
	for i := range list {
		gap := d.Uvarint()
		if d.Err() == nil && (gap == 0 || gap > layout.MaxNumber-before) {
			d.Fail("a snapshot %d after the one before", gap)
		}
		list[i].Number = before + gap
		d.Copy(list[i].ID[:])
		before = list[i].Number
		if d.Err() != nil {
			break
		}
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return list
}
