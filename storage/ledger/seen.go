package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// maxChanged is how many entries are reported one by one in one pass.
const maxChanged = 16

// Watch yields entries unchanged, which come the highest numbers first. It remembers
// the hashes of those that count. It reports those that counted when this machine saw
// them and are now missing or replaced. It does not report one whose certificate has
// ended since.
func (l *Ledger[T]) Watch(entries iter.Seq2[Entry[T], error]) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		known, err := l.Seen.All()
		if err != nil {
			l.Reader.Report(authentic.FindingOf(err))
		}
		left := slices.Sorted(maps.Keys(known)) // that did not come yet
		fresh := map[uint64][32]byte{}
		defer func() {
			if err := l.Seen.Add(fresh); err != nil {
				l.Reader.Report(authentic.FindingOf(fmt.Errorf("whether %s is replaced may go unnoticed: %w", l.Prefix, err)))
			}
		}()

		reported := 0
		changed := func(number uint64, found string) {
			if reported++; reported > maxChanged {
				return
			}
			key := l.Prefix + layout.Inverted(number)
			l.Reader.Report(authentic.FindingOf(&authentic.TamperError{What: l.What + " " + key, Key: key, Remembered: fmt.Sprintf("%x", known[number]), Found: found,
				Hint: "it counted when this machine saw it, and nobody who keeps the rules removes or replaces it: find out who wrote there. What is remembered lies in " + l.Seen.Path()}))
		}
		// down passes what should have come before a number.
		down := func(number uint64) {
			for ; len(left) > 0 && left[len(left)-1] > number; left = left[:len(left)-1] {
				changed(left[len(left)-1], "none")
			}
		}

		for e, err := range entries {
			if err != nil {
				if !yield(e, err) {
					return
				}
				left = nil // without a complete listing none is known to be missing
				continue
			}
			down(e.Number)
			if len(left) > 0 && left[len(left)-1] == e.Number {
				left = left[:len(left)-1]
			}
			hash, seen := known[e.Number]
			switch {
			case e.Counts() && !seen:
				fresh[e.Number] = sha256.Sum256(e.Object)
			case e.Counts() || seen && errors.Is(e.Err, statement.ErrEnded):
				if found := sha256.Sum256(e.Object); found != hash {
					changed(e.Number, fmt.Sprintf("%x", found))
				}
			case seen && errors.Is(e.Err, storage.ErrNotFound):
				changed(e.Number, "none")
			case seen:
				changed(e.Number, "what does not verify")
			}
			if !yield(e, nil) {
				return
			}
		}
		down(0)
	}
}
