// Package wire is the binary vocabulary of the on-store format: canonical
// variable-length integers, byte strings and records (docs/FORMAT.md section
// 2). It is pure. A decoder never panics, never allocates more than its input
// is long, and refuses every encoding but the shortest.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed matches every error of decoding but those of ErrVersion.
var ErrMalformed = errors.New("malformed data")

// ErrVersion: this program does not read the version of the format in which the
// object was written, earlier or later.
var ErrVersion = errors.New("made by another version of the format: use the version of knowngood that made it")

// AppendUvarint appends v in its shortest form.
func AppendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// AppendSvarint appends v zigzag-encoded.
func AppendSvarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}

// AppendBytes appends the length of v and v.
func AppendBytes[T []byte | string](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// Decoder reads values off the front of a byte string. After the first error
// every method returns zero values, and Err and Finish return that error.
type Decoder struct {
	buf []byte
	off int
	err error
}

// NewDecoder reads from b, which it keeps.
func NewDecoder(b []byte) *Decoder { return &Decoder{buf: b} }

// Err is the first error met.
func (d *Decoder) Err() error { return d.err }

// Offset is how many bytes have been read.
func (d *Decoder) Offset() int { return d.off }

// Rest is how many bytes are left.
func (d *Decoder) Rest() int { return len(d.buf) - d.off }

// Finish is the first error met, or an error when bytes are left.
func (d *Decoder) Finish() error {
	if d.err == nil && d.off != len(d.buf) {
		d.Fail("%d bytes too many", len(d.buf)-d.off)
	}
	return d.err
}

// Fail records an error at the present offset, unless one is recorded.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w at byte %d: %s", ErrMalformed, d.off, fmt.Sprintf(format, args...))
		d.off = len(d.buf)
	}
}

// Uvarint reads an integer in its shortest form.
func (d *Decoder) Uvarint() uint64 {
	if d.off < len(d.buf) && d.buf[d.off] < 0x80 {
		v := d.buf[d.off]
		d.off++
		return uint64(v)
	}
	v, n := binary.Uvarint(d.buf[d.off:])
	switch {
	case n <= 0:
		d.Fail("integer cut short or too large")
		return 0
	case n > 1 && d.buf[d.off+n-1] == 0:
		d.Fail("integer not in its shortest form")
		return 0
	}
	d.off += n
	return v
}

// UvarintMax reads an integer of at most limit.
func (d *Decoder) UvarintMax(limit uint64) uint64 {
	v := d.Uvarint()
	if v > limit {
		d.Fail("%d is over the limit of %d", v, limit)
		return 0
	}
	return v
}

// Svarint reads a zigzag integer.
func (d *Decoder) Svarint() int64 {
	v := d.Uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// Count reads the count of a list whose elements take at least size bytes
// each, so that a lying count cannot make the reader allocate.
func (d *Decoder) Count(size int) int {
	v := d.Uvarint()
	if v > uint64(d.Rest()/size) {
		d.Fail("list of %d does not fit", v)
		return 0
	}
	return int(v)
}

// Take reads n bytes, which share memory with the input.
func (d *Decoder) Take(n int) []byte {
	if n < 0 || n > d.Rest() {
		d.Fail("%d bytes wanted, %d left", n, d.Rest())
	}
	if d.err != nil {
		return nil
	}
	b := d.buf[d.off : d.off+n : d.off+n]
	d.off += n
	return b
}

// Bytes reads a length and that many bytes, which share memory with the input.
func (d *Decoder) Bytes() []byte {
	n := d.Uvarint()
	if n > uint64(d.Rest()) {
		d.Fail("%d bytes wanted, %d left", n, d.Rest())
		return nil
	}
	return d.Take(int(n))
}

// Copy fills dst.
func (d *Decoder) Copy(dst []byte) { copy(dst, d.Take(len(dst))) }

// U8 reads one byte.
func (d *Decoder) U8() uint8 {
	if b := d.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// U32 reads a little-endian integer.
func (d *Decoder) U32() uint32 {
	if b := d.Take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}
