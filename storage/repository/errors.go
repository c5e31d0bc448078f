package repository

import (
	"errors"
	"fmt"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// What callers branch on. What cannot be read by this version is wire.ErrNewer.
var (
	ErrNoRepository     = errors.New("there is no repository here")
	ErrRepositoryExists = errors.New("there is a repository here already")
	ErrNoUsableIdentity = errors.New("no usable identity")
	ErrNotEnrolled      = errors.New("this machine is not enrolled as a host of the repository")
	ErrHostExists       = errors.New("the host is enrolled already")
	ErrCloned           = errors.New("another machine has the name of this host")
	ErrNoSnapshot       = errors.New("no such snapshot")
	ErrAmbiguous        = errors.New("the reference is ambiguous")
	ErrUnsafeStore      = errors.New("the store replaces existing objects: nothing in it would be safe")
)

// DamageError says that an object is missing or does not verify.
type DamageError struct {
	Key  string // of the object
	What string // what it is
	Err  error
}

func (e *DamageError) Error() string { return fmt.Sprintf("damaged %s %s: %v", e.What, e.Key, e.Err) }

func (e *DamageError) Unwrap() error { return e.Err }

// TamperError says that the store shows something other than what is
// remembered, or hides it: nobody who keeps the rules does that.
type TamperError struct {
	What       string // what was tampered with
	Remembered string
	Found      string
	Hint       string // what the operator can do; may be empty
}

func (e *TamperError) Error() string {
	s := fmt.Sprintf("tampering: %s: remembered %s, found %s", e.What, e.Remembered, e.Found)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// PinError says that a pin was given that is not that of the repository, which
// is the one that is remembered.
type PinError struct {
	Given, Remembered Pin
	URL               string
}

func (e *PinError) Error() string {
	return fmt.Sprintf("the pin given with %s (%x) is not that of the repository at %s (%x, as remembered in %s): a typing mistake, or another repository is meant",
		e.Given.Source, e.Given.Descriptor, e.URL, e.Remembered.Descriptor, e.Remembered.Source)
}

// Damaged says whether err is about the content of the repository rather than
// about reaching it: another copy may heal it, trying again does not.
func Damaged(err error) bool {
	var d *DamageError
	var t *TamperError
	return errors.As(err, &d) || errors.As(err, &t) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, seal.ErrWrongKey)
}
