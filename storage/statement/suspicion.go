package statement

import (
	"fmt"

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

// appendSuspicions encodes a list, which must be in order; none is nil.
func appendSuspicions(list []Suspicion) []byte {
	if len(list) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(list)))
	for _, s := range list {
		b = append(wire.AppendUvarint(b, uint64(s.Source)), byte(s.Reason))
	}
	return b
}

// parseSuspicions takes a list about so many sources.
func parseSuspicions(r *wire.Fields, tag uint64, sources int) []Suspicion {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}

	d := wire.NewDecoder(v)
	n := d.Count(2)
	if n == 0 {
		d.Fail("an empty list")
	}
	out := make([]Suspicion, 0, n)
	for i := range n {
		source, reason := d.Uvarint(), Reason(d.U8())
		if d.Err() != nil {
			break
		}
		if source >= uint64(sources) || reason == 0 {
			d.Fail("reason %d of source %d of %d", uint8(reason), source, sources)
			break
		}
		s := Suspicion{int(source), reason}
		if i > 0 && (out[i-1].Source > s.Source || out[i-1].Source == s.Source && out[i-1].Reason >= s.Reason) {
			d.Fail("reasons out of order")
		}
		out = append(out, s)
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return out
}
