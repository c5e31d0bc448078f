package trust

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// DefaultPackSize is the size of packs where InitOptions has none, in bytes.
const DefaultPackSize = 16 << 20

// Lock is the Object Lock that a repository asks for on what is written to it.
type Lock struct {
	Mode storage.RetentionMode // empty for none
	Keep time.Duration         // a multiple of one second
}

// MaxLock is the longest that objects can be locked for: 80 years. With the
// quarter that Retention adds it is 100, the most that Amazon S3 takes.
const MaxLock = 80 * 365 * 24 * time.Hour

// Check reports what is wrong with the lock.
func (l Lock) Check() error {
	lower := func(m storage.RetentionMode) string { return strings.ToLower(string(m)) } // as people write it
	switch {
	case l.Mode != "" && l.Mode != storage.Governance && l.Mode != storage.Compliance:
		return fmt.Errorf("%q is not a lock mode: use %s or %s", lower(l.Mode), lower(storage.Compliance), lower(storage.Governance))
	case (l.Mode == "") != (l.Keep == 0) || l.Keep < 0:
		return errors.New("a lock takes both a mode and a duration")
	case l.Keep > MaxLock:
		return fmt.Errorf("a lock for %d days is too long: the most is %d days (80 years)", l.Keep/(24*time.Hour), MaxLock/(24*time.Hour))
	case l.Keep%time.Second != 0:
		return fmt.Errorf("a lock for %v: use whole seconds", l.Keep)
	}
	return nil
}

// InitOptions are how a repository is made. Recipients, Host and StateDir are
// required. The others have defaults.
type InitOptions struct {
	Recipients []string // who can read: age recipients
	Host       string   // the name of this machine
	StateDir   string
	URL        string // as in OpenOptions
	Place      string // as in OpenOptions
	MachineID  string // that of the system when empty
	Chunker    chunk.Params
	PackSize   uint32 // bytes
	Lock       Lock
	// Protected refuses a store in which a host can replace objects irrecoverably:
	// ErrUnprotected.
	Protected bool
	Now       time.Time
	Report    func(authentic.Finding) // as in Options; may be nil
}

// InitResult is what a person needs to know about a new repository.
type InitResult struct {
	Pin              [32]byte
	OwnerFingerprint string
	Epoch            seal.EpochID
	Recipients       []Recipient
	Probe            statement.Probe
}

// Init makes a repository in store and enrols this machine as its first host.
// The descriptor is written last: after a run that failed Init can run on the same
// store again. The error is
// ErrRepositoryExists when there is a repository, ErrUnsafeStore when the
// store would replace objects although they are put with a condition.
func Init(ctx context.Context, store storage.Store, o InitOptions) (*Trust, *InitResult, error) {
	recipients, err := o.complete()
	if err != nil {
		return nil, nil, err
	}
	switch _, err := authentic.AtMost(ctx, nil, store, layout.KeyDescriptor, 0, MaxStatement); {
	case err == nil || authentic.Damaged(err):
		return nil, nil, fmt.Errorf("%w: use it with `knowngood init --join`, or choose another URL", ErrRepositoryExists)
	case !errors.Is(err, storage.ErrNotFound):
		return nil, nil, err
	}
	probe, err := probeStore(ctx, store, layout.PrefixProbes, o.Now)
	if err != nil {
		return nil, nil, fmt.Errorf("probe the store: %w", err)
	}
	if o.Protected && probe.Unprotected() {
		return nil, nil, ErrUnprotected
	}
	t := newTrust(newBase(store, o.URL, (&Options{StateDir: o.StateDir, URL: o.URL, Place: o.Place, MachineID: o.MachineID}).state(), o.Report), 0)
	owner, err := t.describe(o, probe)
	if err != nil {
		return nil, nil, err
	}
	// The state directory comes first: one that is full must not leave a
	// repository whose first host is lost.
	cert, err := t.firstHost(o, owner)
	if err != nil {
		return nil, nil, err
	}
	epoch, err := t.publish(ctx, o, owner, recipients)
	if err == nil {
		err = t.State.RememberPin(o.URL, t.desc, true, o.Now)
	}
	if err != nil {
		return nil, nil, errors.Join(err, t.forget())
	}
	if err := t.Certified.publish(ctx, cert, o.Now); err != nil {
		return nil, nil, fmt.Errorf("%w (the next run does so again)", err)
	}
	return t, &InitResult{Pin: t.Pin(), OwnerFingerprint: t.OwnerFingerprint(), Epoch: epoch, Recipients: recipients, Probe: *probe}, nil
}

// complete sets defaults and refuses what is not valid.
func (o *InitOptions) complete() ([]Recipient, error) {
	if err := layout.ValidName(o.Host); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	if o.StateDir == "" {
		return nil, errors.New("init needs a state directory: choose one with --state-dir")
	}
	o.Chunker = cmp.Or(o.Chunker, chunk.DefaultParams())
	if err := o.Chunker.Validate(); err != nil {
		return nil, err
	}
	o.PackSize = cmp.Or(o.PackSize, DefaultPackSize)
	if err := o.Lock.Check(); err != nil {
		return nil, err
	}
	return parseRecipients(o.Recipients)
}

// describe generates the owner key and makes the descriptor.
func (t *Trust) describe(o InitOptions, probe *statement.Probe) (ed25519.PrivateKey, error) {
	public, owner, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	d := &statement.Descriptor{
		Repository: seal.NewRepositoryID(), Owner: public, Created: o.Now,
		ChunkMin: o.Chunker.Min, ChunkAverage: o.Chunker.Avg, ChunkMax: o.Chunker.Max, PackSize: o.PackSize,
		LockMode: string(o.Lock.Mode), LockDuration: o.Lock.Keep, Probe: probe,
	}
	object, err := d.Encode(owner)
	if err != nil {
		return nil, err
	}
	if t.desc, err = parseDescriptor(object); err != nil {
		return nil, err
	}
	t.State.Repository = t.desc.Repository
	return owner, nil
}

// firstHost makes the keys of the first host and keeps them.
func (t *Trust) firstHost(o InitOptions, owner ed25519.PrivateKey) (*statement.Certificate, error) {
	k, err := t.Hosts.newHostKey(o.Host)
	if err != nil {
		return nil, err
	}
	cert, err := signCertificate(owner, &statement.Certificate{Repository: t.ID(), Host: o.Host, Serial: 1, HostKey: k.public(), Issued: o.Now})
	if err != nil {
		return nil, err
	}
	k.certificate = cert.Bytes()
	return cert, t.Hosts.keep(k)
}

// publish writes the first epoch, the wrapped keys and, last, the descriptor.
func (t *Trust) publish(ctx context.Context, o InitOptions, owner ed25519.PrivateKey, recipients []Recipient) (seal.EpochID, error) {
	secret, err := seal.NewEpochSecret()
	if err != nil {
		return seal.EpochID{}, err
	}
	if _, err := t.wrapEpoch(ctx, secret, recipients, o.Now); err != nil {
		return seal.EpochID{}, err
	}
	for _, rc := range recipients {
		if _, err := t.wrap(ctx, layout.KeyOwnerSecret(rc.Fingerprint), identity.OwnerSecret, owner.Seed(), rc, o.Now); err != nil {
			return seal.EpochID{}, err
		}
	}
	// A run that failed before its descriptor may have left an epoch of another
	// owner. Such an epoch is ignored.
	first := &statement.Epoch{}
	if err := t.Epochs.announce(ctx, &statement.Epoch{PublicKey: secret.Public(), Recipients: texts(recipients)}, first, owner, o.Now); err != nil {
		return seal.EpochID{}, err
	}
	if _, err := t.Epochs.newest(ctx); err != nil { // which remembers it
		return seal.EpochID{}, err
	}
	err = t.Put(ctx, layout.KeyDescriptor, t.desc.Bytes(), o.Now)
	if errors.Is(err, storage.ErrExists) {
		err = fmt.Errorf("%w: another process made it just now", ErrRepositoryExists)
	}
	return secret.ID, err
}

// forget removes the state of a repository that was not completed.
func (t *Trust) forget() error {
	if err := t.State.Dir().RemoveAll(); err != nil {
		return t.State.Wrap(err)
	}
	return nil
}
