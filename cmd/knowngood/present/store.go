package present

import (
	"strings"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Weakness is why objects in the store at a URL can be replaced for good, and what
// to do about it.
func Weakness(url string) (why, remedy string) {
	if strings.HasPrefix(url, "file:") || strings.HasPrefix(url, "/") {
		return "a directory keeps no older versions", "Keep it where such a host cannot write, or use a bucket with versions"
	}
	return "the bucket keeps no older versions, and its policy does not demand If-None-Match", "Turn versions on, or use the policy configs/iam/create-only-bucket-policy.json; then run knowngood probe"
}

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

// Unprotected prints a warning where the store at a URL was seen to keep no versions
// and to enforce no create, with the date of that.
func Unprotected(out *console.Console, url string, p *statement.Probe) {
	if p != nil && p.Unprotected() {
		why, remedy := Weakness(url)
		out.Printf("WARNING: %v: %s (probed on %s). %s.\n", trust.ErrUnprotected, why, human.Time(p.At), remedy)
	}
}
