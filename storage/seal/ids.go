package seal

import (
	"crypto/rand"
	"encoding/hex"
)

// RepositoryID names a repository; it is random.
type RepositoryID [16]byte

// EpochID is the first 8 bytes of SHA-256 of an epoch's public key.
type EpochID [8]byte

// DomainID names a domain; it is derived from the domain's secret.
type DomainID [8]byte

// SessionID names one run of a writer; it is random.
type SessionID [16]byte

// Salt makes a derived key unique to one object.
type Salt [32]byte

func (id RepositoryID) String() string { return hex.EncodeToString(id[:]) }
func (id EpochID) String() string      { return hex.EncodeToString(id[:]) }
func (id DomainID) String() string     { return hex.EncodeToString(id[:]) }
func (id SessionID) String() string    { return hex.EncodeToString(id[:]) }

// NewRepositoryID draws a random ID.
func NewRepositoryID() (id RepositoryID) { rand.Read(id[:]); return id }

// NewSalt draws a random salt.
func NewSalt() (s Salt) { rand.Read(s[:]); return s }
