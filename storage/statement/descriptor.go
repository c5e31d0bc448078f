package statement

import (
	"crypto/ed25519"
	"fmt"
	"math"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// Limits of a descriptor's sizes, in bytes.
const (
	maxChunk = 8 << 20
	maxPack  = 256 << 20
)

// Descriptor describes a repository. It is signed by the owner key that it
// names; its hash is the pin of the repository.
type Descriptor struct {
	Envelope
	Repository seal.RepositoryID
	Owner      ed25519.PublicKey
	Created    time.Time
	// Sizes of chunks, in bytes: 1 <= ChunkMin <= ChunkAverage <= ChunkMax <= 8 MiB.
	ChunkMin, ChunkAverage, ChunkMax uint32
	// PackSize is what writers aim at, in bytes.
	PackSize uint32
	// LockMode is "GOVERNANCE", "COMPLIANCE" or empty.
	LockMode string
	// LockDuration is a multiple of one second.
	LockDuration time.Duration
	// Probe is what a probe of the store found; nil when it was not probed.
	Probe *Probe
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// Probe is what a probe of a store found.
type Probe struct {
	SecondCreateRefused bool // a conditional put on an existing key
	VersionsKept        bool // what was overwritten or deleted could be read again
	At                  time.Time
	PlainPutRefused     bool // a put without a condition on an existing key
	Unknown             []wire.Field
}

// Unprotected reports whether anybody with the right to put can replace objects
// irrecoverably: the probe found no versions, and puts that overwrite.
func (p *Probe) Unprotected() bool { return !p.VersionsKept && !p.PlainPutRefused }

// Encode signs the descriptor with the secret half of Owner.
func (d *Descriptor) Encode(owner ed25519.PrivateKey) ([]byte, error) {
	if err := d.checkWritable(); err != nil {
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	var r wire.Record
	r.Bytes(tagRepository, d.Repository[:])
	r.Bytes(4, d.Owner)
	r.Time(6, d.Created)
	r.Uint(8, uint64(d.ChunkMin))
	r.Uint(10, uint64(d.ChunkAverage))
	r.Uint(12, uint64(d.ChunkMax))
	r.Uint(14, uint64(d.PackSize))
	r.Uint(16, seal.KEM)
	r.Text(17, d.LockMode)
	r.Uint(19, uint64(d.LockDuration/time.Second))
	if d.Probe != nil {
		r.Bytes(21, d.Probe.Record())
	}
	r.Unknown(d.Unknown)
	return encode(wire.KindDescriptor, &r, owner, ParseDescriptor)
}

func (d *Descriptor) checkWritable() error {
	if d.LockDuration < 0 || d.LockDuration%time.Second != 0 {
		return fmt.Errorf("lock duration %v is not a number of seconds", d.LockDuration)
	}
	if d.Probe != nil {
		return checkTimes(d.Created, d.Probe.At)
	}
	return checkTimes(d.Created)
}

// Record is the encoding of the probe in the descriptor.
func (p *Probe) Record() []byte {
	var r wire.Record
	r.Uint(1, uintOf(p.SecondCreateRefused))
	r.Uint(3, uintOf(p.VersionsKept))
	r.Time(5, p.At)
	r.Uint(7, uintOf(p.PlainPutRefused))
	r.Unknown(p.Unknown)
	return r.Append(nil)
}

func uintOf(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// ParseDescriptor reads a descriptor, which shares memory with object, and
// trusts nothing in it.
func ParseDescriptor(object []byte) (*Descriptor, error) {
	env, r, err := open(wire.KindDescriptor, object)
	if err != nil {
		return nil, err
	}
	d := &Descriptor{Envelope: env}
	r.Fixed(tagRepository, d.Repository[:])
	d.Owner = publicKey(r, 4)
	d.Created = r.Time(6)
	validTime(r, 6, d.Created)
	lowest, average, highest := r.Uint(8), r.Uint(10), r.Uint(12)
	d.ChunkMin = uint32(validUint(r, 8, lowest, 1, average))
	d.ChunkAverage = uint32(validUint(r, 10, average, lowest, highest))
	d.ChunkMax = uint32(validUint(r, 12, highest, average, maxChunk))
	d.PackSize = uint32(validUint(r, 14, r.Uint(14), 1, maxPack))
	kem := r.Uint(16)
	d.LockMode = r.Text(17)
	d.LockDuration = time.Duration(validUint(r, 19, r.Uint(19), 0, math.MaxInt64/uint64(time.Second))) * time.Second
	if v := r.Bytes(21); v != nil {
		if d.Probe, err = ParseProbe(v); err != nil {
			return nil, fmt.Errorf("descriptor: field 21: %w", err)
		}
	}
	if d.Unknown, err = r.Finish(); err == nil {
		err = checkKEM(kem)
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	return d, nil
}

// ParseProbe reads what Record wrote.
func ParseProbe(b []byte) (*Probe, error) {
	r, err := wire.ParseRecord(b)
	if err != nil {
		return nil, err
	}
	p := &Probe{
		SecondCreateRefused: validUint(r, 1, r.Uint(1), 0, 1) == 1,
		VersionsKept:        validUint(r, 3, r.Uint(3), 0, 1) == 1,
		At:                  r.Time(5),
		PlainPutRefused:     validUint(r, 7, r.Uint(7), 0, 1) == 1,
	}
	p.Unknown, err = r.Finish()
	return p, err
}

// checkKEM refuses key encapsulations of newer versions.
func checkKEM(kem uint64) error {
	if kem != seal.KEM {
		return fmt.Errorf("keys of type %#x: %w", kem, wire.ErrVersion)
	}
	return nil
}

// Verify checks that the descriptor is signed by the owner key that it names.
// Anybody can sign such a descriptor: to trust it, compare its hash with a pin.
func (d *Descriptor) Verify() error { return d.verify(d.Repository, d.Repository, d.Owner) }
