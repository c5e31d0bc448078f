package statement

import (
	"knowngood/internal/wire"
	"knowngood/storage/layout"
)

// Head names a root of an environment.
type Head struct {
	Environment string
	Number      uint64 // from 1
	Hash        [32]byte
}

// MaxHeads is how many heads a certificate or a root names at most. It keeps a
// statement below its size limit, even where an attacker with a host's key makes
// many environments.
const MaxHeads = 1024

// heads are sorted by environment.
func heads(c *wire.Codec, tag uint64, list *[]Head) {
	var before *Head
	wire.List(c, tag, list, 1+1+1+32, MaxHeads, func(b []byte, h *Head) []byte {
		b = wire.AppendUvarint(wire.AppendBytes(b, h.Environment), h.Number)
		return append(b, h.Hash[:]...)
	}, func(d *wire.Decoder, h *Head) {
		*h = Head{Environment: string(d.Bytes()), Number: d.Uvarint()}
		d.Copy(h.Hash[:])
		if err := layout.ValidName(h.Environment); err != nil {
			d.Fail("%v", err)
		}
		if h.Number == 0 || h.Number > layout.MaxNumber {
			d.Fail("root number %d", h.Number)
		}
		if before != nil && before.Environment >= h.Environment {
			d.Fail("environments out of order")
		}
		before = h
	})
}
