package storage

import "context"

// PutProof is how the puts of a store are known to have been kept.
type PutProof int

// The ways to know: not at all as long as nothing was put, by a hash in the
// reply to the put, or by reading the object back because the reply names none.
const (
	ProofUnknown PutProof = iota
	ProofByReply
	ProofByReading
)

// Prover is the optional capability to report how puts are proved. Stores without
// it need no proof: no network lies between.
type Prover interface {
	// PutProof returns that of the last put since the store was opened.
	PutProof() PutProof
}

// PlainPutter is the optional capability to put without a condition, as whoever
// has the credentials of a store can. Only probes do that, to find out
// whether create-only is a rule of the store, or only a habit of Put.
type PlainPutter interface {
	// PlainPut makes body the content of key, whatever is there. An error that
	// matches ErrDenied or ErrExists is the refusal of the store.
	PlainPut(ctx context.Context, key string, body []byte) error
}
