package manifest

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"

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

// Segment says where a segment lies and what it starts with.
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
	var r wire.Record
	if len(t.Sources) > 0 {
		r.Bytes(2, appendSources(nil, t.Sources))
	}
	if len(t.Containers) > 0 {
		b := wire.AppendUvarint(nil, uint64(len(t.Containers)))
		for i := range t.Containers {
			b = t.Containers[i].Append(b)
		}
		r.Bytes(4, b)
	}
	if len(t.Segments) > 0 {
		b := wire.AppendUvarint(nil, uint64(len(t.Segments)))
		for i := range t.Segments {
			s := &t.Segments[i]
			b = wire.AppendUvarint(b, uint64(s.Container))
			b = wire.AppendUvarint(b, uint64(s.Offset))
			b = wire.AppendUvarint(b, uint64(s.SealedLen))
			b = wire.AppendUvarint(b, uint64(s.ContentLen))
			b = append(b, s.ID[:]...)
			b = wire.AppendUvarint(b, uint64(s.Entries))
			b = wire.AppendBytes(b, s.First)
		}
		r.Bytes(6, b)
	}
	if len(t.Problems) > 0 {
		r.Bytes(10, appendProblems(nil, t.Problems))
	}
	r.Unknown(t.Unknown)
	return r.Append(dst)
}

// ParseTable decodes the record of a table.
func ParseTable(b []byte) (*Table, error) {
	f, err := wire.ParseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("manifest table: %w", err)
	}
	t := &Table{}
	var newer error // which a list cannot return
	left := maxSourceLists
	list(f, 2, 4, func(d *wire.Decoder) {
		s, err := parseSource(d.Bytes(), &left)
		switch {
		case errors.Is(err, wire.ErrVersion):
			newer = err
		case err != nil:
			d.Fail("source %d: %v", len(t.Sources), err)
		case len(t.Sources) >= MaxSources:
			d.Fail("more than %d sources", MaxSources)
		}
		t.Sources = append(t.Sources, s)
	})
	if newer != nil {
		return nil, fmt.Errorf("manifest table: %w", newer)
	}
	list(f, 4, pack.RefMin, func(d *wire.Decoder) { t.Containers = append(t.Containers, pack.ParseRef(d)) })
	list(f, 6, 38, func(d *wire.Decoder) {
		s := Segment{Container: int(d.UvarintMax(uint64(len(t.Containers)))), Offset: uint32(d.UvarintMax(pack.MaxObject)),
			SealedLen: uint32(d.UvarintMax(pack.MaxObject)), ContentLen: uint32(d.UvarintMax(pack.MaxSegmentContent))}
		d.Copy(s.ID[:])
		s.Entries = uint32(d.UvarintMax(MaxEntries))
		s.First = string(d.Bytes())
		if n := len(t.Segments); !ValidPath(s.First) || n > 0 && Compare(t.Segments[n-1].First, s.First) >= 0 || n >= MaxSegments || s.Entries == 0 {
			d.Fail("segment %d", n)
		}
		t.Segments = append(t.Segments, s)
	})
	list(f, 10, 2, func(d *wire.Decoder) {
		p := Problem{string(d.Bytes()), string(d.Bytes())}
		if n := len(t.Problems); n > 0 && CompareProblems(t.Problems[n-1], p) > 0 || n >= MaxProblems {
			d.Fail("problem %d", n)
		}
		t.Problems = append(t.Problems, p)
	})
	if t.Unknown, err = f.Finish(); err != nil {
		return nil, fmt.Errorf("manifest table: %w", err)
	}
	return t, nil
}

func appendProblems(b []byte, problems []Problem) []byte {
	b = wire.AppendUvarint(b, uint64(len(problems)))
	for _, p := range problems {
		b = wire.AppendBytes(b, p.Path)
		b = wire.AppendBytes(b, p.Reason)
	}
	return b
}

// Digest commits to all that the table says of the snapshot, wherever its
// segments lie: sources with their rules, problems, and the segments in order
// (docs/FORMAT.md section 8). The root carries it; a table with another digest
// is not the snapshot's.
func (t *Table) Digest() [32]byte {
	h := sha256.New()
	var b []byte
	b = append(b, "knowngood v1 content\n"...)
	b = appendSources(b, t.Sources)
	b = appendProblems(b, t.Problems)
	b = wire.AppendUvarint(b, uint64(len(t.Segments)))
	for i := range t.Segments {
		s := &t.Segments[i]
		b = append(b, s.ID[:]...)
		b = wire.AppendUvarint(b, uint64(s.Entries))
		b = wire.AppendBytes(b, s.First)
		if len(b) > 32<<10 {
			h.Write(b)
			b = b[:0]
		}
	}
	h.Write(b)
	return [32]byte(h.Sum(nil))
}

// list reads a field that is a list of elements of at least size bytes.
func list(f *wire.Fields, tag uint64, size int, element func(*wire.Decoder)) {
	v := f.Bytes(tag)
	if v == nil {
		return
	}
	d := wire.NewDecoder(v)
	n := d.Count(size)
	if n == 0 {
		d.Fail("empty list")
	}
	for range n {
		if element(d); d.Err() != nil {
			break
		}
	}
	if err := d.Finish(); err != nil {
		f.Fail(tag, "%v", err)
	}
}

func fromStrings(s []string) [][]byte {
	out := make([][]byte, len(s))
	for i := range s {
		out[i] = []byte(s[i])
	}
	return out
}

func toStrings(b [][]byte) []string {
	var out []string
	for _, s := range b {
		out = append(out, string(s))
	}
	return out
}
