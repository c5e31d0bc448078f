package deletion

import (
	"time"

	"knowngood/storage"
)

// unprovenPuts is the file that remembers that the replies of a store to puts
// prove nothing, so that the end of each object is read back.
const unprovenPuts = "unproven-puts"

// RememberPutProof remembers whether the puts of a run proved that objects arrived.
// An error is only reported: without the file UnprovenPuts knows less.
func (x *Deletion) RememberPutProof(now time.Time) {
	if x.t.State.None() {
		return
	}
	known, err := x.t.State.Read(x.t.State.OfStore(unprovenPuts))
	switch proof := x.putProof(); {
	case err != nil:
	case proof == storage.ProofByReply && known != nil:
		err = x.t.State.Remove(x.t.State.OfStore(unprovenPuts))
	case proof == storage.ProofByReading && known == nil:
		err = x.t.State.Write(x.t.State.OfStore(unprovenPuts), []byte(now.UTC().Format(time.RFC3339)+"\n"))
	}
	if err != nil {
		x.t.Warn(err)
	}
}

func (x *Deletion) putProof() storage.PutProof {
	if p, ok := storage.Capability[storage.Prover](x.t.Store()); ok {
		return p.PutProof()
	}
	return storage.ProofUnknown
}

// UnprovenPuts reports whether the replies of the store to the last puts of this
// machine proved nothing, so that the objects were read back.
func (x *Deletion) UnprovenPuts() bool {
	switch x.putProof() {
	case storage.ProofByReply:
		return false
	case storage.ProofByReading:
		return true
	}
	known, err := x.t.State.Read(x.t.State.OfStore(unprovenPuts))
	return err == nil && known != nil
}
