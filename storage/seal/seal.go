// Package seal holds the key hierarchy of a repository (docs/FORMAT.md
// section 5): epochs, to which every host can seal and which only an identity
// opens; domains, whose keys a host holds to deduplicate; sessions, whose
// secret lives in the memory of one run.
//
// It does no I/O and keeps no clock. It refuses to hand out secrets in
// printable form: no secret type has a String method, and fmt prints none of
// their bytes.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"knowngood/internal/wire"
)

// KEM is the identifier of MLKEM768-X25519 in HPKE.
const KEM = 0x647a

// MaxSealed is the longest sealed secret a reader accepts, in bytes.
const MaxSealed = 4096

// Overhead is by how much sealing with an AEAD lengthens a plaintext, in bytes.
const Overhead = 16

// ErrWrongKey means that a secret or a frame does not open with the key at
// hand: the wrong key, or damage.
var ErrWrongKey = errors.New("the data was changed after it was stored, or was sealed with another key")

// secret keeps 32 bytes from being printed.
type secret struct{ b [32]byte }

// Format prints no byte of the secret, whatever the verb.
func (secret) Format(f fmt.State, _ rune) { f.Write([]byte("[secret]")) }

// Epoch is the public half of a repository key, to which secrets are sealed.
type Epoch struct {
	ID  EpochID
	pub hpke.PublicKey
}

// ParseEpoch reads an HPKE public key.
func ParseEpoch(pub []byte) (*Epoch, error) {
	k, err := hpke.MLKEM768X25519().NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("public key of an epoch: %w", err)
	}
	return newEpoch(k), nil
}

func newEpoch(k hpke.PublicKey) *Epoch {
	sum := sha256.Sum256(k.Bytes())
	return &Epoch{ID: EpochID(sum[:8]), pub: k}
}

// Public is the HPKE public key.
func (e *Epoch) Public() []byte { return e.pub.Bytes() }

// EpochSecret opens what was sealed to its epoch.
type EpochSecret struct {
	*Epoch
	key hpke.PrivateKey
}

// Format prints no byte of the secret.
func (EpochSecret) Format(f fmt.State, _ rune) { f.Write([]byte("[epoch secret]")) }

// NewEpochSecret draws a new repository key.
func NewEpochSecret() (*EpochSecret, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, err
	}
	return &EpochSecret{newEpoch(k.PublicKey()), k}, nil
}

// ParseEpochSecret reads what Bytes gave.
func ParseEpochSecret(b []byte) (*EpochSecret, error) {
	k, err := hpke.MLKEM768X25519().NewPrivateKey(b)
	if err != nil {
		return nil, errors.New("not the secret of an epoch")
	}
	return &EpochSecret{newEpoch(k.PublicKey()), k}, nil
}

// Bytes is the secret key, to be wrapped for recipients.
func (s *EpochSecret) Bytes() ([]byte, error) { return s.key.Bytes() }

func (e *Epoch) seal(info, plaintext []byte) ([]byte, error) {
	return hpke.Seal(e.pub, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plaintext)
}

func (s *EpochSecret) open(info, sealed []byte) (secret, error) {
	if len(sealed) > MaxSealed {
		return secret{}, fmt.Errorf("sealed secret of %d bytes: %w", len(sealed), wire.ErrMalformed)
	}
	b, err := hpke.Open(s.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil || len(b) != 32 {
		return secret{}, ErrWrongKey
	}
	return secret{[32]byte(b)}, nil
}

func sessionInfo(repo RepositoryID, epoch EpochID, id SessionID) []byte {
	b := append([]byte("knowngood v1 session"), repo[:]...)
	b = append(b, epoch[:]...)
	return append(b, id[:]...)
}

func domainInfo(repo RepositoryID, epoch EpochID, id DomainID, host string) []byte {
	b := append([]byte("knowngood v1 domain"), repo[:]...)
	b = append(b, epoch[:]...)
	b = append(b, id[:]...)
	return append(b, host...)
}

// SealedSession is a session's secret as objects carry it.
type SealedSession struct {
	ID     SessionID
	Epoch  EpochID
	Sealed []byte
}

// Session is the secret of one run. It is never stored but sealed.
type Session struct {
	SealedSession
	key secret
}

// Format prints only the session's name, whatever the verb.
func (s Session) Format(f fmt.State, _ rune) { fmt.Fprint(f, "session ", s.ID) }

// NewSession draws the secret of a run and seals it to epoch.
func NewSession(repo RepositoryID, epoch *Epoch) (*Session, error) {
	s := &Session{SealedSession: SealedSession{Epoch: epoch.ID}}
	rand.Read(s.key.b[:])
	s.ID = s.key.sessionID()
	sealed, err := epoch.seal(sessionInfo(repo, epoch.ID, s.ID), s.key.b[:])
	if err != nil {
		return nil, err
	}
	s.Sealed = sealed
	return s, nil
}

// OpenSession opens a session's secret with that of its epoch, and checks that it is
// the one of its ID.
func (s *EpochSecret) OpenSession(repo RepositoryID, sealed SealedSession) (*Session, error) {
	k, err := s.open(sessionInfo(repo, sealed.Epoch, sealed.ID), sealed.Sealed)
	if err == nil && k.sessionID() != sealed.ID {
		err = ErrWrongKey
	}
	if err != nil {
		return nil, fmt.Errorf("session %v: %w", sealed.ID, err)
	}
	return &Session{sealed, k}, nil
}

// sessionID names a session by its secret: anybody can seal another one to the epoch.
func (s secret) sessionID() SessionID {
	return SessionID(derive(s.b[:], nil, []byte("knowngood v1 session id")))
}

// FrameKey is the key of the frames of one object.
func (s *Session) FrameKey(kind wire.Kind, repo RepositoryID, domain DomainID, salt Salt) cipher.AEAD {
	info := append([]byte("knowngood v1 frames"), byte(kind))
	info = append(info, repo[:]...)
	return aead(derive(s.key.b[:], salt[:], append(info, domain[:]...)))
}

// Domain is the secret under which a host deduplicates and keeps its index.
type Domain struct {
	ID  DomainID
	key secret
}

// Format prints no byte of the secret.
func (Domain) Format(f fmt.State, _ rune) { f.Write([]byte("[domain secret]")) }

// NewDomain draws a domain.
func NewDomain() *Domain {
	var b [32]byte
	rand.Read(b[:])
	return DomainFromBytes(b)
}

// DomainFromBytes makes the domain of a secret.
func DomainFromBytes(b [32]byte) *Domain {
	id := derive(b[:], nil, []byte("knowngood v1 domain id"))
	return &Domain{ID: DomainID(id[:8]), key: secret{b}}
}

// Bytes is the secret, for the host's own key file.
func (d *Domain) Bytes() [32]byte { return d.key.b }

// SealTo seals the domain's secret to an epoch, so that roots can carry it.
func (d *Domain) SealTo(epoch *Epoch, repo RepositoryID, host string) ([]byte, error) {
	return epoch.seal(domainInfo(repo, epoch.ID, d.ID, host), d.key.b[:])
}

// OpenDomain opens a domain's secret and checks that it is the one of id.
func (s *EpochSecret) OpenDomain(repo RepositoryID, id DomainID, host string, sealed []byte) (*Domain, error) {
	k, err := s.open(domainInfo(repo, s.ID, id, host), sealed)
	if err != nil {
		return nil, fmt.Errorf("domain %v: %w", id, err)
	}
	d := DomainFromBytes(k.b)
	if d.ID != id {
		return nil, fmt.Errorf("domain %v holds the secret of domain %v: %w", id, d.ID, wire.ErrMalformed)
	}
	return d, nil
}

func evidenceInfo(repo RepositoryID, epoch EpochID, snapshot [32]byte) []byte {
	b := append([]byte("knowngood v1 evidence"), repo[:]...)
	b = append(b, epoch[:]...)
	return append(b, snapshot[:]...)
}

// SealEvidence seals what the probes of a drill printed to an epoch, for the ID of the
// snapshot that was drilled.
func (e *Epoch) SealEvidence(repo RepositoryID, snapshot [32]byte, evidence []byte) ([]byte, error) {
	return e.seal(evidenceInfo(repo, e.ID, snapshot), evidence)
}

// OpenEvidence opens what SealEvidence sealed.
func (s *EpochSecret) OpenEvidence(repo RepositoryID, snapshot [32]byte, sealed []byte) ([]byte, error) {
	b, err := hpke.Open(s.key, hpke.HKDFSHA256(), hpke.AES256GCM(), evidenceInfo(repo, s.ID, snapshot), sealed)
	if err != nil {
		return nil, ErrWrongKey
	}
	return b, nil
}

// ChunkKey keys the IDs of chunks.
func (d *Domain) ChunkKey() [32]byte { return d.derive("knowngood v1 chunk id") }

// GearKey seeds the gear table of the chunker.
func (d *Domain) GearKey() [32]byte { return d.derive("knowngood v1 gear") }

// SegmentKey keys the IDs of segments.
func (d *Domain) SegmentKey() [32]byte { return d.derive("knowngood v1 segment id") }

// SourceTag names a source of an environment, by its path, across snapshots:
// those who hold only the domain secret can compare counts without learning
// the path.
func (d *Domain) SourceTag(path string) [8]byte {
	sum := d.derive("knowngood v1 source\n" + path)
	return [8]byte(sum[:8])
}

// ContentsKey seals the table of contents of one object.
func (d *Domain) ContentsKey(kind wire.Kind, salt Salt) cipher.AEAD {
	return d.indexed(salt, append([]byte("knowngood v1 contents"), byte(kind)))
}

// RunKey seals the body of one index run.
func (d *Domain) RunKey(salt Salt) cipher.AEAD {
	return d.indexed(salt, []byte("knowngood v1 index run"))
}

// RootKey seals the body of one root.
func (d *Domain) RootKey(salt Salt) cipher.AEAD { return d.indexed(salt, []byte("knowngood v1 root")) }

func (d *Domain) derive(info string) [32]byte { return [32]byte(derive(d.key.b[:], nil, []byte(info))) }

func (d *Domain) indexed(salt Salt, info []byte) cipher.AEAD {
	k := d.derive("knowngood v1 index")
	return aead(derive(k[:], salt[:], info))
}

func derive(key, salt, info []byte) []byte {
	b, err := hkdf.Key(sha256.New, key, salt, string(info), 32)
	if err != nil {
		panic(err) // 32 bytes are within what HKDF gives, always
	}
	return b
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key is 32 bytes long
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block size that GCM needs
	}
	return g
}

// Once seals the one message that a key ever seals: the nonce is zero.
func Once(a cipher.AEAD, plaintext, additional []byte) []byte {
	return a.Seal(nil, make([]byte, a.NonceSize()), plaintext, additional)
}

// OpenOnce opens what Once sealed.
func OpenOnce(a cipher.AEAD, sealed, additional []byte) ([]byte, error) {
	b, err := a.Open(nil, make([]byte, a.NonceSize()), sealed, additional)
	if err != nil {
		return nil, ErrWrongKey
	}
	return b, nil
}
