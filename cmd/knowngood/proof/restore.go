// Package proof has the commands about what drills proved of snapshots: attestations
// shown, verified and exported, attest keys, marks; and what a restore takes from them.
package proof

import (
	"context"
	"errors"
	"fmt"

	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/internal/printable"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/history"
)

// ErrMarkedBad: a snapshot is marked bad, and was to be restored.
var ErrMarkedBad = errors.New("marked bad")

// BeforeRestore prints why a snapshot is known-good, where it was chosen as that. It
// refuses one that is marked bad, unless anyway is set.
func BeforeRestore(ctx context.Context, sess *session.Session, s *history.Snapshot, anyway bool) error {
	if s.Verdict != nil {
		present.Verdict(sess.Out, s.Environment, s.Verdict)
		return nil // which none is that is marked bad
	}
	standing, err := standingOf(ctx, sess, s)
	if errors.Is(err, storage.ErrDenied) {
		sess.Out.Messagef("warning: these credentials may not read marks/, so it is not known whether %s is marked bad", s.Ref())
		return nil
	}
	if err != nil {
		return err
	}
	if standing.HostBad {
		sess.Out.Messagef("warning: host %s marked %s as bad itself%s", s.Host, s.Ref(), because(standing.HostReason))
	}
	switch {
	case !standing.Bad:
		return nil
	case anyway:
		sess.Out.Messagef("warning: %s is marked bad by %s%s", s.Ref(), standing.By, because(standing.Reason))
		return nil
	}
	return fmt.Errorf("%s is %w by %s%s: restore %s@known-good, or this one with --anyway", s.Ref(), ErrMarkedBad, standing.By, because(standing.Reason), s.Environment)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + printable.Line(reason) + ")"
}

func standingOf(ctx context.Context, sess *session.Session, s *history.Snapshot) (attest.Standing, error) {
	marks, err := sess.Repo.Attest.Marks(ctx, s.Host, s.Environment)
	if err != nil {
		return attest.Standing{}, err
	}
	return marks.Of(s.Number, s.ID), nil
}
