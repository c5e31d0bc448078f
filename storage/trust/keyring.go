package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// maxSessions bounds how many open sessions are remembered.
const maxSessions = 4096

// Keyring has identities and, only in memory, the secrets that they opened. Its
// methods may be called concurrently.
type Keyring struct {
	base   *Base
	epochs *Epochs

	mu           sync.Mutex // locked while an identity is used, so that a hardware key is touched once
	identities   []age.Identity
	fingerprints []string
	secrets      map[seal.EpochID]*seal.EpochSecret
	closed       map[seal.EpochID]error // why the identities do not open an epoch
	owner        ed25519.PrivateKey

	sessionMu sync.Mutex
	sessions  map[seal.SessionID]*seal.Session
}

// Unlock adds identities. They are used when something is to be opened, and
// not before.
func (k *Keyring) Unlock(files ...*identity.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range files {
		k.identities = append(k.identities, f.Identities...)
		for _, text := range f.Recipients {
			k.fingerprints = append(k.fingerprints, layout.RecipientFingerprint(text))
		}
	}
	clear(k.closed)
}

// Unlocked reports whether there are identities.
func (k *Keyring) Unlocked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.identities) > 0
}

// EpochSecret opens what is sealed to an epoch. The error is
// ErrNoUsableIdentity when no identity at hand is a recipient of it, and
// *DamageError when one is, whose wrapped key is missing or damaged.
func (k *Keyring) EpochSecret(ctx context.Context, id seal.EpochID) (*seal.EpochSecret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.secrets[id]; s != nil {
		return s, nil
	}
	if err := k.closed[id]; err != nil {
		return nil, err
	}
	var secret *seal.EpochSecret
	named := func(e *statement.Epoch) bool { return e.ID() == id }
	err := k.unwrap(ctx, layout.PrefixEpochSecrets(id), identity.EpochSecret, named, func(b []byte) error {
		s, err := parseEpochSecret(b, id)
		secret = s
		return err
	})
	if err != nil {
		if !errors.Is(err, ErrNoUsableIdentity) { // which names the recipients
			err = fmt.Errorf("open epoch %v: %w", id, err)
		}
		if errors.Is(err, ErrNoUsableIdentity) || authentic.Damaged(err) {
			k.closed[id] = err
		}
		return nil, err
	}
	k.secrets[id] = secret
	return secret, nil
}

func parseEpochSecret(b []byte, id seal.EpochID) (*seal.EpochSecret, error) {
	s, err := seal.ParseEpochSecret(b)
	if err == nil && s.ID != id {
		err = fmt.Errorf("it is the secret of epoch %v", s.ID)
	}
	return s, err
}

// OwnerKey is the key that certifies hosts and epochs. The error is
// ErrNoUsableIdentity when no identity at hand opens it, and *DamageError when
// the wrapped key of one is missing or damaged.
func (k *Keyring) OwnerKey(ctx context.Context) (ed25519.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owner != nil {
		return k.owner, nil
	}
	named := func(*statement.Epoch) bool { return true }
	err := k.unwrap(ctx, layout.PrefixOwnerSecrets, identity.OwnerSecret, named, func(b []byte) error {
		if len(b) != ed25519.SeedSize {
			return errors.New("it has the wrong length")
		}
		key := ed25519.NewKeyFromSeed(b)
		if !k.base.desc.Owner.Equal(key.Public()) {
			return errors.New("it is another owner's")
		}
		k.owner = key
		return nil
	})
	if errors.Is(err, ErrNoUsableIdentity) {
		return nil, fmt.Errorf("the owner key %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the owner key: %w", err)
	}
	return k.owner, nil
}

// unwrap tries the age files under prefix, those of the known recipients first,
// until use accepts the secret of one. When it accepts none, the recipients of the
// epochs for which named returns true show which age files are missing. k.mu is
// locked.
func (k *Keyring) unwrap(ctx context.Context, prefix, label string, named func(*statement.Epoch) bool, use func([]byte) error) error {
	if len(k.identities) == 0 {
		return &IdentityError{Recipients: k.epochs.recipientNames(ctx)}
	}
	var problems []error
	tried, there := map[string]bool{}, false // age files that are there, and whether any is
	try := func(key string) (opened bool, err error) {
		fingerprint := strings.TrimPrefix(key, prefix)
		others := false // it is of another recipient
		_, err = k.base.Read.Exact(ctx, key, authentic.Want{What: "wrapped key", Limit: identity.MaxWrapped, Verify: func(file []byte) error {
			err := k.open(label, fingerprint, file, use)
			others = errors.Is(err, identity.ErrNoMatch)
			if others {
				return nil
			}
			return err
		}})
		missing := errors.Is(err, storage.ErrNotFound)
		tried[key], there = tried[key] || !missing, there || !missing
		switch {
		case err == nil:
			return !others, nil
		case !authentic.Damaged(err):
			return false, err
		case missing:
			return false, nil
		case k.mayBe(fingerprint):
			problems = append(problems, lostKey(key, err))
		}
		return false, nil
	}
	for _, f := range k.fingerprints {
		if ok, err := try(prefix + f); ok || err != nil {
			return err
		}
	}
	for o, err := range k.base.store.List(ctx, storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			return err
		}
		if slices.Contains(k.fingerprints, strings.TrimPrefix(o.Key, prefix)) {
			continue
		}
		if ok, err := try(o.Key); ok || err != nil {
			return err
		}
	}

	// One that was announced a moment ago has wrapped keys: whatever else names an
	// epoch has no new list of them read.
	epochs, err := k.epochs.announced(ctx, false)
	if err == nil && there && !slices.ContainsFunc(epochs, named) {
		epochs, err = k.epochs.announced(ctx, true)
	}
	if err != nil {
		return err
	}
	announced := false
	for _, e := range epochs {
		if !named(e) {
			continue
		}
		announced = true
		for _, text := range e.Recipients {
			fingerprint := layout.RecipientFingerprint(text)
			if key := prefix + fingerprint; !tried[key] && k.mayBe(fingerprint) {
				tried[key] = true
				problems = append(problems, lostKey(key, errors.New("missing")))
			}
		}
	}
	switch {
	case len(problems) > 0:
		return errors.Join(problems...)
	case !announced: // no identity helps
		return &authentic.DamageError{Key: prefix, What: "epoch", Err: errors.New("the owner announced none of these keys: what names it is forged or damaged")}
	}
	return &IdentityError{Recipients: k.epochs.recipientNames(ctx), Given: true}
}

// mayBe reports whether an identity is, or may be, that of a recipient: not every
// identity reveals its recipient. k.mu is locked.
func (k *Keyring) mayBe(fingerprint string) bool {
	return slices.Contains(k.fingerprints, fingerprint) || len(k.fingerprints) < len(k.identities)
}

// open uses the secret in an age file that was wrapped for the recipient of a
// fingerprint. The error is identity.ErrNoMatch when it is for another recipient.
// k.mu is locked.
func (k *Keyring) open(label, fingerprint string, file []byte, use func([]byte) error) error {
	secret, err := identity.Unwrap(label, file, k.identities...)
	if errors.Is(err, identity.ErrNoMatch) && slices.Contains(k.fingerprints, fingerprint) {
		return errors.New("it does not open with the identity that it is for")
	}
	if err != nil {
		return err
	}
	return use(secret)
}

// ShortRecipient shortens a recipient for a message.
func ShortRecipient(text string) string {
	if len(text) <= 32 {
		return text
	}
	return text[:20] + "…" + text[len(text)-8:]
}

// OpenSession opens a session's secret with an identity.
func (k *Keyring) OpenSession(ctx context.Context, sealed seal.SealedSession) (*seal.Session, error) {
	k.sessionMu.Lock()
	s := k.sessions[sealed.ID]
	k.sessionMu.Unlock()
	if s != nil && s.Epoch == sealed.Epoch && bytes.Equal(s.Sealed, sealed.Sealed) {
		return s, nil
	}
	epoch, err := k.EpochSecret(ctx, sealed.Epoch)
	if err != nil {
		return nil, err
	}
	if s, err = epoch.OpenSession(k.base.ID(), sealed); err != nil {
		return nil, err
	}
	k.sessionMu.Lock()
	defer k.sessionMu.Unlock()
	if k.sessions == nil || len(k.sessions) >= maxSessions {
		k.sessions = map[seal.SessionID]*seal.Session{}
	}
	k.sessions[sealed.ID] = s
	return s, nil
}
