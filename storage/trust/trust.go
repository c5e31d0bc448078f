// Package trust decides which keys count in a repository (docs/FORMAT.md sections 4
// and 5). It checks the descriptor against a pin. It has the epochs that the owner
// announced, with their recipients, the hosts that the owner certified, this machine
// as one of them, and the secrets that identities open.
//
// What does not verify is never used. What an identity opens stays in memory.
package trust

import (
	"context"
	"time"

	"knowngood/storage"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Trust is that of one repository. Its parts may be used concurrently.
type Trust struct {
	*Base
	*Keyring
	*Epochs
	*Certified
	*Hosts
}

// Open opens the repository in store. Its descriptor must match the pins given
// and what the state directory remembers of the place. A pin of another place, as of
// a copy, confirms it, too. Without a pin it is trusted on first use, and remembered
// as such until a pin confirms it.
//
// The error is ErrNoRepository when there is none, wire.ErrVersion when it is of
// another version of the format, *authentic.TamperError when it is not the one that
// is remembered, and *PinError when only the pin that the user gave does not match.
func Open(ctx context.Context, store storage.Store, o Options) (*Trust, error) {
	base, err := openBase(ctx, store, o)
	if err != nil {
		return nil, err
	}
	return newTrust(base, o.Fresh), nil
}

func newTrust(base *Base, fresh time.Duration) *Trust {
	t := &Trust{Base: base, Keyring: &Keyring{base: base, secrets: map[seal.EpochID]*seal.EpochSecret{}, closed: map[seal.EpochID]error{}}}
	t.Epochs = &Epochs{base: base, keys: t.Keyring, fresh: fresh}
	t.Epochs.memory = ledger.Remember(t.Epochs.ledger(), base.State, epochFile)
	t.Keyring.epochs = t.Epochs
	t.Certified = &Certified{base: base, fresh: fresh, byKey: map[string]*statement.Certificate{}, listed: map[string]certificateList{}, memories: map[string]*ledger.Newest[*statement.Certificate]{}}
	t.Hosts = &Hosts{base: base, keys: t.Keyring, certs: t.Certified}
	return t
}
