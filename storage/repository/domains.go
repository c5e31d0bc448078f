package repository

import (
	"context"
	"errors"
	"fmt"

	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// domain opens the domain of a root: this host's own, or one that an identity
// opens. It is nil when nothing at hand does.
func (r *Repository) domain(ctx context.Context, root *statement.Root) (*seal.Domain, error) {
	own, err := r.ownDomain()
	if err != nil {
		return nil, err
	}
	if own != nil && own.ID == root.Domain {
		return own, nil
	}
	if !r.Unlocked() {
		return nil, nil
	}
	secret, err := r.EpochSecret(ctx, root.Epoch)
	if errors.Is(err, ErrNoUsableIdentity) || Damaged(err) { // which Closed tells
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	domain, err := secret.OpenDomain(r.ID(), root.Domain, root.Host, root.SealedDomain)
	if err != nil {
		return nil, &DamageError{Key: layout.KeyRoot(root.Host, root.Environment, root.Number), What: "root", Err: err}
	}
	return domain, nil
}

// Closed is why nothing at hand opens a snapshot that has no body:
// ErrNoUsableIdentity, or *DamageError of the wrapped key that it takes.
func (r *Repository) Closed(ctx context.Context, s *Snapshot) error {
	_, err := r.EpochSecret(ctx, s.Root.Epoch)
	if err == nil {
		err = fmt.Errorf("%w was at hand when it was read", ErrNoUsableIdentity)
	}
	return fmt.Errorf("%s: %w", s.Ref(), err)
}

// ownDomain is the domain of this machine's host key; nil when it has none,
// or one that may not be used here.
func (r *Repository) ownDomain() (*seal.Domain, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil {
		return r.host.Domain, nil
	}
	if !r.domainRead {
		k, err := r.hostKey()
		if err != nil && !errors.Is(err, ErrCloned) {
			return nil, err
		}
		if k != nil {
			r.domainOwn = k.domain
		}
		r.domainRead = true
	}
	return r.domainOwn, nil
}
