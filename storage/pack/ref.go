package pack

import (
	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// SmallObject is up to what size an object is read whole, in bytes: its end opens
// it, so that nothing else needs to name what does.
const SmallObject = 64 << 10

// RefMin is the shortest encoding of a Ref to another object, in bytes.
const RefMin = 1 + 32 + 1

// Ref names a pack or a manifest container and what opens its frames. The session
// and the salt are zero when that stands only in the object itself. The zero value is
// the object in which the reference stands.
type Ref struct {
	Kind    wire.Kind
	Hash    [32]byte       // SHA-256 of the stored bytes: its key
	Size    uint64         // stored bytes
	Session seal.SessionID // whose sealed secret opens it
	Salt    seal.Salt
}

// Small reports whether the object is read whole.
func (r *Ref) Small() bool { return r.Size <= SmallObject }

// Append appends the encoded reference to b. That of a small object has no session
// and no salt.
func (r *Ref) Append(b []byte) []byte {
	if b = append(b, byte(r.Kind)); r.Kind == 0 {
		return b
	}
	b = append(b, r.Hash[:]...)
	b = wire.AppendUvarint(b, r.Size)
	if !r.Small() {
		b = append(b, r.Session[:]...)
		b = append(b, r.Salt[:]...)
	}
	return b
}

// ParseRef reads what Append wrote.
func ParseRef(d *wire.Decoder) (r Ref) {
	switch r.Kind = wire.Kind(d.U8()); r.Kind {
	case 0:
		return r
	case wire.KindPack, wire.KindManifest:
	default:
		d.Fail("a reference to a %v", r.Kind)
	}
	d.Copy(r.Hash[:])
	if r.Size = d.UvarintMax(MaxObject); !r.Small() {
		d.Copy(r.Session[:])
		d.Copy(r.Salt[:])
	}
	return r
}
