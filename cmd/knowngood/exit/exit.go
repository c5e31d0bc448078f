// Package exit has the exit codes of the program, and decides which one an error
// means. No other code does.
package exit

import (
	"context"
	"errors"

	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/wire"
	"knowngood/restore"
	"knowngood/restore/generation"
	"knowngood/restore/instance"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/trust"
)

// Exit codes.
const (
	Done         = 0
	Failed       = 1
	Usage        = 2
	Incomplete   = 3
	NoRepository = 10
	Exists       = 11
	NoIdentity   = 12
	Damage       = 13
	ProbeFailed  = 14
	Interrupted  = 130
)

// ErrDamage: a command ended and found damage.
var ErrDamage = errors.New("damage found")

// Code is the exit code of a command that ended with err, which is not nil, and
// with its context as it is now.
func Code(ctx context.Context, err error) int {
	var mistake *usage.Error
	var damage *authentic.DamageError
	var tamper *authentic.TamperError
	var pin *trust.PinError
	switch {
	case ctx.Err() != nil:
		return Interrupted
	case errors.As(err, &mistake), errors.As(err, &pin), errors.Is(err, snapshot.ErrNothing):
		return Usage
	case errors.Is(err, trust.ErrNoRepository), errors.Is(err, storage.ErrNoStore):
		return NoRepository
	case errors.Is(err, trust.ErrRepositoryExists), errors.Is(err, trust.ErrHostExists):
		return Exists
	case errors.Is(err, trust.ErrNoUsableIdentity), errors.Is(err, identity.ErrNoIdentity), errors.Is(err, identity.ErrWrongPassphrase), errors.Is(err, identity.ErrNoPassphrase):
		return NoIdentity
	case errors.Is(err, wire.ErrVersion): // which is no damage, wherever it was met
		return Failed
	case errors.Is(err, restore.ErrIncomplete):
		return Incomplete
	case errors.Is(err, generation.ErrBack), errors.Is(err, generation.ErrProbe), errors.Is(err, instance.ErrProbe):
		return ProbeFailed
	case errors.Is(err, ErrDamage), errors.As(err, &damage), errors.As(err, &tamper):
		return Damage
	}
	return Failed
}
