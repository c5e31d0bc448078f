package statement

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"
	"unicode/utf8"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Limits of an epoch's lists.
const (
	maxRecipients = 4096
	publicKeyLen  = 1216 // MLKEM768-X25519, in bytes
)

// Epoch announces a repository key and the recipients it is wrapped for. The
// owner signs it. The one with the highest number is in force.
type Epoch struct {
	Envelope
	Repository seal.RepositoryID
	Number     uint64 // from 1
	PublicKey  []byte // HPKE, MLKEM768-X25519
	Recipients []string
	Created    time.Time
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// ID names the epoch's key.
func (e *Epoch) ID() seal.EpochID {
	sum := sha256.Sum256(e.PublicKey)
	return seal.EpochID(sum[:8])
}

// Encode signs the epoch with the owner's key.
func (e *Epoch) Encode(key ed25519.PrivateKey) ([]byte, error) {
	return encode(wire.KindEpoch, e, key)
}

// ParseEpoch reads an epoch, which shares memory with object, and trusts
// nothing in it.
func ParseEpoch(object []byte) (*Epoch, error) { return parse[Epoch](wire.KindEpoch, object) }

func (e *Epoch) fields(c *wire.Codec) {
	c.Fixed(tagRepository, e.Repository[:])
	c.Uint(4, &e.Number, 1, layout.MaxNumber)
	keyType(c, 6)
	if c.Bytes(8, &e.PublicKey); len(e.PublicKey) != publicKeyLen && c.Reads() {
		c.Refuse(fmt.Errorf("%w: public key of %d bytes, want %d", wire.ErrMalformed, len(e.PublicKey), publicKeyLen))
	}
	if c.Texts(10, &e.Recipients, maxRecipients); len(e.Recipients) == 0 {
		c.Fail(10, "no recipients")
	}
	for _, s := range e.Recipients {
		if s == "" || !utf8.ValidString(s) {
			c.Fail(10, "a recipient that is no text")
		}
	}
	moment(c, 12, &e.Created)
	c.Unknown(&e.Unknown)
}

// Verify checks repository and signature, which must be the owner's.
func (e *Epoch) Verify(repo seal.RepositoryID, owner ed25519.PublicKey) error {
	return e.verify(e.Repository, repo, owner)
}
