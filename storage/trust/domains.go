package trust

import (
	"context"
	"errors"
	"fmt"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Domain opens the domain of a root: this host's own, or one that an identity
// opens. It is nil when nothing at hand does.
func (t *Trust) Domain(ctx context.Context, root *statement.Root) (*seal.Domain, error) {
	own, err := t.OwnDomain()
	if err != nil {
		return nil, err
	}
	if own != nil && own.ID == root.Domain {
		return own, nil
	}
	if !t.Unlocked() {
		return nil, nil
	}
	secret, err := t.EpochSecret(ctx, root.Epoch)
	if errors.Is(err, ErrNoUsableIdentity) || authentic.Damaged(err) { // which Closed tells
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	domain, err := secret.OpenDomain(t.ID(), root.Domain, root.Host, root.SealedDomain)
	if err != nil {
		return nil, &authentic.DamageError{Key: layout.KeyRoot(root.Host, root.Environment, root.Number), What: "root", Err: err}
	}
	return domain, nil
}

// Closed is why nothing at hand opens a snapshot that has no body:
// ErrNoUsableIdentity, or *DamageError of the wrapped key that it takes.
func (t *Trust) Closed(ctx context.Context, root *statement.Root) error {
	_, err := t.EpochSecret(ctx, root.Epoch)
	if err == nil {
		err = fmt.Errorf("%w was at hand when it was read", ErrNoUsableIdentity)
	}
	if closed := (*IdentityError)(nil); errors.As(err, &closed) {
		return fmt.Errorf("%s %w", root.Ref(), err)
	}
	return fmt.Errorf("%s: %w", root.Ref(), err)
}
