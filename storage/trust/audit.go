package trust

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"

	"filippo.io/age"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
)

// maxMissing is how many missing numbers of a sequence are named one by one.
const maxMissing = 16

// AuditKeys verifies what opens the repository: that every epoch from the
// first to the newest is there, and for each recipient of it the wrapped keys.
// It yields a *DamageError or *TamperError for each object that is missing or
// does not verify; any other error ends it. Of keys that are wrapped for other
// recipients than the identities at hand only the header is checked.
func (t *Trust) AuditKeys(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		files := map[string]bool{} // wrapped keys that were checked
		for e, err := range complete(ctx, t.Epochs.ledger(), 1, layout.KeyEpoch) {
			if err != nil {
				if !yield(err) || !authentic.Damaged(err) {
					return
				}
				continue
			}
			for _, recipient := range e.Recipients {
				fp := layout.RecipientFingerprint(recipient)
				epoch := func(b []byte) error { _, err := parseEpochSecret(b, e.ID()); return err }
				owner := func([]byte) error { return nil }
				for _, of := range []struct {
					key, label string
					use        func([]byte) error
				}{{layout.KeyEpochSecret(e.ID(), fp), identity.EpochSecret, epoch}, {layout.KeyOwnerSecret(fp), identity.OwnerSecret, owner}} {
					if files[of.key] {
						continue
					}
					files[of.key] = true
					if err := t.Keyring.audit(ctx, of.key, fp, of.label, of.use); err != nil && (!yield(err) || !authentic.Damaged(err)) {
						return
					}
				}
			}
		}
	}
}

// AuditCertificates verifies that every certificate of a host is there, from
// the first to that with serial, the highest known; see AuditKeys.
func (t *Trust) AuditCertificates(ctx context.Context, host string, serial uint64) iter.Seq[error] {
	return func(yield func(error) bool) {
		for _, err := range complete(ctx, t.Certified.ledger(host), max(serial, 1), func(n uint64) string { return layout.KeyCertificate(host, n) }) {
			if err != nil && (!yield(err) || !authentic.Damaged(err)) {
				return
			}
		}
	}
}

// complete yields the entries of a ledger that count, and a *DamageError or
// *TamperError for each that does not, or that is missing: the numbers run from 1
// without a gap, at least up to known.
func complete[T any](ctx context.Context, l *ledger.Ledger[T], known uint64, key func(uint64) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		next := uint64(0) // the number that must come next, downwards; 0 at the start
		missing := func(down uint64) bool {
			for n, named := next, 0; n > down && named < maxMissing; n, named = n-1, named+1 {
				if !yield(none, &authentic.DamageError{Key: key(n), What: l.What, Err: storage.ErrNotFound}) {
					return false
				}
			}
			return true
		}
		for e, err := range l.All(ctx, 1) {
			if err != nil {
				yield(none, err)
				return
			}
			next = cmp.Or(next, max(known, e.Number))
			if !missing(e.Number) || !yield(e.Value, e.Err) {
				return
			}
			if next = e.Number - 1; next == 0 {
				return
			}
		}
		next = cmp.Or(next, known)
		missing(0)
	}
}

// audit verifies a wrapped key, as AuditKeys does.
func (k *Keyring) audit(ctx context.Context, key, fingerprint, label string, use func([]byte) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.base.Read.Exact(ctx, key, authentic.Want{What: "wrapped key", Limit: identity.MaxWrapped, Verify: func(file []byte) error {
		err := k.open(label, fingerprint, file, use)
		if errors.Is(err, identity.ErrNoMatch) {
			err = checkHeader(file)
		}
		if err != nil {
			return lostKey(key, err)
		}
		return nil
	}})
	if errors.Is(err, storage.ErrNotFound) {
		return lostKey(key, errors.New("missing"))
	}
	return err
}

// checkHeader parses the header of an age file without opening it.
func checkHeader(file []byte) error {
	_, err := age.Decrypt(bytes.NewReader(file), noIdentity{})
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil
	}
	return err
}

// noIdentity opens nothing.
type noIdentity struct{}

func (noIdentity) Unwrap([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }
