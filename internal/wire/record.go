package wire

import (
	"cmp"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// maxFields is the most fields of a record: far more than any kind has, and
// few enough for a record of tiny fields not to take many times its size.
const maxFields = 1024

// Field is a field of a record that this version does not know.
type Field struct {
	Tag   uint64
	Value []byte
}

// Record builds a record. Fields may be added in any order; zero values are
// left out.
type Record struct{ fields []Field }

// Bytes adds a field of raw bytes, which the record keeps until Append.
func (r *Record) Bytes(tag uint64, v []byte) {
	if len(v) > 0 {
		r.fields = append(r.fields, Field{tag, v})
	}
}

// Text adds a field of text.
func (r *Record) Text(tag uint64, v string) { r.Bytes(tag, []byte(v)) }

// Uint adds an integer.
func (r *Record) Uint(tag, v uint64) {
	if v != 0 {
		r.Bytes(tag, AppendUvarint(nil, v))
	}
}

// Time adds a time, in nanoseconds since 1970 UTC. The zero time is left out,
// and so is 1970 itself: that is the stored type's zero.
func (r *Record) Time(tag uint64, t time.Time) {
	if !t.IsZero() && t.UnixNano() != 0 {
		r.Bytes(tag, AppendSvarint(nil, t.UnixNano()))
	}
}

// List adds a list of byte strings.
func (r *Record) List(tag uint64, v [][]byte) {
	if len(v) == 0 {
		return
	}
	b := AppendUvarint(nil, uint64(len(v)))
	for _, e := range v {
		b = AppendBytes(b, e)
	}
	r.Bytes(tag, b)
}

// Unknown adds the fields that Fields.Unknown gave.
func (r *Record) Unknown(f []Field) { r.fields = append(r.fields, f...) }

// Append appends the record to b.
func (r *Record) Append(b []byte) []byte {
	slices.SortStableFunc(r.fields, func(x, y Field) int { return cmp.Compare(x.Tag, y.Tag) })
	for _, f := range r.fields {
		b = AppendUvarint(b, f.Tag)
		b = AppendBytes(b, f.Value)
	}
	return b
}

// Fields is a record being decoded. Each method takes its field away; what
// Finish finds left is unknown. Values share memory with the input.
type Fields struct {
	fields []Field
	err    error
}

// ParseRecord splits b into fields.
func ParseRecord(b []byte) (*Fields, error) {
	d := NewDecoder(b)
	r := &Fields{}
	last := uint64(0)
	for d.Err() == nil && d.Rest() > 0 {
		f := Field{Tag: d.Uvarint(), Value: d.Bytes()}
		if d.Err() == nil && f.Tag <= last {
			d.Fail("field %d after field %d", f.Tag, last)
		}
		if d.Err() == nil && len(f.Value) == 0 {
			d.Fail("field %d is empty", f.Tag)
		}
		if len(r.fields) == maxFields {
			d.Fail("more than %d fields", maxFields)
		}
		last = f.Tag
		r.fields = append(r.fields, f)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return r, nil
}

// Fail records an error about a field, unless one is recorded.
func (r *Fields) Fail(tag uint64, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: field %d: %s", ErrMalformed, tag, fmt.Sprintf(format, args...))
	}
}

// Bytes takes a field, nil when it is absent.
func (r *Fields) Bytes(tag uint64) []byte {
	for i, f := range r.fields {
		if f.Tag == tag {
			r.fields = slices.Delete(r.fields, i, i+1)
			return f.Value
		}
	}
	return nil
}

// Fixed fills dst from a field that must be there with just that length.
func (r *Fields) Fixed(tag uint64, dst []byte) {
	v := r.Bytes(tag)
	if len(v) != len(dst) {
		r.Fail(tag, "%d bytes, want %d", len(v), len(dst))
		return
	}
	copy(dst, v)
}

// Text takes a text field, which is UTF-8.
func (r *Fields) Text(tag uint64) string {
	v := r.Bytes(tag)
	if !utf8.Valid(v) {
		r.Fail(tag, "not UTF-8 text")
		return ""
	}
	return string(v)
}

// Uint takes an integer field.
func (r *Fields) Uint(tag uint64) uint64 {
	v := r.Bytes(tag)
	if v == nil {
		return 0
	}
	d := NewDecoder(v)
	n := d.Uvarint()
	if d.Finish() != nil || n == 0 {
		r.Fail(tag, "not a nonzero integer")
	}
	return n
}

// Time takes a time field.
func (r *Fields) Time(tag uint64) time.Time {
	v := r.Bytes(tag)
	if v == nil {
		return time.Time{}
	}
	d := NewDecoder(v)
	n := d.Svarint()
	if d.Finish() != nil || n == 0 {
		r.Fail(tag, "not a nonzero time")
	}
	return time.Unix(0, n).UTC()
}

// List takes a list of byte strings of at most limit elements.
func (r *Fields) List(tag uint64, limit int) [][]byte {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}
	d := NewDecoder(v)
	n := d.Count(1)
	if n == 0 || n > limit {
		r.Fail(tag, "list of %d elements", n)
		return nil
	}
	out := make([][]byte, n)
	for i := range out {
		out[i] = d.Bytes()
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return out
}

// Finish returns the fields that nobody took, which must be of odd tags, or
// the first error. The unknown fields are copies; nil means that there are none.
func (r *Fields) Finish() ([]Field, error) {
	if r.err != nil {
		return nil, r.err
	}
	for i, f := range r.fields {
		if f.Tag%2 == 0 {
			return nil, fmt.Errorf("field %d is unknown: %w", f.Tag, ErrVersion)
		}
		r.fields[i].Value = slices.Clone(f.Value)
	}
	if len(r.fields) == 0 {
		return nil, nil
	}
	return r.fields, nil
}

// Kind of an object; the numbers are part of the stored format.
type Kind uint8

// Kinds of objects. Section 2 of docs/FORMAT.md has those that are reserved.
const (
	KindDescriptor   Kind = 1
	KindEpoch        Kind = 2
	KindCertificate  Kind = 3
	KindJoinRequest  Kind = 4
	KindPack         Kind = 5
	KindManifest     Kind = 6
	KindIndexRun     Kind = 7
	KindRoot         Kind = 8
	KindTombstone    Kind = 17
	KindDeletion     Kind = 21
	KindAcceptance   Kind = 22
	KindDamageReport Kind = 23
	KindAttestKey    Kind = 24
	KindMark         Kind = 25
	KindCatalogue    Kind = 27
)

var kindNames = [...]string{"object", "descriptor", "epoch", "host certificate", "join request", "pack", "manifest", "index run", "root"}

func (k Kind) String() string {
	switch {
	case int(k) < len(kindNames):
		return kindNames[k]
	case k == KindTombstone:
		return "tombstone"
	case k == KindAttestKey:
		return "attest key certificate"
	case k == KindMark:
		return "mark"
	case k == KindDeletion:
		return "pending deletion"
	case k == KindAcceptance:
		return "acceptance"
	case k == KindDamageReport:
		return "damage report"
	case k == KindCatalogue:
		return "catalogue"
	}
	return fmt.Sprintf("kind-%d object", uint8(k))
}

// PreludeLen is the length of the bytes that every object starts with.
const PreludeLen = 8

const (
	magic   = "KNGD"
	version = 2
)

// AppendPrelude appends the prelude of an object.
func AppendPrelude(b []byte, k Kind) []byte {
	return append(append(b, magic...), byte(k), version, 0, 0)
}

// Prelude reads and checks the prelude of an object of kind k.
func (d *Decoder) Prelude(k Kind) {
	b := d.Take(PreludeLen)
	switch {
	case b == nil:
	case string(b[:4]) != magic:
		d.Fail("this is no object of knowngood")
	case b[5] != version:
		d.err = fmt.Errorf("format version %d, and this program reads %d: %w", b[5], version, ErrVersion)
	case b[6] != 0 || b[7] != 0:
		d.err = fmt.Errorf("required features %02x%02x: %w", b[7], b[6], ErrVersion)
	case Kind(b[4]) != k:
		d.Fail("an object of kind %v, not %v", Kind(b[4]), k)
	}
	if d.err != nil {
		d.off = len(d.buf)
	}
}
