package wire

import (
	"fmt"
	"math"
	"time"
)

// Codec writes the fields of a record, or reads them, so that code names each field
// once. What is read must pass all checks; what is written is to be read back.
type Codec struct {
	record  *Record // that is written; nil when it reads
	fields  *Fields
	unknown *[]Field
	err     error // that Refuse was called with
}

// Encode is the record whose fields list names.
func Encode(list func(*Codec)) ([]byte, error) {
	c := &Codec{record: &Record{}}
	list(c)
	return c.record.Append(nil), c.err
}

// Decode reads the record whose fields list names.
func Decode(record []byte, list func(*Codec)) error {
	fields, err := ParseRecord(record)
	if err != nil {
		return err
	}
	c := &Codec{fields: fields}
	list(c)
	unknown, err := fields.Finish()
	if err != nil {
		return err
	}
	if c.unknown != nil {
		*c.unknown = unknown
	}
	return c.err
}

// Reads reports whether fields are read.
func (c *Codec) Reads() bool { return c.record == nil }

// Fail makes a field that is read malformed.
func (c *Codec) Fail(tag uint64, format string, args ...any) {
	if c.Reads() {
		c.fields.Fail(tag, format, args...)
	}
}

// Refuse makes err, unless it is nil, the error of a record that is not malformed.
func (c *Codec) Refuse(err error) {
	if c.err == nil {
		c.err = err
	}
}

// Bytes is a field that may be absent, of bytes that are shared with the input.
func (c *Codec) Bytes(tag uint64, v *[]byte) {
	if c.Reads() {
		*v = c.fields.Bytes(tag)
		return
	}
	c.record.Bytes(tag, *v)
}

// Fixed is a required field of exactly len(v) bytes.
func (c *Codec) Fixed(tag uint64, v []byte) {
	if c.Reads() {
		c.fields.Fixed(tag, v)
		return
	}
	c.record.Bytes(tag, v)
}

// Hash is a hash that is absent when it is zero.
func (c *Codec) Hash(tag uint64, v *[32]byte) {
	b := v[:]
	if !c.Reads() && *v == [32]byte{} {
		b = nil
	}
	c.Bytes(tag, &b)
	if c.Reads() && b != nil {
		if len(b) != len(v) || [32]byte(b) == [32]byte{} {
			c.Fail(tag, "no hash: %x", b)
			return
		}
		*v = [32]byte(b)
	}
}

// Text is text that may be empty.
func (c *Codec) Text(tag uint64, v *string) {
	if c.Reads() {
		*v = c.fields.Text(tag)
		return
	}
	c.record.Text(tag, *v)
}

// Uint is an integer from low to high; that of an absent field is 0.
func (c *Codec) Uint(tag uint64, v *uint64, low, high uint64) {
	if !c.Reads() {
		c.record.Uint(tag, *v)
		return
	}
	if *v = c.fields.Uint(tag); *v < low || *v > high {
		c.Fail(tag, "%d is not in %d to %d", *v, low, high)
	}
}

// Bool is an integer, 1 for true.
func (c *Codec) Bool(tag uint64, v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	c.Uint(tag, &n, 0, 1)
	*v = n == 1
}

// Time is a time that may be absent. One outside the range of nanoseconds since 1970
// is refused.
func (c *Codec) Time(tag uint64, v *time.Time) {
	switch t := *v; {
	case c.Reads():
		*v = c.fields.Time(tag)
	case !t.IsZero() && (t.Before(time.Unix(0, math.MinInt64)) || t.After(time.Unix(0, math.MaxInt64))):
		c.Refuse(fmt.Errorf("time %v cannot be stored", t))
	default:
		c.record.Time(tag, t)
	}
}

// Texts is a list of at most limit strings, which need not be UTF-8.
func (c *Codec) Texts(tag uint64, v *[]string, limit int) {
	List(c, tag, v, 1, limit, func(b []byte, s *string) []byte { return AppendBytes(b, *s) }, func(d *Decoder, s *string) { *s = string(d.Bytes()) })
}

// List is a list of at most limit elements, absent when it is empty. Each takes at
// least size bytes; add appends one, and take reads one.
func List[T any](c *Codec, tag uint64, v *[]T, size, limit int, add func([]byte, *T) []byte, take func(*Decoder, *T)) {
	var b []byte
	if !c.Reads() && len(*v) > 0 {
		b = AppendUvarint(nil, uint64(len(*v)))
		for i := range *v {
			b = add(b, &(*v)[i])
		}
	}
	if c.Bytes(tag, &b); c.Reads() && b != nil {
		var err error
		if *v, err = ParseList(b, size, limit, take); err != nil {
			c.Fail(tag, "%v", err)
		}
	}
}

// ParseList reads a list of 1 to limit elements of at least size bytes each.
func ParseList[T any](b []byte, size, limit int, take func(*Decoder, *T)) ([]T, error) {
	d := NewDecoder(b)
	list := TakeList(d, size, limit, take)
	return list, d.Finish()
}

// TakeList reads a list that others follow.
func TakeList[T any](d *Decoder, size, limit int, take func(*Decoder, *T)) []T {
	n := d.Count(size)
	if n == 0 || n > limit {
		d.Fail("a list of %d", n)
		return nil
	}
	list := make([]T, n)
	for i := range list {
		if take(d, &list[i]); d.Err() != nil {
			return nil
		}
	}
	return list
}

// Unknown are the fields that no other call names: those of newer versions, kept.
func (c *Codec) Unknown(v *[]Field) {
	if c.unknown = v; !c.Reads() {
		c.record.Unknown(*v)
	}
}
