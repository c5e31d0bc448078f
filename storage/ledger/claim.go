package ledger

import (
	"context"
	"errors"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
)

// maxTaken is how often others may take the number first, before a claim fails.
const maxTaken = 100

// Numbers are the numbers of a sequence that are taken. Its entries are passed from
// the highest down.
type Numbers struct {
	Newest uint64          // the highest that counts; 0 for none
	taken  map[uint64]bool // those above it whose entries do not count
}

// Pass adds a number that is taken.
func (s *Numbers) Pass(number uint64, counts bool) {
	switch {
	case counts:
		s.Newest = max(s.Newest, number)
	case number > s.Newest:
		if s.taken == nil {
			s.taken = map[uint64]bool{}
		}
		s.taken[number] = true
	}
}

// Free is the lowest number above all that count which is not taken; 0 when there is
// none.
func (s *Numbers) Free() uint64 {
	for n := s.Newest; n < layout.MaxNumber; {
		if n++; !s.taken[n] {
			return n
		}
	}
	return 0
}

// Claim puts a statement at a number that is free, and returns its bytes.
//
// free returns that number, or an error when no statement may be added. encode makes
// the statement for it, or returns nil to give up. put creates the object. When
// another process was faster, all three are called again.
func Claim(ctx context.Context, what string, free func(context.Context) (uint64, error), encode func(number uint64) ([]byte, error), put func(ctx context.Context, number uint64, object []byte) error) ([]byte, error) {
	attempts := Attempts{What: what}
	for {
		number, err := free(ctx)
		if err == nil {
			err = attempts.Try(number)
		}
		if err != nil {
			return nil, err
		}
		object, err := encode(number)
		if err != nil || object == nil {
			return nil, err
		}
		err = put(ctx, number, object)
		if err == nil {
			return object, nil
		}
		if !errors.Is(err, storage.ErrExists) {
			return nil, err
		}
	}
}

// Attempts counts how often one writer tries to claim a number.
type Attempts struct {
	What  string // the sequence, for messages
	tried uint64 // the number of the last attempt
	count int
}

// Try begins an attempt at a number. The error is why it cannot succeed, or why no
// further one should be made.
func (a *Attempts) Try(number uint64) error {
	switch {
	case number == 0 || number > layout.MaxNumber:
		return &authentic.TamperError{What: a.What, Remembered: "numbers that go up by one", Found: fmt.Sprintf("%d, the last there is", uint64(layout.MaxNumber)),
			Hint: "the host's key was taken: enrol it again with `knowngood init --join --reenrol`, which ends what that key signed"}
	case number == a.tried:
		return &authentic.TamperError{What: a.What, Remembered: fmt.Sprintf("that number %d exists, because it cannot be created", number), Found: "none in the listing",
			Hint: "a delete marker hides it, or in a directory another directory has its name: let this machine see the versions of the object, or remove what is in the way"}
	case a.count == maxTaken:
		return &authentic.TamperError{What: a.What, Remembered: "a number that is free", Found: fmt.Sprintf("it taken by others first, %d times", maxTaken),
			Hint: "find out who writes there, and run again"}
	}
	a.tried = number
	a.count++
	return nil
}
