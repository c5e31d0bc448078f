package statement

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"knowngood/internal/wire"
)

// Numbers is a set of numbers of snapshots, as ascending ranges that neither
// overlap nor touch.
type Numbers []Range

// Range is the numbers from First to Last, both included.
type Range struct{ First, Last uint64 }

// NumbersOf makes a set; the list may be in any order.
func NumbersOf(list ...uint64) Numbers {
	list = slices.Clone(list)
	slices.Sort(list)
	var out Numbers
	for _, n := range list {
		if k := len(out); k > 0 && n <= out[k-1].Last+1 {
			out[k-1].Last = n
			continue
		}
		out = append(out, Range{n, n})
	}
	return out
}

// Has reports whether n is in the set.
func (s Numbers) Has(n uint64) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= n })
	return i < len(s) && s[i].First <= n
}

// Count is how many numbers are in the set.
func (s Numbers) Count() uint64 {
	n := uint64(0)
	for _, r := range s {
		n += r.Last - r.First + 1
	}
	return n
}

// With is the set with the numbers of other too.
func (s Numbers) With(other Numbers) Numbers {
	all := slices.Concat(s, other)
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var out Numbers
	for _, r := range all {
		if k := len(out); k > 0 && r.First <= out[k-1].Last+1 {
			out[k-1].Last = max(out[k-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Without is the set without the numbers of other. It walks through both once,
// because a tombstone may have half a million ranges.
func (s Numbers) Without(other Numbers) Numbers {
	var out Numbers
	for _, r := range s {
		for len(other) > 0 && other[0].Last < r.First {
			other = other[1:]
		}
		for i := 0; i < len(other) && other[i].First <= r.Last && r.First <= r.Last; i++ {
			if o := other[i]; o.First > r.First {
				out = append(out, Range{r.First, o.First - 1})
			}
			r.First = other[i].Last + 1
		}
		if r.First <= r.Last {
			out = append(out, r)
		}
	}
	return out
}

// And is the set of the numbers that are in both.
func (s Numbers) And(other Numbers) Numbers { return s.Without(s.Without(other)) }

// append encodes the set; none is nil.
func (s Numbers) append() []byte {
	if len(s) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(s)))
	end := uint64(0)
	for _, r := range s {
		b = wire.AppendUvarint(b, r.First-end)
		b = wire.AppendUvarint(b, r.Last-r.First+1)
		end = r.Last + 1
	}
	return b
}

// numbers is a set of numbers.
func numbers(c *wire.Codec, tag uint64, s *Numbers) {
	b := s.append()
	if c.Bytes(tag, &b); c.Reads() && b != nil {
		var err error
		if *s, err = decodeNumbers(b); err != nil {
			c.Fail(tag, "%v", err)
		}
	}
}

// decodeNumbers reads what Numbers.append wrote of a set that is not empty.
func decodeNumbers(v []byte) (Numbers, error) {
	end := uint64(0) // the number after the range before
	return wire.ParseList(v, 2, math.MaxInt, func(d *wire.Decoder, r *Range) {
		gap, count := d.Uvarint(), d.Uvarint()
		// Numbers stay below the last there is, so that nothing overflows.
		if gap == 0 || count == 0 || gap >= math.MaxUint64-end || count >= math.MaxUint64-end-gap {
			d.Fail("a range of %d numbers %d after the one before", count, gap)
			return
		}
		r.First = end + gap
		end = r.First + count
		r.Last = end - 1
	})
}
