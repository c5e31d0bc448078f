package statement

import (
	"fmt"
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
// the end of the container.
type ManifestRef struct {
	Hash   [32]byte // of the container with the table
	Size   uint64   // of the container, in stored bytes
	Offset uint64   // of the table's frame in the container
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
	if err := checkTimes(x.Started, x.Finished, x.ProtectedUntil); err != nil {
		return nil, fmt.Errorf("root body: %w", err)
	}
	var r wire.Record
	r.Time(2, x.Started)
	r.Time(4, x.Finished)
	r.Uint(6, uint64(x.Status))
	r.Bytes(8, x.Manifest.Hash[:])
	r.Uint(10, x.Manifest.Size)
	r.Uint(12, x.Manifest.Offset)
	r.Uint(14, x.Manifest.Length)
	r.Bytes(16, x.Objects[:])
	r.Time(26, x.ProtectedUntil)
	for i, v := range x.counts() {
		r.Uint(firstCountTag+2*uint64(i), *v)
	}
	r.Bytes(44, x.Content[:])
	if len(x.Sources) > 0 {
		r.Bytes(46, appendSourceCounts(x.Sources))
	}
	r.Bytes(48, appendSuspicions(x.Suspect))
	r.Bytes(43, appendHeads(x.Witnesses))
	r.Text(45, x.Version)
	tags := make([][]byte, len(x.Tags))
	for i, t := range x.Tags {
		tags[i] = []byte(t)
	}
	r.List(47, tags)
	r.Unknown(x.Unknown)
	record := r.Append(nil)
	if _, err := ParseRootBody(record); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	return append(b, record...), nil
}

// maxSources is the most sources that a root counts.
const maxSources = 4096

func appendSourceCounts(sources []SourceCounts) []byte {
	b := wire.AppendUvarint(nil, uint64(len(sources)))
	for _, s := range sources {
		b = append(b, s.Tag[:]...)
		b = wire.AppendUvarint(b, s.Files)
		b = wire.AppendUvarint(b, s.Directories)
		b = wire.AppendUvarint(b, s.Bytes)
	}
	return b
}

func parseSourceCounts(r *wire.Fields) []SourceCounts {
	v := r.Bytes(46)
	if v == nil {
		return nil
	}

	d := wire.NewDecoder(v)
	n := d.Count(11)
	if n == 0 || n > maxSources {
		d.Fail("%d sources", n)
		n = 0
	}
	out := make([]SourceCounts, n)
	for i := range out {
		d.Copy(out[i].Tag[:])
		out[i].Files, out[i].Directories, out[i].Bytes = d.Uvarint(), d.Uvarint(), d.Uvarint()
	}
	if err := d.Finish(); err != nil {
		r.Fail(46, "%v", err)
	}
	return out
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
	r, err := wire.ParseRecord(record)
	if err != nil {
		return nil, fmt.Errorf("root body: %w", err)
	}
	x := &RootBody{Started: r.Time(2), Finished: r.Time(4)}
	validTime(r, 2, x.Started)
	validTime(r, 4, x.Finished)
	status := r.Uint(6)
	x.Status = Status(status)
	m := &x.Manifest
	r.Fixed(8, m.Hash[:])
	m.Size = validUint(r, 10, r.Uint(10), 1, maxPack)
	m.Offset = validUint(r, 12, r.Uint(12), wire.PreludeLen, m.Size)
	m.Length = validUint(r, 14, r.Uint(14), 1, m.Size-min(m.Offset, m.Size))
	r.Fixed(16, x.Objects[:])
	x.ProtectedUntil = r.Time(26)
	for i, v := range x.counts() {
		*v = r.Uint(firstCountTag + 2*uint64(i))
	}
	r.Fixed(44, x.Content[:])
	x.Sources = parseSourceCounts(r)
	x.Suspect = parseSuspicions(r, 48, len(x.Sources))
	x.Witnesses = parseHeads(r, 43)
	x.Version = r.Text(45)
	for _, t := range r.List(47, maxTags) {
		x.Tags = append(x.Tags, string(t))
	}
	if x.Unknown, err = r.Finish(); err != nil {
		return nil, fmt.Errorf("root body: %w", err)
	}
	switch status {
	case uint64(Complete), uint64(Partial):
	case 0:
		return nil, fmt.Errorf("root body: %w: the status is missing", wire.ErrMalformed)
	default:
		return nil, fmt.Errorf("root body: status %d: %w", status, wire.ErrVersion)
	}
	return x, nil
}
