package repository

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
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// maxSessions bounds how many open sessions are remembered.
const maxSessions = 4096

// keyring holds, in memory only, what identities opened.
type keyring struct {
	mu           sync.Mutex // held while an identity is used, so that a hardware key is touched once
	identities   []age.Identity
	fingerprints []string
	epochs       map[seal.EpochID]*seal.EpochSecret
	closed       map[seal.EpochID]error // what the identities were found not to open
	owner        ed25519.PrivateKey

	sessionMu sync.Mutex
	sessions  map[seal.SessionID]*seal.Session
}

// Unlock adds identities. They are used when something is to be opened, and
// not before.
func (r *Repository) Unlock(files ...*identity.File) {
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range files {
		k.identities = append(k.identities, f.Identities...)
		for _, text := range f.Recipients {
			k.fingerprints = append(k.fingerprints, layout.RecipientFingerprint(text))
		}
	}
	k.closed = nil
}

// Unlocked says whether any identity is at hand.
func (r *Repository) Unlocked() bool {
	r.keys.mu.Lock()
	defer r.keys.mu.Unlock()
	return len(r.keys.identities) > 0
}

// EpochSecret opens what is sealed to an epoch. The error is
// ErrNoUsableIdentity when no identity at hand is a recipient of it, and
// *DamageError when one is, whose wrapped key is missing or damaged.
func (r *Repository) EpochSecret(ctx context.Context, id seal.EpochID) (*seal.EpochSecret, error) {
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.epochs[id]; s != nil {
		return s, nil
	}
	if err := k.closed[id]; err != nil {
		return nil, err
	}
	var secret *seal.EpochSecret
	named := func(e *statement.Epoch) bool { return e.ID() == id }
	err := r.unwrap(ctx, layout.PrefixEpochSecrets(id), identity.EpochSecret, named, func(b []byte) error {
		s, err := parseEpochSecret(b, id)
		secret = s
		return err
	})
	if err != nil {
		err = fmt.Errorf("open epoch %v: %w", id, err)
		if errors.Is(err, ErrNoUsableIdentity) || Damaged(err) {
			if k.closed == nil {
				k.closed = map[seal.EpochID]error{}
			}
			k.closed[id] = err
		}
		return nil, err
	}
	if k.epochs == nil {
		k.epochs = map[seal.EpochID]*seal.EpochSecret{}
	}
	k.epochs[id] = secret
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
func (r *Repository) OwnerKey(ctx context.Context) (ed25519.PrivateKey, error) {
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owner != nil {
		return k.owner, nil
	}
	named := func(e *statement.Epoch) bool { return e.Host == "" }
	err := r.unwrap(ctx, layout.PrefixOwnerSecrets, identity.OwnerSecret, named, func(b []byte) error {
		if len(b) != ed25519.SeedSize {
			return errors.New("it has the wrong length")
		}
		key := ed25519.NewKeyFromSeed(b)
		if !r.desc.Owner.Equal(key.Public()) {
			return errors.New("it is another owner's")
		}
		k.owner = key
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the owner key: %w", err)
	}
	return k.owner, nil
}

// unwrap tries the age files under prefix, those of the known recipients
// first, until use takes the secret of one. When none does, the epochs that are
// named tell whose age files there must be. The keyring is held.
func (r *Repository) unwrap(ctx context.Context, prefix, label string, named func(*statement.Epoch) bool, use func([]byte) error) error {
	k := &r.keys
	if len(k.identities) == 0 {
		return fmt.Errorf("%w: it takes one of %s; give its file with --identity", ErrNoUsableIdentity, r.recipientNames(ctx))
	}
	var problems []error
	seen := map[string]bool{} // age files that are there
	try := func(key string) (bool, error) {
		fingerprint := strings.TrimPrefix(key, prefix)
		open := func(file []byte) error { return k.open(label, fingerprint, file, use) }
		file, err := readObject(ctx, r.store, key)
		missing := errors.Is(err, storage.ErrNotFound)
		seen[key] = seen[key] || !missing
		if err == nil {
			err = open(file)
		} else if !missing && !Damaged(err) {
			return false, err
		}
		if err == nil || errors.Is(err, identity.ErrNoMatch) {
			return err == nil, nil
		}
		hidden, verr := r.version(ctx, key, identity.MaxWrapped, func(b []byte) bool { return open(b) == nil })
		switch {
		case verr != nil:
			return false, verr
		case hidden != nil:
			r.warnHidden(key, missing)
			return true, nil
		case !missing && k.mayBe(fingerprint):
			problems = append(problems, lostKey(key, err))
		}
		return false, nil
	}
	for _, f := range k.fingerprints {
		if ok, err := try(prefix + f); ok || err != nil {
			return err
		}
	}
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix}) {
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

	epochs, err := r.allEpochs(ctx)
	if err != nil {
		return err
	}
	for _, e := range epochs {
		if !named(e) {
			continue
		}
		for _, text := range e.Recipients {
			fingerprint := layout.RecipientFingerprint(text)
			if key := prefix + fingerprint; !seen[key] && k.mayBe(fingerprint) {
				seen[key] = true
				problems = append(problems, lostKey(key, errors.New("missing")))
			}
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	return fmt.Errorf("%w: it takes one of %s, and the identities given are others", ErrNoUsableIdentity, r.recipientNames(ctx))
}

// mayBe reports whether an identity at hand is, or may be, that of a recipient:
// not every identity tells its own. The keyring is held.
func (k *keyring) mayBe(fingerprint string) bool {
	return slices.Contains(k.fingerprints, fingerprint) || len(k.fingerprints) < len(k.identities)
}

// open uses the secret in an age file that was wrapped for the recipient of a
// fingerprint. identity.ErrNoMatch says that this is another's. The keyring is
// held.
func (k *keyring) open(label, fingerprint string, file []byte, use func([]byte) error) error {
	secret, err := identity.Unwrap(label, file, k.identities...)
	if errors.Is(err, identity.ErrNoMatch) && slices.Contains(k.fingerprints, fingerprint) {
		return errors.New("it does not open with the identity that it is for")
	}
	if err != nil {
		return err
	}
	return use(secret)
}

// recipientNames lists, for a message, the recipients of the repository.
func (r *Repository) recipientNames(ctx context.Context) string {
	e, err := r.newestEpoch(ctx)
	if err != nil {
		return "the repository's recipients"
	}
	names := make([]string, len(e.Recipients))
	for i, text := range e.Recipients {
		names[i] = ShortRecipient(text)
	}
	return strings.Join(names, ", ")
}

// ShortRecipient shortens a recipient for a message.
func ShortRecipient(text string) string {
	if len(text) <= 32 {
		return text
	}
	return text[:20] + "…" + text[len(text)-8:]
}

// OpenSession opens a session's secret with an identity.
func (r *Repository) OpenSession(ctx context.Context, sealed seal.SealedSession) (*seal.Session, error) {
	k := &r.keys
	k.sessionMu.Lock()
	s := k.sessions[sealed.ID]
	k.sessionMu.Unlock()
	if s != nil && s.Epoch == sealed.Epoch && bytes.Equal(s.Sealed, sealed.Sealed) {
		return s, nil
	}
	epoch, err := r.EpochSecret(ctx, sealed.Epoch)
	if err != nil {
		return nil, err
	}
	if s, err = epoch.OpenSession(r.ID(), sealed); err != nil {
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
