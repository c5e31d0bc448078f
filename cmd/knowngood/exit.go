package main

import (
	"context"
	"errors"
	"fmt"

	"knowngood/daemon/web"
	"knowngood/internal/wire"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/trust"
)

// Exit codes.
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2
	exitIncomplete   = 3
	exitNoRepository = 10
	exitExists       = 11
	exitNoIdentity   = 12
	exitDamage       = 13
	exitInterrupted  = 130
)

// usageError is a mistake in flags, arguments or configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitCode is the one place that turns errors into exit codes.
func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	var damage *authentic.DamageError
	var tamper *authentic.TamperError
	var pin *trust.PinError
	switch {
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &usage), errors.As(err, &pin), errors.Is(err, snapshot.ErrNothing):
		return exitUsage
	case errors.Is(err, trust.ErrNoRepository), errors.Is(err, storage.ErrNoStore):
		return exitNoRepository
	case errors.Is(err, trust.ErrRepositoryExists), errors.Is(err, trust.ErrHostExists):
		return exitExists
	case errors.Is(err, trust.ErrNoUsableIdentity), errors.Is(err, identity.ErrNoIdentity), errors.Is(err, identity.ErrWrongPassphrase), errors.Is(err, identity.ErrNoPassphrase):
		return exitNoIdentity
	case errors.Is(err, wire.ErrNewer): // which is no damage, wherever it was met
		return exitFailed
	case errors.Is(err, restore.ErrIncomplete):
		return exitIncomplete
	case errors.Is(err, errDamage), errors.As(err, &damage), errors.As(err, &tamper):
		return exitDamage
	}
	return exitFailed
}

// fail tells the error and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	code := exitCode(ctx, err)
	switch {
	case code != exitInterrupted:
	case errors.Is(err, web.ErrGoesOn):
		err = fmt.Errorf("interrupted: %w; knowngood status shows it", web.ErrGoesOn)
	default:
		err = errors.New("interrupted: what was done so far is kept, run the same command again to go on")
	}
	a.result(map[string]any{"type": "error", "error": err.Error(), "exit_code": code})
	text := err.Error()
	if code != exitUsage { // a store or a host may have chosen a part of it
		text = oneLine(err)
	}
	fmt.Fprintf(a.stderr, "knowngood: %s\n", text)
	return code
}
