package trust

import (
	"errors"
	"fmt"

	"knowngood/storage/localstate"
)

// What callers branch on. What cannot be read by this version is wire.ErrVersion.
var (
	ErrNoRepository     = errors.New("there is no repository")
	ErrRepositoryExists = errors.New("there is a repository here already")
	ErrNoUsableIdentity = errors.New("no usable identity")
	ErrNotEnrolled      = errors.New("this machine is not enrolled as a host of the repository")
	ErrHostExists       = errors.New("the host is enrolled already")
	ErrCloned           = errors.New("another machine has the name of this host")
	ErrUnprotected      = errors.New("an attacker who takes over a host can destroy its history here")
	ErrUnsafeStore      = errors.New("the store replaces existing objects: nothing in it would be safe")
)

// IdentityError is ErrNoUsableIdentity, with the recipients whose identity is needed.
// Its text follows the name of what could not be opened.
type IdentityError struct {
	Recipients string // who can open it
	Given      bool   // there are identities, but of other recipients
}

func (e *IdentityError) Error() string {
	if e.Given {
		return "cannot be opened with this identity. It needs the one of " + e.Recipients
	}
	return "cannot be opened without an identity. It needs the one of " + e.Recipients + ": give its file with --identity"
}

func (e *IdentityError) Is(target error) bool { return target == ErrNoUsableIdentity }

// PinError: the user gave a pin that is not the repository's. The repository has the
// pin that is remembered.
type PinError struct {
	Given, Remembered localstate.Pin
	URL               string
}

func (e *PinError) Error() string {
	return fmt.Sprintf("the pin given with %s (%x) is not that of the repository at %s (%x, as remembered in %s): correct the pin, or the URL",
		e.Given.Source, e.Given.Descriptor, e.URL, e.Remembered.Descriptor, e.Remembered.Source)
}
