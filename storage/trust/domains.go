package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Domain opens the domain of a root: this host's own, or one that an identity
// opens. It is nil when neither opens it.
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
	if errors.Is(err, ErrNoUsableIdentity) || authentic.Damaged(err) { // Closed returns it
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

// sealedFile is where the domain of this host lies in the state directory, sealed to
// an epoch.
const sealedFile = "sealed-domain"

// SealedDomain is the domain of this host, sealed to an epoch: the same bytes each time,
// so that roots which carry it compress together.
func (t *Trust) SealedDomain(host *Host, epoch *seal.Epoch) ([]byte, error) {
	// What the file begins with also finds a bit that flipped: nobody could open what is
	// sealed under a damaged one.
	sum := func(sealed []byte) []byte {
		h := sha256.New()
		fmt.Fprintf(h, "%s\n%v\n%v\n", host.Name, host.Domain.ID, epoch.ID)
		h.Write(sealed)
		return h.Sum(nil)
	}
	file, err := t.State.Read(sealedFile)
	if err == nil && len(file) > sha256.Size && bytes.Equal(file[:sha256.Size], sum(file[sha256.Size:])) {
		return file[sha256.Size:], nil
	}
	if err != nil {
		t.Warn(err)
	}
	sealed, err := host.Domain.SealTo(epoch, t.ID(), host.Name)
	if err != nil {
		return nil, fmt.Errorf("seal the domain: %w", err)
	}
	if err := t.State.Write(sealedFile, append(sum(sealed), sealed...)); err != nil {
		t.Warn(err)
	}
	return sealed, nil
}

// Closed returns why a snapshot could not be opened: ErrNoUsableIdentity, or
// *DamageError of the wrapped key that it needs.
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
