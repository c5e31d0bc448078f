// Package ledger reads and continues sequences of numbered, signed statements:
// epochs, host certificates, roots, tombstones, acceptances, pending deletions.
// Each number is an object of its own, and a listing yields the highest first.
//
// For each number it promises what the verified read of storage/authentic does.
// Objects that do not count, because they are no statements or because their key
// ended, are skipped. So somebody who may put objects can neither end a sequence nor
// make a taken number look free.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/localstate"
	"knowngood/storage/statement"
)

// Ledger is one sequence.
type Ledger[T any] struct {
	Reader *authentic.Reader
	Prefix string // of the keys
	What   string // what an entry is, for messages
	Limit  int64  // on the size of an entry, in bytes
	Number func(key string) (number uint64, ok bool)
	// Parse reads a statement and checks that it counts.
	Parse func(object []byte) (T, error)
	// Key is where a statement that counts claims to lie.
	Key func(T) string
	// Expect, when set, also checks that an entry is the known one.
	Expect func(number uint64, entry T) error
	// Kept, when set, returns a local copy of a listed object; nil for none.
	Kept func(storage.Object) []byte
	// Seen, when set, is what this machine remembers of the ledger; see Watch.
	Seen *localstate.Statements
	// Beside, when set, is a prefix of other objects that are readable with the same
	// rights as the ledger. It is listed when the store denies an entry.
	Beside string

	mu          sync.Mutex
	asked, open bool // open is whether the store returns other objects, once asked
}

// Entry is what lies at a number.
type Entry[T any] struct {
	Number uint64
	Value  T
	Object []byte         // of Value, or of a statement for which Err wraps statement.ErrEnded
	Stored time.Time      // when the store took it
	Listed storage.Object // as the listing shows it
	// Err is why it does not count, and nil when it does: *authentic.DamageError
	// or *authentic.TamperError. Value is not set then.
	Err error
}

// Counts reports whether the entry verified and no later certificate ended its key.
func (e *Entry[T]) Counts() bool { return e.Err == nil }

// Read reads the entry that a listing shows. The error is of the store.
func (l *Ledger[T]) Read(ctx context.Context, o storage.Object) (Entry[T], error) {
	number, ok := l.Number(o.Key)
	e := Entry[T]{Number: number, Listed: o}
	if !ok {
		e.Err = &authentic.DamageError{Key: o.Key, What: l.What, Err: errors.New("its key is none of such an object")}
		return e, nil
	}
	if l.Kept != nil && !o.Hidden && !o.Older {
		if kept := l.Kept(o); kept != nil && l.take(&e, kept) == nil {
			e.Object, e.Stored = kept, o.Modified
			return e, nil
		}
	}

	var ended []byte
	object, err := l.Reader.Listed(ctx, o, authentic.Want{What: l.What, Limit: l.Limit, Verify: func(object []byte) error {
		err := l.take(&e, object)
		if errors.Is(err, statement.ErrEnded) {
			ended = object
		}
		return err
	}})
	switch {
	case err == nil: // the last call of take was for the object that was returned
		e.Object, e.Stored = object.Bytes, object.Stored
	case errors.Is(err, storage.ErrDenied) && !authentic.Damaged(err):
		if err = l.withheld(ctx, o.Key, err); !authentic.Damaged(err) {
			return e, err
		}
		e.Value, e.Err = *new(T), err
	case authentic.Damaged(err):
		e.Value, e.Err = *new(T), err
		if errors.Is(err, statement.ErrEnded) {
			e.Object = ended
		}
	default:
		return e, err
	}
	return e, nil
}

// Get reads the entry at a number without a listing.
func (l *Ledger[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	for o, err := range l.Reader.Store().List(ctx, storage.ListOptions{Prefix: key, Hidden: true, Limit: 1}) {
		if err != nil {
			return Entry[T]{}, err
		}
		if o.Key == key {
			return l.Read(ctx, o)
		}
	}
	return l.Missing(key), nil
}

// Missing is the entry at a key where nothing is.
func (l *Ledger[T]) Missing(key string) Entry[T] {
	number, _ := l.Number(key)
	return Entry[T]{Number: number, Err: &authentic.DamageError{Key: key, What: l.What, Err: &storage.Error{Op: "get", Key: key, Err: storage.ErrNotFound}}}
}

// take makes the statement the value of e, if it counts there.
func (l *Ledger[T]) take(e *Entry[T], object []byte) error {
	x, err := l.Parse(object)
	if err == nil && l.Key(x) != e.Listed.Key {
		err = fmt.Errorf("it belongs at %s", l.Key(x))
	}
	if err == nil && l.Expect != nil {
		err = l.Expect(e.Number, x)
	}
	if err == nil {
		e.Value = x
	}
	return err
}

// List yields what lies below the prefix, the highest numbers first, and what
// delete markers hide. It reads nothing.
func (l *Ledger[T]) List(ctx context.Context) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range l.Reader.Store().List(ctx, storage.ListOptions{Prefix: l.Prefix, Hidden: true}) {
			if err != nil {
				yield(o, fmt.Errorf("list %s: %w", l.Prefix, err))
				return
			}
			if _, ok := l.Number(o.Key); ok && !yield(o, nil) {
				return
			}
		}
	}
}

// All yields the entries, the highest numbers first, with those that do not count.
// It reads up to ahead of them in advance.
func (l *Ledger[T]) All(ctx context.Context, ahead int) iter.Seq2[Entry[T], error] {
	entries := Ordered(ctx, ahead, l.List, l.Read)
	if l.Seen == nil {
		return entries
	}
	return l.Watch(entries)
}
