// Package identity reads and makes the keys of people: age identities, which
// open repositories, and recipients, to which repositories are sealed.
//
// Native keys (hybrid post-quantum and X25519), SSH keys and plugins are
// taken; identity files may be protected by a passphrase. It refuses files
// that others on the machine can read where the file system has modes, and
// never prints a secret.
package identity

import (
	"errors"
	"fmt"

	"filippo.io/age"
)

// What callers branch on.
var (
	// ErrNoIdentity means that there is no identity at the place named.
	ErrNoIdentity = errors.New("no identity")
	// ErrWrongPassphrase means that a protected file does not open with the passphrase given.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrNoPassphrase means that a passphrase is needed and no source has one.
	ErrNoPassphrase = errors.New("no passphrase")
	// ErrNoMatch means that none of the identities opens a file.
	ErrNoMatch = errors.New("none of the given identities opens it")
	// ErrFixed means that comments cannot be added to a file: it is of a foreign format.
	ErrFixed = errors.New("nothing can be added to this file")
)

// Kind of a native key.
type Kind int

// Kinds of native keys.
const (
	Hybrid Kind = iota // post-quantum: ML-KEM-768 and X25519
	X25519
)

// Key is a native key pair just made.
type Key struct {
	Age       age.Identity
	Recipient string // the public key
	secret    string
}

// Format prints only the public key, whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, "identity of ", k.Recipient) }

// Generate makes a key pair.
func Generate(kind Kind) (*Key, error) {
	switch kind {
	case Hybrid:
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return nil, err
		}
		return &Key{id, id.Recipient().String(), id.String()}, nil
	case X25519:
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, err
		}
		return &Key{id, id.Recipient().String(), id.String()}, nil
	}
	return nil, fmt.Errorf("kind %d of identities is unknown", kind)
}
