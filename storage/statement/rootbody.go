package statement

import (
	"fmt"
	"math"
	"time"

	"knowngood/internal/wire"
)

// Status of a snapshot; the numbers are part of the stored format.
type Status uint8

// Statuses. A partial snapshot lacks what could not be read.
const (
	Complete Status = 1
	Partial  Status = 2
)

func (s Status) String() string {
	switch s {
	case Complete:
		return "complete"
	case Partial:
		return "partial"
	}
	return fmt.Sprintf("status-%d", uint8(s))
}

// ManifestRef is where a snapshot's manifest table lies. What opens the table is at
// the end of its object: a manifest container, or a pack when there was little content.
type ManifestRef struct {
	Kind   wire.Kind
	Hash   [32]byte // of the object with the table
	Size   uint64   // of the object, in stored bytes
	Offset uint64   // of the table's frame in it
	Length uint64   // of the sealed frame
}

// Counts of a snapshot; sizes are in bytes.
type Counts struct {
	Entries, Files, Directories  uint64
	ContentBytes                 uint64
	NewContentBytes, StoredBytes uint64 // of the run that made the snapshot
	Problems                     uint64
}

// SourceCounts are what one source contributed to a snapshot. Tag names the
// source across snapshots without revealing its path: see seal.Domain.SourceTag.
type SourceCounts struct {
	Tag                       [8]byte
	Files, Directories, Bytes uint64
}

// RootBody is the part of a root that only the index key opens.
type RootBody struct {
	Started, Finished time.Time
	Status            Status
	Manifest          ManifestRef
	// Content is the digest of the manifest's entries, independent of where they are
	// stored; see manifest.Table.Digest.
	Content [32]byte
	// Objects is the digest of the objects that the snapshot needs; see
	// pack.ObjectsDigest.
	Objects        [32]byte
	ProtectedUntil time.Time // zero when nothing is locked
	Counts
	// Sources are the counts of each source, in the order of the manifest.
	Sources []SourceCounts
	// Suspect lists the sources that collapsed, and how; see Suspicion.
	Suspect []Suspicion
	// Witnesses are the host's other heads as last seen, sorted.
	Witnesses []Head
	// Version of the program that wrote the snapshot.
	Version string
	Tags    []string
	// Unknown fields of newer versions, kept.
	Unknown []wire.Field
}

// AppendRecord appends the record of the body to b. It refuses a body that
// ParseRootBody would refuse.
func (x *RootBody) AppendRecord(b []byte) ([]byte, error) {
	record, err := wire.Encode(x.fields)
	if err != nil {
		return nil, fmt.Errorf("root body: %w", err)
	}
	if _, err := ParseRootBody(record); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	return append(b, record...), nil
}

// maxSources is the most sources that a root counts.
const maxSources = 4096

func sourceCounts(c *wire.Codec, tag uint64, list *[]SourceCounts) {
	wire.List(c, tag, list, 11, maxSources, func(b []byte, s *SourceCounts) []byte {
		b = wire.AppendUvarint(append(b, s.Tag[:]...), s.Files)
		return wire.AppendUvarint(wire.AppendUvarint(b, s.Directories), s.Bytes)
	}, func(d *wire.Decoder, s *SourceCounts) {
		d.Copy(s.Tag[:])
		s.Files, s.Directories, s.Bytes = d.Uvarint(), d.Uvarint(), d.Uvarint()
	})
}

// maxTags is the most tags a snapshot may carry.
const maxTags = 1024

// firstCountTag is the tag of the first of the counts; they go up by two.
const firstCountTag = 30

func (x *RootBody) counts() []*uint64 {
	c := &x.Counts
	return []*uint64{&c.Entries, &c.Files, &c.Directories, &c.ContentBytes, &c.NewContentBytes, &c.StoredBytes, &c.Problems}
}

// ParseRootBody reads the record of a body.
func ParseRootBody(record []byte) (*RootBody, error) {
	x := &RootBody{}
	if err := wire.Decode(record, x.fields); err != nil {
		return nil, fmt.Errorf("root body: %w", err)
	}
	return x, nil
}

func (x *RootBody) fields(c *wire.Codec) {
	moment(c, 2, &x.Started)
	moment(c, 4, &x.Finished)
	status := uint64(x.Status)
	c.Uint(6, &status, 1, math.MaxUint64)
	if x.Status = Status(status); status > uint64(Partial) {
		c.Refuse(fmt.Errorf("status %d: %w", status, wire.ErrVersion))
	}
	m := &x.Manifest
	c.Fixed(8, m.Hash[:])
	c.Uint(10, &m.Size, 1, maxPack)
	c.Uint(12, &m.Offset, wire.PreludeLen, m.Size)
	c.Uint(14, &m.Length, 1, m.Size-min(m.Offset, m.Size))
	c.Fixed(16, x.Objects[:])
	container := m.Kind == wire.KindManifest
	c.Bool(18, &container)
	if m.Kind = wire.KindPack; container {
		m.Kind = wire.KindManifest
	}
	c.Time(26, &x.ProtectedUntil)
	for i, v := range x.counts() {
		c.Uint(firstCountTag+2*uint64(i), v, 0, math.MaxUint64)
	}
	c.Fixed(44, x.Content[:])
	sourceCounts(c, 46, &x.Sources)
	suspicions(c, 48, &x.Suspect, len(x.Sources))
	heads(c, 43, &x.Witnesses)
	c.Text(45, &x.Version)
	c.Texts(47, &x.Tags, maxTags)
	c.Unknown(&x.Unknown)
}
