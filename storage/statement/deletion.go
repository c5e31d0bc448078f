package statement

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
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
	return encode(wire.KindDeletion, x, key)
}

// ParseDeletion reads a pending deletion, which shares memory with object, and
// trusts nothing in it.
func ParseDeletion(object []byte) (*Deletion, error) {
	return parse[Deletion](wire.KindDeletion, object)
}

func (x *Deletion) fields(c *wire.Codec) {
	c.Fixed(tagRepository, x.Repository[:])
	name(c, 4, &x.Host)
	c.Fixed(6, x.Domain[:])
	c.Uint(8, &x.Serial, 1, layout.MaxNumber)
	objects(c, 10, &x.Announced, true)
	objects(c, 12, &x.Deleted, false)
	objects(c, 14, &x.Spared, false)
	c.Uint(16, &x.Since, 1, max(x.Serial, 1))
	moment(c, 18, &x.Made)
	signer(c, 20, &x.Certificate, x.Repository, x.Host)
	repacks(c, 22, &x.Repacks)
	c.Unknown(&x.Unknown)
}

// Verify checks repository and signature: by owner, or by the key of the
// certificate, which owner must have signed. It does not check whether a later
// certificate ended that one, because nothing is lost by it: a writer that applies
// a deletion without need stores an object again, and a prune computes itself
// which objects are needed.
func (x *Deletion) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return verifySigner(&x.Envelope, x.Repository, x.Certificate, repo, owner)
}

// objects are in order.
func objects(c *wire.Codec, tag uint64, list *[]Object, sizes bool) {
	var before *Object
	wire.List(c, tag, list, 1+32, MaxDeletionObjects, func(b []byte, o *Object) []byte {
		b = append(append(b, byte(o.Kind)), o.Hash[:]...)
		if sizes {
			b = wire.AppendUvarint(b, o.Size)
		}
		return b
	}, func(d *wire.Decoder, o *Object) {
		o.Kind = wire.Kind(d.U8())
		d.Copy(o.Hash[:])
		if sizes {
			o.Size = d.Uvarint()
		}
		if o.Kind != wire.KindPack && o.Kind != wire.KindManifest {
			d.Fail("a %v among packs and containers", o.Kind)
		}
		if before != nil && CompareObjects(*before, *o) >= 0 {
			d.Fail("objects out of order")
		}
		before = o
	})
}
