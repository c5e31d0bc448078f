package statement

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Limits of what is read and written, in bytes.
const (
	MaxPayload         = 1 << 20
	MaxIndexRunPayload = 64 << 20
)

const (
	signatureLabel = "knowngood v1 signature\n"
	headLen        = wire.PreludeLen + 4
	tagRepository  = 2 // the first field of every payload
)

// What callers branch on.
var (
	// ErrSignature: a statement is not signed by the expected key.
	ErrSignature = errors.New("signature does not verify: the object was forged or damaged")
	// ErrOtherRepository: a statement was made for another repository.
	ErrOtherRepository = errors.New("belongs to another repository")
)

// Envelope is the signed form that a statement was parsed from. A statement
// that was not parsed has none: it has no hash and does not verify.
type Envelope struct {
	kind   wire.Kind
	object []byte
	hash   [32]byte // of object
	signed [32]byte // SHA-256 of all before the signature
}

// Bytes is the object with its signature. It shares memory with the argument of
// Parse, and is nil when the statement was not parsed.
func (e *Envelope) Bytes() []byte { return e.object }

// Hash is the SHA-256 of Bytes.
func (e *Envelope) Hash() [32]byte { return e.hash }

func (e *Envelope) verify(got, want seal.RepositoryID, pub ed25519.PublicKey) error {
	if got != want {
		return fmt.Errorf("%v of repository %v, not of %v: %w", e.kind, got, want, ErrOtherRepository)
	}
	if len(pub) != ed25519.PublicKeySize || len(e.object) < ed25519.SignatureSize ||
		!ed25519.Verify(pub, signedMessage(e.signed), e.object[len(e.object)-ed25519.SignatureSize:]) {
		return fmt.Errorf("%v: %w", e.kind, ErrSignature)
	}
	return nil
}

func signedMessage(digest [32]byte) []byte { return append([]byte(signatureLabel), digest[:]...) }

func maxPayload(k wire.Kind) int {
	if k == wire.KindIndexRun {
		return MaxIndexRunPayload
	}
	return MaxPayload
}

// sign wraps payload into an object of kind k.
func sign(k wire.Kind, payload []byte, key ed25519.PrivateKey) ([]byte, error) {
	if len(payload) > maxPayload(k) {
		return nil, fmt.Errorf("%v: payload of %d bytes is over the limit of %d", k, len(payload), maxPayload(k))
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%v: signing key of %d bytes", k, len(key))
	}
	b := make([]byte, 0, headLen+len(payload)+ed25519.SignatureSize)
	b = wire.AppendPrelude(b, k)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	return append(b, ed25519.Sign(key, signedMessage(sha256.Sum256(b)))...), nil
}

// open splits an object of kind k into its envelope and its payload.
func open(k wire.Kind, object []byte) (Envelope, []byte, error) {
	d := wire.NewDecoder(object)
	d.Prelude(k)
	n := d.U32()
	if n > uint32(maxPayload(k)) {
		d.Fail("payload of %d bytes is over the limit of %d", n, maxPayload(k))
	}
	payload := d.Take(int(n))
	d.Take(ed25519.SignatureSize)
	if err := d.Finish(); err != nil {
		return Envelope{}, nil, err
	}
	return Envelope{
		kind:   k,
		object: object,
		hash:   sha256.Sum256(object),
		signed: sha256.Sum256(object[:headLen+len(payload)]),
	}, payload, nil
}

// message is a statement of type T; fields names the fields of its payload.
type message[T any] interface {
	*T
	fields(c *wire.Codec)
	envelope() *Envelope
}

func (e *Envelope) envelope() *Envelope { return e }

// encode signs a statement and reads it back, so that nothing is written that no
// reader would accept.
func encode[T any, M message[T]](k wire.Kind, x M, key ed25519.PrivateKey) ([]byte, error) {
	payload, err := wire.Encode(x.fields)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", k, err)
	}
	object, err := sign(k, payload, key)
	if err != nil {
		return nil, err
	}
	if _, err := parse[T, M](k, object); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	return object, nil
}

// parse reads a statement, which shares memory with object.
func parse[T any, M message[T]](k wire.Kind, object []byte) (*T, error) {
	x := new(T)
	env, payload, err := open(k, object)
	if err == nil {
		*M(x).envelope() = env
		err = wire.Decode(payload, M(x).fields)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", k, err)
	}
	return x, nil
}

// moment is a time that is required.
func moment(c *wire.Codec, tag uint64, t *time.Time) {
	if c.Time(tag, t); t.IsZero() {
		c.Fail(tag, "a time is missing")
	}
}

// name is a host or environment name.
func name(c *wire.Codec, tag uint64, s *string) {
	c.Text(tag, s)
	if err := layout.ValidName(*s); err != nil {
		c.Fail(tag, "%v", err)
	}
}

// publicKey is an Ed25519 public key.
func publicKey(c *wire.Codec, tag uint64, k *ed25519.PublicKey) {
	if c.Bytes(tag, (*[]byte)(k)); len(*k) != ed25519.PublicKeySize {
		c.Fail(tag, "%d bytes, want %d", len(*k), ed25519.PublicKeySize)
	}
}

// nonEmpty is a field of 1 to limit bytes, shared with the input.
func nonEmpty(c *wire.Codec, tag uint64, v *[]byte, limit int) {
	if c.Bytes(tag, v); len(*v) == 0 || len(*v) > limit {
		c.Fail(tag, "%d bytes, want 1 to %d", len(*v), limit)
	}
}

// reason is a text of at most maxReason bytes.
func reason(c *wire.Codec, tag uint64, s *string) {
	if c.Text(tag, s); len(*s) > maxReason {
		c.Fail(tag, "a reason of %d bytes", len(*s))
	}
}

// keyType refuses key encapsulations of newer versions.
func keyType(c *wire.Codec, tag uint64) {
	kem := uint64(seal.KEM)
	if c.Uint(tag, &kem, 0, math.MaxUint64); kem != seal.KEM {
		c.Refuse(fmt.Errorf("keys of type %#x: %w", kem, wire.ErrVersion))
	}
}
