package generations

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"knowngood/restore/generation"
)

// ErrInterrupted is about a command that was interrupted; its error has what is live now, and
// what to do next.
var ErrInterrupted = errors.New("interrupted")

// interruptedError is an error with that, which its text need not repeat.
type interruptedError struct{ error }

func (e *interruptedError) Unwrap() []error { return []error{e.error, ErrInterrupted} }

// interrupted is how a command ended with err whose context may have ended, or whose disk
// may be full. Before it changed anything, unchanged is what is as it was; empty later.
func interrupted(ctx context.Context, err error, unchanged string) error {
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	switch {
	case err != nil && ctx.Err() == nil && full && unchanged != "":
		return fmt.Errorf("%w: make room there, then run the same command again; %s as before", err, unchanged)
	case err == nil || ctx.Err() == nil:
		return err
	case unchanged != "":
		err = fmt.Errorf("interrupted: %s as before. What was stored is kept; run the same command again to begin anew", unchanged)
	case errors.Is(err, generation.ErrBack):
		err = fmt.Errorf("%w. To try it anew, run the same command again", err)
	}
	return &interruptedError{err}
}
