package repository

import (
	"bytes"
	"context"
	"errors"
	"iter"

	"filippo.io/age"

	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// AuditKeys verifies what opens the repository: that every epoch from the
// first to the newest is there, and for each recipient of it the wrapped keys.
// It yields a *DamageError or *TamperError for each object that is missing or
// does not verify; any other error ends it. What is wrapped for others than
// the identities at hand can be looked at from outside only.
func (r *Repository) AuditKeys(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		a := &audit{Repository: r, ctx: ctx, yield: yield, files: map[string]bool{}}
		if a.epochs("", layout.PrefixEpochs, layout.KeyEpoch, layout.ParseEpochKey, 1) {
			return
		}
		hosts, err := r.Hosts(ctx)
		if err != nil {
			yield(err)
			return
		}
		for _, h := range hosts {
			key := func(n uint64) string { return layout.KeyHostEpoch(h, n) }
			parse := func(k string) (uint64, bool) { _, n, ok := layout.ParseHostEpochKey(k); return n, ok }
			if a.epochs(h, layout.PrefixHostEpochs(h), key, parse, 0) {
				return
			}
		}
	}
}

// AuditCertificates verifies that every certificate of a host is there, from
// the first to that with serial, the highest that is known of; see AuditKeys.
func (r *Repository) AuditCertificates(ctx context.Context, host string, serial uint64) iter.Seq[error] {
	return func(yield func(error) bool) {
		a := &audit{Repository: r, ctx: ctx, yield: yield}
		a.sequence(layout.PrefixCertificates(host), max(serial, 1), "host certificate",
			func(n uint64) string { return layout.KeyCertificate(host, n) },
			func(k string) (uint64, bool) { _, n, ok := layout.ParseCertificateKey(k); return n, ok },
			func(key string, object []byte) error { _, err := r.checkCertificate(key, object); return err })
	}
}

// audit is one run.
type audit struct {
	*Repository
	ctx   context.Context
	yield func(error) bool
	files map[string]bool // wrapped keys looked at
}

// tell passes an error on and says whether the audit has to end.
func (a *audit) tell(err error) (end bool) {
	return err != nil && (!a.yield(err) || !Damaged(err))
}

// epochs verifies the epochs under prefix, of which there are at least known,
// and the keys of each.
func (a *audit) epochs(host, prefix string, key func(uint64) string, parse func(string) (uint64, bool), known uint64) (end bool) {
	var verified []*statement.Epoch
	if a.sequence(prefix, known, "epoch", key, parse, func(key string, object []byte) error {
		e, err := a.checkEpoch(key, object)
		if err == nil {
			verified = append(verified, e)
		}
		return err
	}) {
		return true
	}
	for _, e := range verified {
		for _, recipient := range e.Recipients {
			fp := layout.RecipientFingerprint(recipient)
			if a.wrapped(layout.KeyEpochSecret(e.ID(), fp), fp, identity.EpochSecret, func(b []byte) error { _, err := parseEpochSecret(b, e.ID()); return err }) {
				return true
			}
			// A host chooses recipients without the owner key.
			if host == "" && a.wrapped(layout.KeyOwnerSecret(fp), fp, identity.OwnerSecret, func([]byte) error { return nil }) {
				return true
			}
		}
	}
	return false
}

// sequence verifies objects whose numbers run from 1 without a gap, at least
// up to known.
func (a *audit) sequence(prefix string, known uint64, what string, key func(uint64) string, parse func(string) (uint64, bool), check func(key string, object []byte) error) (end bool) {
	next := uint64(0) // the number that must come next, downwards; 0 at the start
	missing := func(down uint64) bool {
		for n := next; n > down; n-- {
			if a.tell(a.object(key(n), what, check)) {
				return true
			}
			if next-n >= maxGap {
				return false // an absurd number must not take for ever
			}
		}
		return false
	}
	for o, err := range a.store.List(a.ctx, storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			return a.tell(err)
		}
		n, ok := parse(o.Key)
		if !ok {
			continue
		}
		if next == 0 {
			next = max(known, n)
		}
		if missing(n) || a.tell(a.object(o.Key, what, check)) {
			return true
		}
		if next = n - 1; next == 0 {
			return false
		}
	}
	if next == 0 {
		next = known
	}
	return missing(0)
}

// object verifies an object, or a version beneath the current view.
func (a *audit) object(key, what string, check func(key string, object []byte) error) error {
	b, err := readObject(a.ctx, a.store, key)
	missing := errors.Is(err, storage.ErrNotFound)
	if err == nil {
		err = check(key, b)
	}
	if err == nil || !missing && !Damaged(err) {
		return err
	}
	hidden, verr := a.version(a.ctx, key, maxStatement, func(b []byte) bool { return check(key, b) == nil })
	switch {
	case verr != nil:
		return verr
	case hidden != nil:
		a.warnHidden(key, missing)
		return nil
	case missing:
		return &DamageError{Key: key, What: what, Err: err}
	}
	return err
}

// wrapped verifies a wrapped key as far as the identities at hand reach.
func (a *audit) wrapped(key, fingerprint, label string, use func([]byte) error) (end bool) {
	if a.files[key] {
		return false
	}
	a.files[key] = true
	k := &a.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	err := a.object(key, "wrapped key", func(_ string, file []byte) error {
		err := k.open(label, fingerprint, file, use)
		if errors.Is(err, identity.ErrNoMatch) {
			err = outside(file)
		}
		if err != nil {
			return lostKey(key, err)
		}
		return nil
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = lostKey(key, errors.New("missing"))
	}
	return a.tell(err)
}

// outside looks at an age file that is for others.
func outside(file []byte) error {
	_, err := age.Decrypt(bytes.NewReader(file), noIdentity{})
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil
	}
	return err
}

// noIdentity opens nothing.
type noIdentity struct{}

func (noIdentity) Unwrap([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }
