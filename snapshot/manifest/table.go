package manifest

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// Limits of a table.
const (
	MaxSegments = 1 << 24
	MaxProblems = 10_000
)

// Table is the directory of a manifest: its segments and where they lie.
type Table struct {
	Sources    []Source   // trees first, then commands, as configured
	Containers []pack.Ref // of segments that lie outside the table's own container
	Segments   []Segment  // in path order
	Problems   []Problem
	Unknown    []wire.Field
}

// Segment is where a segment lies and what it starts with.
type Segment struct {
	Container  int // 0: that of the table; else position in Containers, plus 1
	Offset     uint32
	SealedLen  uint32
	ContentLen uint32
	ID         [32]byte
	Entries    uint32
	First      string // path of the first entry
}

// Problem names what could not be captured as it should.
type Problem struct{ Path, Reason string }

// CompareProblems orders problems by path, then by reason.
func CompareProblems(a, b Problem) int {
	return cmp.Or(Compare(a.Path, b.Path), cmp.Compare(a.Reason, b.Reason))
}

// Append appends the record of the table.
func (t *Table) Append(dst []byte) []byte {
	record, _ := wire.Encode(t.fields) // which refuses only what it reads
	return append(dst, record...)
}

// ParseTable decodes the record of a table.
func ParseTable(b []byte) (*Table, error) {
	t := &Table{}
	if err := wire.Decode(b, t.fields); err != nil {
		return nil, fmt.Errorf("manifest table: %w", err)
	}
	return t, nil
}

func (t *Table) fields(c *wire.Codec) {
	left := maxSourceLists
	wire.List(c, 2, &t.Sources, 4, MaxSources, appendSource, func(d *wire.Decoder, s *Source) {
		var err error
		if *s, err = parseSource(d.Bytes(), &left); errors.Is(err, wire.ErrVersion) {
			c.Refuse(err)
		} else if err != nil {
			d.Fail("a source: %v", err)
		}
	})
	wire.List(c, 4, &t.Containers, pack.RefMin, math.MaxInt, func(b []byte, r *pack.Ref) []byte { return r.Append(b) },
		func(d *wire.Decoder, r *pack.Ref) {
			if *r = pack.ParseRef(d); r.Kind == 0 {
				d.Fail("a container without a name")
			}
		})
	var before *Segment
	wire.List(c, 6, &t.Segments, 38, MaxSegments, func(b []byte, s *Segment) []byte {
		for _, v := range [...]uint64{uint64(s.Container), uint64(s.Offset), uint64(s.SealedLen), uint64(s.ContentLen)} {
			b = wire.AppendUvarint(b, v)
		}
		return s.appendContent(b)
	}, func(d *wire.Decoder, s *Segment) {
		*s = Segment{Container: int(d.UvarintMax(uint64(len(t.Containers)))), Offset: uint32(d.UvarintMax(pack.MaxObject)),
			SealedLen: uint32(d.UvarintMax(pack.MaxObject)), ContentLen: uint32(d.UvarintMax(pack.MaxSegmentContent))}
		d.Copy(s.ID[:])
		s.Entries = uint32(d.UvarintMax(MaxEntries))
		s.First = string(d.Bytes())
		if !ValidPath(s.First) || before != nil && Compare(before.First, s.First) >= 0 || s.Entries == 0 {
			d.Fail("segment of %d entries at %q", s.Entries, s.First)
		}
		before = s
	})
	var last *Problem
	wire.List(c, 10, &t.Problems, 2, MaxProblems, appendProblem, func(d *wire.Decoder, p *Problem) {
		if *p = (Problem{string(d.Bytes()), string(d.Bytes())}); last != nil && CompareProblems(*last, *p) > 0 {
			d.Fail("problems out of order")
		}
		last = p
	})
	c.Unknown(&t.Unknown)
}

// appendContent appends what of a segment is independent of where it lies.
func (s *Segment) appendContent(b []byte) []byte {
	b = wire.AppendUvarint(append(b, s.ID[:]...), uint64(s.Entries))
	return wire.AppendBytes(b, s.First)
}

func appendProblem(b []byte, p *Problem) []byte {
	return wire.AppendBytes(wire.AppendBytes(b, p.Path), p.Reason)
}

// Digest commits to all that the table has of the snapshot, wherever its
// segments lie: sources with their rules, problems, and the segments in order
// (docs/FORMAT.md section 8). The root carries it; a table with another digest
// is not the snapshot's.
func (t *Table) Digest() [32]byte {
	h := sha256.New()
	var b []byte
	b = append(b, "knowngood v1 content\n"...)
	b = appendSources(b, t.Sources)
	b = wire.AppendUvarint(b, uint64(len(t.Problems)))
	for i := range t.Problems {
		b = appendProblem(b, &t.Problems[i])
	}
	b = wire.AppendUvarint(b, uint64(len(t.Segments)))
	for i := range t.Segments {
		b = t.Segments[i].appendContent(b)
		if len(b) > 32<<10 {
			h.Write(b)
			b = b[:0]
		}
	}
	h.Write(b)
	return [32]byte(h.Sum(nil))
}
