package repository

import (
	"time"

	"knowngood/storage"
)

// unprovenPuts is the file that remembers that the replies of a store to puts
// prove nothing, so that the end of each object is read back.
const unprovenPuts = "unproven-puts"

// rememberPutProof keeps what the puts of a run showed of the store. That it
// cannot be kept is only a loss for those who ask.
func (r *Repository) rememberPutProof(now time.Time) {
	if r.local.stateDir == "" {
		return
	}
	known, err := r.local.read(ofStore(r.place, unprovenPuts))
	switch proof := r.putProof(); {
	case err != nil:
	case proof == storage.ProofByReply && known != nil:
		err = r.local.remove(ofStore(r.place, unprovenPuts))
	case proof == storage.ProofByReading && known == nil:
		err = r.local.write(ofStore(r.place, unprovenPuts), []byte(now.UTC().Format(time.RFC3339)+"\n"))
	}
	if err != nil {
		r.warn(err)
	}
}

func (r *Repository) putProof() storage.PutProof {
	if p, ok := storage.Capability[storage.Prover](r.store); ok {
		return p.PutProof()
	}
	return storage.ProofUnknown
}

// UnprovenPuts reports whether the replies of the store to puts prove nothing,
// as far as this machine has seen: what it put last was read back.
func (r *Repository) UnprovenPuts() bool {
	switch r.putProof() {
	case storage.ProofByReply:
		return false
	case storage.ProofByReading:
		return true
	}
	known, err := r.local.read(ofStore(r.place, unprovenPuts))
	return err == nil && known != nil
}
