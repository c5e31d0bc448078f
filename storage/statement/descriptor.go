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
	if d.LockDuration < 0 || d.LockDuration%time.Second != 0 {
		return nil, fmt.Errorf("descriptor: lock duration %v is not a number of seconds", d.LockDuration)
	}
	return encode(wire.KindDescriptor, d, owner)
}

// ParseDescriptor reads a descriptor, which shares memory with object, and
// trusts nothing in it.
func ParseDescriptor(object []byte) (*Descriptor, error) {
	return parse[Descriptor](wire.KindDescriptor, object)
}

func (d *Descriptor) fields(c *wire.Codec) {
	c.Fixed(tagRepository, d.Repository[:])
	publicKey(c, 4, &d.Owner)
	moment(c, 6, &d.Created)
	lowest, average, highest := uint64(d.ChunkMin), uint64(d.ChunkAverage), uint64(d.ChunkMax)
	c.Uint(8, &lowest, 1, maxChunk)
	c.Uint(10, &average, lowest, maxChunk)
	c.Uint(12, &highest, average, maxChunk)
	d.ChunkMin, d.ChunkAverage, d.ChunkMax = uint32(lowest), uint32(average), uint32(highest)
	size := uint64(d.PackSize)
	c.Uint(14, &size, 1, maxPack)
	d.PackSize = uint32(size)
	keyType(c, 16)
	c.Text(17, &d.LockMode)
	seconds := uint64(d.LockDuration / time.Second)
	c.Uint(19, &seconds, 0, math.MaxInt64/uint64(time.Second))
	d.LockDuration = time.Duration(seconds) * time.Second
	d.probe(c, 21)
	c.Unknown(&d.Unknown)
}

func (d *Descriptor) probe(c *wire.Codec, tag uint64) {
	var record []byte
	var err error
	if d.Probe != nil {
		record, err = d.Probe.Record()
	}
	if c.Bytes(tag, &record); c.Reads() && record != nil {
		if d.Probe, err = ParseProbe(record); err != nil {
			err = fmt.Errorf("field %d: %w", tag, err)
		}
	}
	c.Refuse(err)
}

// Record is the encoding of the probe in the descriptor.
func (p *Probe) Record() ([]byte, error) { return wire.Encode(p.fields) }

// ParseProbe reads what Record wrote.
func ParseProbe(b []byte) (*Probe, error) {
	p := &Probe{}
	return p, wire.Decode(b, p.fields)
}

func (p *Probe) fields(c *wire.Codec) {
	c.Bool(1, &p.SecondCreateRefused)
	c.Bool(3, &p.VersionsKept)
	c.Time(5, &p.At)
	c.Bool(7, &p.PlainPutRefused)
	c.Unknown(&p.Unknown)
}

// Verify checks that the descriptor is signed by the owner key that it names.
// Anybody can sign such a descriptor: to trust it, compare its hash with a pin.
func (d *Descriptor) Verify() error { return d.verify(d.Repository, d.Repository, d.Owner) }
