package statement

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// MaxDeletionObjects is how many objects one Deletion may name, so that it
// fits a statement.
const MaxDeletionObjects = 20_000

// Object is a pack or a manifest container of a domain.
type Object struct {
	Kind wire.Kind
	Hash [32]byte
	Size uint64 // in stored bytes; 0 where it was not announced
}

// CompareObjects orders objects by kind and hash.
func CompareObjects(a, b Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Hash[:], b.Hash[:]))
}

// Deletion is one of a sequence of statements. It lists objects of a domain that
// are going to be deleted, and the state of those announced before. Of several
// that name an object the one with the highest serial counts.
type Deletion struct {
	Envelope
	Repository seal.RepositoryID
	Host       string
	Domain     seal.DomainID
	Serial     uint64   // from 1
	Announced  []Object // to be deleted once the time is out
	Deleted    []Object // without sizes
	Spared     []Object // announced, and needed again; without sizes
	// Since is the lowest serial that must still be read.
	Since uint64
	Made  time.Time
	// Certificate of the host that signed; nil when the owner did.
	Certificate *Certificate
	Repacks     []Repack // of packs that are announced, or deleted already
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Encode signs the statement with the key of its certificate, or with the
// owner's where it has none. The lists must be in order.
func (x *Deletion) Encode(key ed25519.PrivateKey) ([]byte, error) {
	if err := checkTimes(x.Made); err != nil {
		return nil, fmt.Errorf("pending deletion: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, x.Repository[:])
	r.Text(4, x.Host)
	r.Bytes(6, x.Domain[:])
	r.Uint(8, x.Serial)
	r.Bytes(10, appendObjects(x.Announced, true))
	r.Bytes(12, appendObjects(x.Deleted, false))
	r.Bytes(14, appendObjects(x.Spared, false))
	r.Uint(16, x.Since)
	r.Time(18, x.Made)
	if x.Certificate != nil {
		r.Bytes(20, x.Certificate.Bytes())
	}
	r.Bytes(22, appendRepacks(x.Repacks))
	r.Unknown(x.Unknown)
	return encode(wire.KindDeletion, &r, key, ParseDeletion)
}

// ParseDeletion reads a pending deletion, which shares memory with object, and
// trusts nothing in it.
func ParseDeletion(object []byte) (*Deletion, error) {
	env, r, err := open(wire.KindDeletion, object)
	if err != nil {
		return nil, err
	}
	x := &Deletion{Envelope: env}
	r.Fixed(tagRepository, x.Repository[:])
	x.Host = name(r, 4)
	r.Fixed(6, x.Domain[:])
	x.Serial = validUint(r, 8, r.Uint(8), 1, layout.MaxNumber)
	x.Announced = parseObjects(r, 10, true)
	x.Deleted = parseObjects(r, 12, false)
	x.Spared = parseObjects(r, 14, false)
	x.Since = validUint(r, 16, r.Uint(16), 1, max(x.Serial, 1))
	x.Made = r.Time(18)
	validTime(r, 18, x.Made)
	cert := r.Bytes(20)
	x.Repacks = parseRepacks(r, 22)
	if x.Unknown, err = r.Finish(); err == nil && cert != nil {
		x.Certificate, err = certificateOf(cert, x.Repository, x.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("pending deletion: %w", err)
	}
	return x, nil
}

// Verify checks repository and signature: by owner, or by the key of the
// certificate, which owner must have signed. It does not check whether a later
// certificate ended that one, because nothing is lost by it: a writer that applies
// a deletion without need stores an object again, and a prune computes itself
// which objects are needed.
func (x *Deletion) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
}

// appendObjects encodes a list; none is nil.
func appendObjects(list []Object, sizes bool) []byte {
	if len(list) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(list)))
	for _, o := range list {
		b = append(b, byte(o.Kind))
		b = append(b, o.Hash[:]...)
		if sizes {
			b = wire.AppendUvarint(b, o.Size)
		}
	}
	return b
}

// parseObjects takes a list of objects.
func parseObjects(r *wire.Fields, tag uint64, sizes bool) []Object {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}
	d := wire.NewDecoder(v)
	n := d.Count(1 + 32)
	if n == 0 || n > MaxDeletionObjects {
		d.Fail("a list of %d objects", n)
		n = 0
	}
	list := make([]Object, n)
	for i := range list {
		o := &list[i]
		o.Kind = wire.Kind(d.U8())
		d.Copy(o.Hash[:])
		if sizes {
			o.Size = d.Uvarint()
		}
		if o.Kind != wire.KindPack && o.Kind != wire.KindManifest {
			d.Fail("a %v among packs and containers", o.Kind)
		}
		if i > 0 && CompareObjects(list[i-1], *o) >= 0 {
			d.Fail("objects out of order")
		}
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
