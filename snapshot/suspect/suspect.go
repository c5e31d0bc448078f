// Package suspect finds snapshots whose sources collapsed: those that have so
// much less of a source than the snapshots before that a person should look
// before anything older is forgotten.
//
// It is pure, and judges by the counts per source that every root has. The host
// that captures and whoever prunes for it use the same rule, each with what it
// knows: the host its configuration, the other one nothing but the roots and
// when the store took them.
package suspect

import (
	"slices"
	"time"

	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Window is how far back the snapshots lie that a new one is compared with. It
// ends at the newest good one: a collapse that nobody looks at does not become
// normal after a while.
const Window = 7 * 24 * time.Hour

// DefaultShrink is the percentage of what a source had that it must still have.
const DefaultShrink = 50

// A source below both of these may change as it likes, until it is empty.
const (
	smallFiles = 20
	smallBytes = 16 << 20
)

// Snapshot is what is compared of a snapshot.
type Snapshot struct {
	Number  uint64                   `json:"number"`
	Time    time.Time                `json:"time"` // that the store took it, where that is known
	Domain  seal.DomainID            `json:"domain"`
	Sources []statement.SourceCounts `json:"sources"`
}

// Rule is what is compared.
type Rule struct {
	// Shrink is the percentage of what it had that a source must still have, by
	// its position; 0 is any. nil is DefaultShrink for each.
	Shrink func(source int) int
	// Whole compares all sources together, too, and takes a source that is not
	// there any more for one that is empty. It is for who does not know the
	// configuration, of which whoever took the host over may claim anything.
	Whole bool
}

func (r Rule) shrink(source int) int {
	if r.Shrink == nil || source < 0 {
		return DefaultShrink
	}
	return r.Shrink(source)
}

// Amount is what a source holds.
type Amount struct{ Files, Bytes uint64 }

// Shrunk is a source that has much less than it had.
type Shrunk struct {
	Source      int // its position; -1 for all together, and for one that is not there any more
	Now, Before Amount
	Number      uint64 // of a snapshot that had as much as Before, of files or of bytes
}

// Reference is the good snapshots that a new one is compared with, in the order
// of their numbers. The zero value has none, and nothing is suspect.
type Reference []Snapshot

// Shrunk are the sources of s that have much less than the largest that the
// reference has of each.
func (r Reference) Shrunk(s Snapshot, rule Rule) []Shrunk {
	var out []Shrunk
	judge := func(source int, now Amount, of func(*Snapshot) (Amount, bool)) {
		before, number := r.largest(of)
		if collapsed(now, before, rule.shrink(source)) {
			out = append(out, Shrunk{source, now, before, number})
		}
	}

	for i, c := range s.Sources {
		judge(i, amount(c), func(old *Snapshot) (Amount, bool) { return old.source(s.Domain, c.Tag) })
	}
	if !rule.Whole {
		return out
	}

	judge(-1, s.total(), func(old *Snapshot) (Amount, bool) { return old.total(), true })
	seen := map[[8]byte]bool{}
	for _, old := range r {
		for _, c := range old.Sources {
			if _, there := s.source(old.Domain, c.Tag); there || old.Domain != s.Domain || seen[c.Tag] {
				continue
			}
			seen[c.Tag] = true
			judge(-1, Amount{}, func(old *Snapshot) (Amount, bool) { return old.source(s.Domain, c.Tag) })
		}
	}
	return out
}

// largest is the most files and the most bytes that any snapshot has of
// something, and the number of the last one that has one of the two.
func (r Reference) largest(of func(*Snapshot) (Amount, bool)) (most Amount, number uint64) {
	for i := range r {
		a, there := of(&r[i])
		if there && (a.Files >= most.Files || a.Bytes >= most.Bytes) {
			most, number = Amount{max(a.Files, most.Files), max(a.Bytes, most.Bytes)}, r[i].Number
		}
	}
	return most, number
}

// collapsed reports whether a source has less than a percentage of what it had.
func collapsed(now, before Amount, percent int) bool {
	if percent <= 0 {
		return false
	}
	empty := now.Files == 0 && before.Files > 0 || now.Bytes == 0 && before.Bytes > 0
	if empty || before.Files < smallFiles && before.Bytes < smallBytes {
		return empty
	}
	part := float64(percent) / 100
	return float64(now.Files) < part*float64(before.Files) || float64(now.Bytes) < part*float64(before.Bytes)
}

// With is the reference once s is good, too: without what lies more than Window
// before it, and without snapshots that had nothing more than s.
func (r Reference) With(s Snapshot) Reference {
	out := slices.DeleteFunc(slices.Clone(r), func(old Snapshot) bool {
		return s.Time.Sub(old.Time) > Window || s.covers(&old)
	})
	return append(out, s)
}

// covers reports whether s has as much of every source of another.
func (s *Snapshot) covers(old *Snapshot) bool {
	if s.Domain != old.Domain {
		return false
	}
	for _, c := range old.Sources {
		if a, there := s.source(s.Domain, c.Tag); !there || a.Files < c.Files || a.Bytes < c.Bytes {
			return false
		}
	}
	return true
}

// source is what a snapshot has of a source, whose tag belongs to a domain.
func (s *Snapshot) source(domain seal.DomainID, tag [8]byte) (Amount, bool) {
	if s.Domain != domain {
		return Amount{}, false
	}
	i := slices.IndexFunc(s.Sources, func(c statement.SourceCounts) bool { return c.Tag == tag })
	if i < 0 {
		return Amount{}, false
	}
	return amount(s.Sources[i]), true
}

func (s *Snapshot) total() (sum Amount) {
	for _, c := range s.Sources {
		sum.Files += c.Files
		sum.Bytes += c.Bytes
	}
	return sum
}

func amount(c statement.SourceCounts) Amount { return Amount{c.Files, c.Bytes} }

// History is the judgement on the snapshots of an environment, by the counts of
// only their roots. The zero value has judged none.
type History struct {
	Reference Reference         `json:"reference"`
	Suspect   statement.Numbers `json:"suspect"`
}

// Judge judges the next snapshot, in the order of the numbers. One that was
// accepted is good, and becomes all of the reference.
func (h *History) Judge(s Snapshot, accepted bool, rule Rule) {
	switch {
	case accepted:
		h.Reference = Reference{s}
	case len(h.Reference.Shrunk(s, rule)) > 0:
		h.Suspect = h.Suspect.With(statement.NumbersOf(s.Number))
	default:
		h.Reference = h.Reference.With(s)
	}
}
