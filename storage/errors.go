package storage

import (
	"errors"
	"fmt"
)

// What callers of a Store branch on.
var (
	ErrNotFound    = errors.New("object does not exist")
	ErrExists      = errors.New("object exists already with other content")
	ErrNoStore     = errors.New("store does not exist") // no such bucket or directory
	ErrDenied      = errors.New("access denied")
	ErrCredentials = errors.New("no usable credentials")
	ErrUnreachable = errors.New("store cannot be reached")
	ErrFull        = errors.New("no space left in the store")
	ErrUnsupported = errors.New("store does not support this")
	ErrInvalidKey  = errors.New("invalid object key")
	ErrStalled     = errors.New("transfer stalled")
	ErrUnavailable = errors.New("store is temporarily unavailable") // throttled, 5xx after retries
	ErrLocked      = errors.New("object is locked")
	// ErrWithheld is an object that the store has and does not give out, whatever
	// the credentials may read: it lies in an archive, or is encrypted with a key
	// of whoever put it there.
	ErrWithheld = errors.New("the store does not give out this object")
	ErrChecksum = errors.New("content does not match its checksum")
	// ErrUnproven is a put that was answered as if it had succeeded, when
	// neither the reply nor reading the object back proves that.
	ErrUnproven = errors.New("the put was answered as done, but the store does not give the object back")
)

// Error is which operation failed on what, and what to do next.
type Error struct {
	Op    string // open, put, get, list, delete, versions, retain, retention
	Store string // URL without secrets
	Key   string
	Err   error
	Hint  string // what the operator can do; may be empty
}

func (e *Error) Error() string {
	if e.Err == ErrNoStore && e.Key == "" && e.Hint != "" {
		return fmt.Sprintf("the store %s does not exist: %s", e.Store, e.Hint)
	}
	s := e.Op
	if e.Key != "" {
		s += " " + e.Key
	}
	if e.Store != "" {
		s += " in " + e.Store
	}
	s = fmt.Sprintf("%s: %v", s, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }
