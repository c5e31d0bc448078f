package pack

import "knowngood/storage/seal"

// Ref names a pack or a manifest container and what opens its frames.
type Ref struct {
	Hash    [32]byte       // SHA-256 of the stored bytes: its key
	Session seal.SessionID // whose sealed secret opens it
	Salt    seal.Salt
}
