package inventory

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"knowngood/internal/wire"
)

// ErrDamaged means that a file is not one that Append wrote.
var ErrDamaged = errors.New("the inventory is damaged")

// The layout of the file, integers little-endian; times are nanoseconds since
// 1970, durations nanoseconds:
//
//	magic 8 | wall time i64 | boot time i64 | boot ID 16
//	u32 counts of objects listed, put, lost, and of reports
//	listed: kind u8 | hash 32 | size u64
//	put:    kind u8 | hash 32 | size u64 | time i64
//	lost:   kind u8 | hash 32 | loss u8, 0 for whole again | time i64
//	report: hash 32
//	CRC-32C of all before, u32
const (
	magic      = "KNGDinv2"
	idLen      = 1 + 32
	listedLen  = idLen + 8
	putLen     = listedLen + 8
	lostLen    = idLen + 1 + 8
	reportLen  = 32
	headLen    = 8 + 8 + 8 + 16 + 4*4
	trailerLen = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the inventory as a file holds it.
func (v *Inventory) Append(b []byte) []byte {
	le, start := binary.LittleEndian, len(b)
	b = append(b, magic...)
	b = le.AppendUint64(b, uint64(v.Taken.Wall.UnixNano()))
	b = le.AppendUint64(b, uint64(v.Taken.Boot))
	b = append(b, v.Taken.BootID[:]...)
	for _, n := range [...]int{len(v.listed), len(v.put), len(v.lost), len(v.Reports)} {
		b = le.AppendUint32(b, uint32(n))
	}
	for _, o := range v.listed {
		b = le.AppendUint64(appendID(b, o.ID), o.Size)
	}
	for id, p := range v.put {
		b = le.AppendUint64(appendID(b, id), p.size)
		b = le.AppendUint64(b, uint64(p.at.UnixNano()))
	}
	for id, m := range v.lost {
		b = append(appendID(b, id), byte(m.loss))
		b = le.AppendUint64(b, uint64(m.at.UnixNano()))
	}
	for h := range v.Reports {
		b = append(b, h[:]...)
	}
	return le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendID(b []byte, id ID) []byte { return append(append(b, byte(id.Kind)), id.Hash[:]...) }

// Parse reads what Append wrote; the error is ErrDamaged.
func Parse(b []byte) (*Inventory, error) {
	le := binary.LittleEndian
	if len(b) < headLen+trailerLen || string(b[:len(magic)]) != magic {
		return nil, ErrDamaged
	}
	body := b[:len(b)-trailerLen]
	if crc32.Checksum(body, castagnoli) != le.Uint32(b[len(body):]) {
		return nil, ErrDamaged
	}
	var n [4]int
	for i := range n {
		n[i] = int(le.Uint32(body[headLen-16+4*i:]))
	}
	if headLen+n[0]*listedLen+n[1]*putLen+n[2]*lostLen+n[3]*reportLen != len(body) {
		return nil, ErrDamaged
	}
	taken := Moment{Wall: time.Unix(0, int64(le.Uint64(body[8:]))), Boot: time.Duration(le.Uint64(body[16:])), BootID: [16]byte(body[24:40])}
	rest := body[headLen:]
	take := func(n int) []byte { // the next n bytes
		p := rest[:n]
		rest = rest[n:]
		return p
	}
	listed := make([]Object, n[0])
	for i := range listed {
		p := take(listedLen)
		listed[i] = Object{parseID(p), le.Uint64(p[idLen:])}
	}
	v := New(taken, listed, nil)
	for range n[1] {
		p := take(putLen)
		v.put[parseID(p)] = put{le.Uint64(p[idLen:]), time.Unix(0, int64(le.Uint64(p[listedLen:])))}
	}
	for range n[2] {
		p := take(lostLen)
		if loss := Loss(p[idLen]); loss <= Damaged {
			v.lost[parseID(p)] = mark{loss, time.Unix(0, int64(le.Uint64(p[idLen+1:])))}
		}
	}
	for range n[3] {
		v.Reports[[32]byte(take(reportLen))] = true
	}
	return v, nil
}

func parseID(p []byte) ID { return ID{wire.Kind(p[0]), [32]byte(p[1:idLen])} }
