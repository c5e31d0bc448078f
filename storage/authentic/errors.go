package authentic

import (
	"errors"
	"fmt"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/seal"
)

// DamageError is about an object that is missing or does not verify. One that is
// missing wraps storage.ErrNotFound.
type DamageError struct {
	Key  string // of the object
	What string // what it is
	Err  error
}

func (e *DamageError) Error() string {
	if errors.Is(e.Err, storage.ErrNotFound) {
		return fmt.Sprintf("%s %s is missing in the store", e.What, e.Key)
	}
	if errors.Is(e.Err, wire.ErrVersion) {
		return fmt.Sprintf("%s %s: %v", e.What, e.Key, e.Err)
	}
	return fmt.Sprintf("damaged %s %s: %v", e.What, e.Key, e.Err)
}

func (e *DamageError) Unwrap() error { return e.Err }

// TamperError is about a store that shows something other than what is
// remembered, or hides it. The program itself never causes that.
type TamperError struct {
	What       string // what was tampered with
	Key        string // of the object; empty when it is about none
	Remembered string
	Found      string
	Since      time.Time // when the store took what was found; zero when that is not known
	Hint       string    // what the operator can do; may be empty
}

func (e *TamperError) Error() string {
	s := fmt.Sprintf("tampering: %s: remembered %s, found %s", e.What, e.Remembered, e.Found)
	if !e.Since.IsZero() {
		s += " since " + e.Since.UTC().Format(time.RFC3339)
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Damaged reports whether err is about the content of the repository, and not about
// the access to it: another copy may repair it, trying again does not help.
func Damaged(err error) bool {
	var d *DamageError
	return errors.As(err, &d) || Tampered(err) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, seal.ErrWrongKey)
}

// Tampered reports whether err is, or wraps, a *TamperError.
func Tampered(err error) bool {
	var t *TamperError
	return errors.As(err, &t)
}

// Unverified reports whether an object is missing or does not verify, and nothing
// that is remembered shows what it was.
func Unverified(err error) bool { return Damaged(err) && !Tampered(err) }
