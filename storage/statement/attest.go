package statement

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Limits of what attest keys are certified for, and of a mark.
const (
	MaxPatterns = 256
	MaxMarked   = 4096
)

// AttestKey names a key that signs results of drills, and the hosts that these may be
// about. The owner signs it. Of several of one key the one with the highest serial
// holds, for what the key signed before, too.
//
// Signed by the key itself instead, it is a request, which is carried to the owner by
// hand and not stored.
type AttestKey struct {
	Envelope
	Repository seal.RepositoryID
	Machine    string // name of the machine that has the key
	Serial     uint64 // from 1
	Key        ed25519.PublicKey
	Issued     time.Time
	Previous   [32]byte // hash of the certificate before; zero for the first
	// Hosts are patterns of the hosts that the key may speak of, in which * is any
	// number of characters; none for no host.
	Hosts []string
	// Before is the time of the store before which it must have taken what the key
	// signed; zero while the key is not revoked.
	Before time.Time
	// Host is the host of this repository that the machine is; empty for none.
	Host string
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// AttestKeyID names an attest key.
func AttestKeyID(key ed25519.PublicKey) layout.KeyID {
	sum := sha256.Sum256(key)
	return layout.KeyID(sum[:8])
}

// ID names the key.
func (x *AttestKey) ID() layout.KeyID { return AttestKeyID(x.Key) }

// Speaks reports whether the key may speak of a host.
func (x *AttestKey) Speaks(host string) bool {
	return slices.ContainsFunc(x.Hosts, func(pattern string) bool { ok, _ := path.Match(pattern, host); return ok })
}

// Encode signs the certificate with the owner's key, or a request with the attest
// key.
func (x *AttestKey) Encode(key ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindAttestKey, x, key)
}

// ParseAttestKey reads the certificate of an attest key, which shares memory with
// object, and trusts nothing in it.
func ParseAttestKey(object []byte) (*AttestKey, error) {
	return parse[AttestKey](wire.KindAttestKey, object)
}

func (x *AttestKey) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Machine)
	c.Uint(6, &x.Serial, 1, layout.MaxNumber)
	publicKey(c, 8, &x.Key)
	moment(c, 10, &x.Issued)
	c.Hash(12, &x.Previous)
	c.Texts(14, &x.Hosts, MaxPatterns)
	for _, pattern := range x.Hosts {
		if err := ValidHostPattern(pattern); err != nil {
			c.Fail(14, "%v", err)
		}
	}
	c.Time(16, &x.Before)
	if c.Text(18, &x.Host); x.Host != "" {
		if err := layout.ValidName(x.Host); err != nil {
			c.Fail(18, "%v", err)
		}
	}
	c.Unknown(&x.Unknown)
}

// ValidHostPattern returns why a pattern of hosts is none: it is a name in which each
// * stands for any number of characters.
func ValidHostPattern(pattern string) error {
	if err := layout.ValidName(strings.ReplaceAll(pattern, "*", "a")); err != nil {
		return fmt.Errorf("pattern of hosts %q: a name in which * is any number of characters: %w", pattern, err)
	}
	return nil
}

// Verify checks repository and signature.
func (x *AttestKey) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return x.verify(x.Repository, repo, owner)
}

// Mark calls snapshots of an environment bad, or no longer. What it
// does not name stays as it was.
type Mark struct {
	Envelope
	Repository  seal.RepositoryID
	Host        string
	Environment string
	Serial      uint64   // from 1
	Previous    [32]byte // hash of the newest mark before that counts; zero for none
	Marked      []Marked // in the order of their numbers
	Made        time.Time
	Reason      string
	// AttestKey is the certificate of the attest key that signed, and Certificate
	// that of the host; the owner did where both are nil.
	AttestKey   *AttestKey
	Certificate *Certificate
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Marked is a snapshot by its number and its ID, and whether it is bad.
type Marked struct {
	Number uint64
	ID     [32]byte
	Bad    bool
}

// Encode signs the mark with the key of its certificate, or with the owner's.
func (x *Mark) Encode(key ed25519.PrivateKey) ([]byte, error) { return encode(wire.KindMark, x, key) }

// ParseMark reads a mark, which shares memory with object, and trusts nothing in it.
func ParseMark(object []byte) (*Mark, error) { return parse[Mark](wire.KindMark, object) }

func (x *Mark) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	name(c, 6, &x.Environment)
	c.Uint(8, &x.Serial, 1, layout.MaxNumber)
	c.Hash(10, &x.Previous)
	if marked(c, 12, &x.Marked); len(x.Marked) == 0 {
		c.Fail(12, "no snapshots")
	}
	moment(c, 14, &x.Made)
	reason(c, 15, &x.Reason)
	var object []byte
	if x.AttestKey != nil {
		object = x.AttestKey.Bytes()
	}
	if c.Bytes(16, &object); c.Reads() && object != nil {
		var err error
		if x.AttestKey, err = ParseAttestKey(object); err == nil && x.AttestKey.Repository != x.Repository {
			err = fmt.Errorf("%w: attest key certificate of repository %v", wire.ErrMalformed, x.AttestKey.Repository)
		}
		c.Refuse(err)
	}
	if signer(c, 18, &x.Certificate, x.Repository, x.Host) && object != nil {
		c.Fail(18, "a second certificate")
	}
	c.Unknown(&x.Unknown)
}

// marked are snapshots in the order of their numbers.
func marked(c *wire.Codec, tag uint64, list *[]Marked) {
	before := uint64(0)
	wire.List(c, tag, list, 1+32+1, MaxMarked, func(b []byte, m *Marked) []byte {
		b = append(wire.AppendUvarint(b, m.Number-before), m.ID[:]...)
		before = m.Number
		if m.Bad {
			return append(b, 1)
		}
		return append(b, 2)
	}, func(d *wire.Decoder, m *Marked) {
		gap := d.Uvarint()
		if gap == 0 || gap > layout.MaxNumber-before {
			d.Fail("a snapshot %d after the one before", gap)
		}
		m.Number = before + gap
		before = m.Number
		d.Copy(m.ID[:])
		word := d.U8()
		if m.Bad = word == 1; !m.Bad && word != 2 {
			d.Fail("%d is neither bad nor cleared", word)
		}
	})
}

// ErrOutOfScope: an attest key signed something of a host that it may not speak of.
var ErrOutOfScope = errors.New("the attest key may not speak of this host")

// Verify checks repository and signature: by owner, or by the key of a certificate,
// which owner must have signed. It does not check whether a later certificate ended
// that one, or narrowed it.
func (x *Mark) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	if x.AttestKey == nil {
		return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
	}
	if err := x.AttestKey.Verify(repo, owner); err != nil {
		return err
	}
	if !x.AttestKey.Speaks(x.Host) {
		return fmt.Errorf("mark %d of %s of host %s: %w", x.Serial, x.Environment, x.Host, ErrOutOfScope)
	}
	return x.verify(x.Repository, repo, x.AttestKey.Key)
}

// CheckMarkCertificate is CheckTombstoneCertificate of a mark.
func CheckMarkCertificate(x *Mark, certs []*Certificate, owner ed25519.PublicKey, repo seal.RepositoryID) error {
	if err := x.Verify(repo, owner); err != nil {
		return err
	}
	return checkNewest(x.Certificate, certs, owner, repo, fmt.Sprintf("mark %d of %s", x.Serial, x.Environment))
}
