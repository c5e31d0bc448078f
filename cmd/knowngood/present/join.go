package present

import (
	"fmt"

	"knowngood/cmd/knowngood/console"
	"knowngood/storage/repository"
)

// Join prints what the two sides of a join compare: the key of the host, and
// which repository is meant.
func Join(out *console.Console, r *repository.Repository, key string) {
	out.Printf("\n  host key   %s\n  owner      %s\n  pin        %x\n\n", key, r.OwnerFingerprint(), r.Pin())
}

// JoinJSON is Join for --json, with more fields.
func JoinJSON(r *repository.Repository, key string, fields map[string]any) map[string]any {
	fields["type"], fields["host_key"], fields["owner"], fields["pin"] = "result", key, r.OwnerFingerprint(), fmt.Sprintf("%x", r.Pin())
	_, fields["trusted_on_first_use"] = r.TrustedOnFirstUse()
	return fields
}
