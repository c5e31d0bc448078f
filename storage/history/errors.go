package history

import (
	"errors"
	"fmt"
	"strings"
)

// What callers branch on.
var (
	ErrNoSnapshot = errors.New("no such snapshot")
	ErrAmbiguous  = errors.New("the reference is ambiguous")
	// ErrPruned means that a snapshot was forgotten and content of it deleted.
	ErrPruned = errors.New("the snapshot was forgotten and its content deleted")
)

// NoEnvironment is ErrNoSnapshot where a host, or the repository, does not have an
// environment, with those that it has.
func NoEnvironment(where, environment string, have []string) error {
	if len(have) == 0 {
		return &missingError{fmt.Sprintf("%s has no environment %q, nor any other", where, environment)}
	}
	return &missingError{fmt.Sprintf("%s has no environment %q. It has: %s", where, environment, strings.Join(have, ", "))}
}

// missingError is ErrNoSnapshot with a text of its own.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

func (e *missingError) Is(target error) bool { return target == ErrNoSnapshot }
