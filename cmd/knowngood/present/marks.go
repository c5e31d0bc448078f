package present

import (
	"context"

	"knowngood/cmd/knowngood/console"
	"knowngood/internal/printable"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

// Marks are which of the snapshots of an environment are marked bad, by whom and why; empty for
// one that is not.
func Marks(ctx context.Context, out *console.Console, r *repository.Repository, host, environment string) func(*history.Snapshot) string {
	marks, err := r.Attest.Marks(ctx, host, environment)
	if err != nil {
		out.Messagef("it is not known which snapshots of %s are marked bad: %s", environment, printable.Error(err))
	}
	return func(s *history.Snapshot) string {
		switch x := marks.Of(s.Number, s.ID); {
		case x.Bad:
			return "marked bad by " + x.By + ": " + x.Reason
		case x.HostBad:
			return "marked bad by its own host: " + x.HostReason
		}
		return ""
	}
}
