package statement

import (
	"cmp"
	"slices"
	"unicode/utf8"

	"knowngood/internal/wire"
)

// ForgetReason is why snapshots were forgotten.
type ForgetReason struct {
	Text    string
	Numbers Numbers // of the snapshots; never empty
}

const (
	// maxReasons is the most reasons that a tombstone has.
	maxReasons = 1024
	// maxReasonBytes bounds what SetReasons keeps, in bytes as stored.
	maxReasonBytes = 64 << 10
)

// ReasonOf is why a snapshot was forgotten; "" when that is not known.
func (x *Tombstone) ReasonOf(number uint64) string {
	for _, r := range x.Reasons {
		if r.Numbers.Has(number) {
			return r.Text
		}
	}
	return ""
}

// SetReasons fills in Reasons. Snapshots that stay forgotten have their reasons from
// the tombstone before, which is nil where there is none. Snapshots that are newly
// forgotten have Reason. Where the list becomes too long, it drops those of older
// snapshots first.
func (x *Tombstone) SetReasons(before *Tombstone) {
	added := x.Forgotten
	x.Reasons = nil
	if before != nil {
		added = x.Forgotten.Without(before.Forgotten)
		for _, r := range before.Reasons {
			gone := r.Numbers.Without(x.Forgotten)
			x.addReason(r.Text, r.Numbers.Without(gone).Without(added))
		}
	}
	x.addReason(x.Reason, added)

	for len(x.Reasons) > maxReasons || reasonBytes(x.Reasons) > maxReasonBytes {
		longest := 0
		for i := range x.Reasons {
			if len(x.Reasons[i].Numbers) > len(x.Reasons[longest].Numbers) {
				longest = i
			}
		}
		r := &x.Reasons[longest]
		if r.Numbers = r.Numbers[(len(r.Numbers)+1)/2:]; len(r.Numbers) == 0 {
			x.Reasons = slices.Delete(x.Reasons, longest, longest+1)
		}
	}
}

func (x *Tombstone) addReason(text string, numbers Numbers) {
	if text == "" || len(numbers) == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(x.Reasons, text, func(r ForgetReason, text string) int { return cmp.Compare(r.Text, text) })
	if !found {
		x.Reasons = slices.Insert(x.Reasons, i, ForgetReason{Text: text})
	}
	x.Reasons[i].Numbers = x.Reasons[i].Numbers.With(numbers)
}

func reasonBytes(reasons []ForgetReason) (n int) {
	for _, r := range reasons {
		n += len(r.Text) + len(r.Numbers.append())
	}
	return n
}

// reasonList is how reasons are stored: texts, each followed by its numbers.
func reasonList(reasons []ForgetReason) (list [][]byte) {
	for _, r := range reasons {
		list = append(list, []byte(r.Text), r.Numbers.append())
	}
	return list
}

// parseReasons takes what reasonList gave: texts in ascending order.
func parseReasons(r *wire.Fields, tag uint64) (out []ForgetReason) {
	list := r.List(tag, 2*maxReasons)
	if len(list)%2 != 0 {
		r.Fail(tag, "a reason without numbers")
		return nil
	}
	for pair := range slices.Chunk(list, 2) {
		text := string(pair[0])
		numbers, err := decodeNumbers(pair[1])
		switch {
		case err != nil:
			r.Fail(tag, "%v", err)
		case text == "" || len(text) > maxReason || !utf8.ValidString(text):
			r.Fail(tag, "a reason of %d bytes", len(text))
		case len(out) > 0 && out[len(out)-1].Text >= text:
			r.Fail(tag, "reasons out of order")
		}
		out = append(out, ForgetReason{text, numbers})
	}
	return out
}
