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

// open splits an object of kind k into its envelope and the fields of its
// payload.
func open(k wire.Kind, object []byte) (Envelope, *wire.Fields, error) {
	fail := func(err error) (Envelope, *wire.Fields, error) {
		return Envelope{}, nil, fmt.Errorf("%v: %w", k, err)
	}
	d := wire.NewDecoder(object)
	d.Prelude(k)
	n := d.U32()
	if n > uint32(maxPayload(k)) {
		d.Fail("payload of %d bytes is over the limit of %d", n, maxPayload(k))
	}
	payload := d.Take(int(n))
	d.Take(ed25519.SignatureSize)
	if err := d.Finish(); err != nil {
		return fail(err)
	}
	fields, err := wire.ParseRecord(payload)
	if err != nil {
		return fail(err)
	}
	return Envelope{
		kind:   k,
		object: object,
		hash:   sha256.Sum256(object),
		signed: sha256.Sum256(object[:headLen+len(payload)]),
	}, fields, nil
}

// encode signs the record of a statement and reads it back with parse, so
// that nothing is written that no reader would accept.
func encode[T any](k wire.Kind, r *wire.Record, key ed25519.PrivateKey, parse func([]byte) (T, error)) ([]byte, error) {
	object, err := sign(k, r.Append(nil), key)
	if err != nil {
		return nil, err
	}
	if _, err := parse(object); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	return object, nil
}

// validTime fails a field whose time is required but absent.
func validTime(r *wire.Fields, tag uint64, t time.Time) {
	if t.IsZero() {
		r.Fail(tag, "a time is missing")
	}
}

// checkTimes refuses times outside the range of nanoseconds since 1970.
func checkTimes(times ...time.Time) error {
	for _, t := range times {
		if !t.IsZero() && (t.Before(time.Unix(0, math.MinInt64)) || t.After(time.Unix(0, math.MaxInt64))) {
			return fmt.Errorf("time %v cannot be stored", t)
		}
	}
	return nil
}

// validUint fails a field of an integer outside low..high.
func validUint(r *wire.Fields, tag, v, low, high uint64) uint64 {
	if v < low || v > high {
		r.Fail(tag, "%d is not in %d to %d", v, low, high)
	}
	return v
}

// name takes a host or environment name.
func name(r *wire.Fields, tag uint64) string {
	s := r.Text(tag)
	if err := layout.ValidName(s); err != nil {
		r.Fail(tag, "%v", err)
	}
	return s
}

// publicKey takes an Ed25519 public key.
func publicKey(r *wire.Fields, tag uint64) ed25519.PublicKey {
	k := make(ed25519.PublicKey, ed25519.PublicKeySize)
	r.Fixed(tag, k)
	return k
}

// nonEmpty takes a field of 1 to limit bytes, shared with the input.
func nonEmpty(r *wire.Fields, tag uint64, limit int) []byte {
	v := r.Bytes(tag)
	if len(v) == 0 || len(v) > limit {
		r.Fail(tag, "%d bytes, want 1 to %d", len(v), limit)
	}
	return v
}

// optionalHash takes a SHA-256 that may be absent: the zero hash.
func optionalHash(r *wire.Fields, tag uint64) (h [32]byte) {
	if r.OptionalFixed(tag, h[:]) && h == ([32]byte{}) {
		r.Fail(tag, "a hash of zeros")
	}
	return h
}

// putOptionalHash adds a hash unless it is zero.
func putOptionalHash(r *wire.Record, tag uint64, h [32]byte) {
	if h != ([32]byte{}) {
		r.Bytes(tag, h[:])
	}
}
