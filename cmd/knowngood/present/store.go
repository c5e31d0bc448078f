package present

import (
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// protect is what to do about a store where objects can be replaced for good.
const Protect = "Turn versions on in the bucket, or demand If-None-Match by a policy (configs/iam/create-only-bucket-policy.json); `knowngood probe` then tests it again. A directory can do neither: keep it where a host that may be taken over cannot write"

// storeJSON is what is known of a store as --json prints it.
type storeJSON struct {
	VersionsKept   bool      `json:"versions_kept"`
	CreateEnforced bool      `json:"create_enforced"`
	Unprotected    bool      `json:"unprotected"` // neither of both
	Probed         time.Time `json:"probed"`
}

// StoreJSON is nil where nothing is known.
func StoreJSON(p *statement.Probe) *storeJSON {
	if p == nil {
		return nil
	}
	return &storeJSON{p.VersionsKept, p.PlainPutRefused, p.Unprotected(), p.At.UTC()}
}

// Unprotected prints a warning where the store was seen to keep no versions
// and to enforce no create, with the date of that.
func Unprotected(out *console.Console, p *statement.Probe) {
	if p != nil && p.Unprotected() {
		out.Printf("WARNING: %s.\n  As probed on %s. %s.\n", trust.Unprotected, human.Time(p.At), Protect)
	}
}
