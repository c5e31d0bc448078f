package history

import "errors"

// What callers branch on.
var (
	ErrNoSnapshot = errors.New("no such snapshot")
	ErrAmbiguous  = errors.New("the reference is ambiguous")
	// ErrPruned says that a snapshot was forgotten and content of it deleted.
	ErrPruned = errors.New("the snapshot was forgotten and its content deleted")
)
