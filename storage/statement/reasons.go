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

// reasons are stored as texts in ascending order, each followed by its numbers.
func reasons(c *wire.Codec, tag uint64, list *[]ForgetReason) {
	var texts []string
	for _, r := range *list {
		texts = append(texts, r.Text, string(r.Numbers.append()))
	}
	if c.Texts(tag, &texts, 2*maxReasons); !c.Reads() {
		return
	}
	if len(texts)%2 != 0 {
		c.Fail(tag, "a reason without numbers")
		return
	}
	before := ""
	for pair := range slices.Chunk(texts, 2) {
		text := pair[0]
		numbers, err := decodeNumbers([]byte(pair[1]))
		switch {
		case err != nil:
			c.Fail(tag, "%v", err)
		case text == "" || len(text) > maxReason || !utf8.ValidString(text):
			c.Fail(tag, "a reason of %d bytes", len(text))
		case before >= text:
			c.Fail(tag, "reasons out of order")
		}
		*list, before = append(*list, ForgetReason{text, numbers}), text
	}
}
