package statement

import (
	"cmp"
	"fmt"
	"math"

	"knowngood/internal/wire"
)

// Reason why a source is suspect; the numbers are part of the stored format.
type Reason uint8

// Reasons. Shrank compares a source with the snapshots before; the others need
// only the snapshot itself.
const (
	Shrank         Reason = 1 // it has much less than before
	Empty          Reason = 2 // it is empty, and is configured never to be
	NotMounted     Reason = 3 // it is no mount point, and is configured to be one
	LooksEncrypted Reason = 4
)

func (r Reason) String() string {
	switch r {
	case Shrank:
		return "shrank"
	case Empty:
		return "is empty"
	case NotMounted:
		return "is not mounted"
	case LooksEncrypted:
		return "looks encrypted"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Suspicion is a reason why a snapshot is suspect. A suspect snapshot is
// committed and can be restored; until it is accepted it counts neither for
// retention nor as the newest good one.
type Suspicion struct {
	Source int // position among the sources of the snapshot
	Reason Reason
}

// suspicions are those about so many sources, in order.
func suspicions(c *wire.Codec, tag uint64, list *[]Suspicion, sources int) {
	var before *Suspicion
	wire.List(c, tag, list, 2, math.MaxInt, func(b []byte, s *Suspicion) []byte {
		return append(wire.AppendUvarint(b, uint64(s.Source)), byte(s.Reason))
	}, func(d *wire.Decoder, s *Suspicion) {
		source, reason := d.Uvarint(), Reason(d.U8())
		if source >= uint64(sources) || reason == 0 {
			d.Fail("reason %d of source %d of %d", uint8(reason), source, sources)
			return
		}
		*s = Suspicion{int(source), reason}
		if before != nil && cmp.Or(cmp.Compare(before.Source, s.Source), cmp.Compare(before.Reason, s.Reason)) >= 0 {
			d.Fail("reasons out of order")
		}
		before = s
	})
}
