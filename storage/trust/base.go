package trust

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// MaxStatement is the longest statement that is read here, in bytes; index runs
// are longer.
const MaxStatement = statement.MaxPayload + 256

// Base is what opening a repository's descriptor gives: the store, the verified
// read, what this machine remembers. Its methods may be called concurrently.
type Base struct {
	Read  *authentic.Reader
	State *localstate.State

	store storage.Store
	desc  *statement.Descriptor
	url   string

	mu       sync.Mutex
	unpinned bool                    // trusted on first use, and no pin confirms it
	first    time.Time               // when that was
	report   func(authentic.Finding) // may be nil
}

func newBase(store storage.Store, url string, state localstate.State, report func(authentic.Finding)) *Base {
	b := &Base{State: &state, store: store, url: url, report: report}
	b.Read = authentic.NewReader(store, b.Report)
	return b
}

// Options qualify Open.
type Options struct {
	// StateDir is where this machine remembers; empty for no memory.
	StateDir string
	// Pins come from the configuration and from identity files, and are of the
	// repository at this place: the descriptor must match each.
	Pins []localstate.Pin
	// Given is a pin that the user of the command typed, or nil. The descriptor
	// must match it, too. Where the descriptor matches what is remembered instead, the
	// error is *PinError: that may be a typing mistake, and is no sign of tampering.
	Given *localstate.Pin
	// Known are pins of repositories at other or unknown places. One that the
	// descriptor matches confirms it.
	Known [][32]byte
	// URL names the repository in messages.
	URL string
	// Place under which the repository is remembered: the same for all spellings
	// of its URL. Empty: the URL.
	Place string
	// MachineID distinguishes machines; that of the system when empty.
	MachineID string
	Now       time.Time
	// Fresh is how long epochs and certificates that were read are used before the
	// store is asked again; certificates for a minute at most. 0 asks each time.
	// What this process publishes itself is used at once.
	Fresh time.Duration
	// Report, when set, gets what was found wrong and worked around: hidden and
	// overwritten objects, statements that do not verify, state that could not be
	// written. It is called concurrently, and again when the same is found again.
	Report func(authentic.Finding)
}

// openBase reads the descriptor and compares it with what is known.
func openBase(ctx context.Context, store storage.Store, o Options) (*Base, error) {
	b := newBase(store, o.URL, o.state(), o.Report)
	known, err := b.State.Pin()
	if err != nil {
		return nil, err
	}
	for _, p := range o.Pins {
		if known != nil && known.Descriptor != p.Descriptor {
			return nil, pinMismatch(p.Source, known.Source, known.Descriptor, p.Descriptor)
		}
		known = &p
	}
	remembered := known
	known = cmp.Or(known, o.Given)
	object, err := b.descriptor(ctx, known)
	if err == nil {
		b.desc, err = parseDescriptor(object)
	}
	if errors.Is(err, wire.ErrVersion) {
		if d := (*authentic.DamageError)(nil); errors.As(err, &d) {
			err = d.Err
		}
		return nil, fmt.Errorf("the repository%s: %w", b.where(), err)
	}
	if err != nil {
		return nil, err
	}
	if remembered != nil && o.Given != nil && o.Given.Descriptor != remembered.Descriptor {
		if remembered.OnFirstUse {
			return nil, pinMismatch("the descriptor"+b.where(), o.Given.Source, o.Given.Descriptor, remembered.Descriptor)
		}
		return nil, &PinError{Given: *o.Given, Remembered: *remembered, URL: o.URL}
	}

	b.State.Repository = b.desc.Repository
	onFirstUse := known == nil || known.OnFirstUse
	b.unpinned = onFirstUse && o.Given == nil && !slices.Contains(o.Known, b.desc.Hash()) && !b.State.Confirms(b.desc.Hash())
	b.first = o.Now
	if known != nil && known.OnFirstUse {
		b.first = known.Since
	}
	if err := b.State.RememberPin(o.URL, b.desc, !b.unpinned, o.Now); err != nil {
		if b.unpinned {
			b.Warn(fmt.Errorf("this repository will not be recognised next time: %w", err))
		}
	}
	return b, nil
}

func (o *Options) state() localstate.State {
	place := cmp.Or(o.Place, o.URL)
	return localstate.State{Root: o.StateDir, Machine: o.MachineID, Place: place}
}

// descriptor reads the descriptor of the known pin; with nil the earliest that
// verifies.
func (b *Base) descriptor(ctx context.Context, known *localstate.Pin) (object []byte, err error) {
	w := authentic.Want{What: "descriptor", Limit: MaxStatement}
	if known != nil {
		w.Verify = func(object []byte) error {
			if sum := sha256.Sum256(object); sum != known.Descriptor {
				return pinMismatch("the descriptor"+b.where(), known.Source, known.Descriptor, sum)
			}
			return nil
		}
		object, err = b.Read.Exact(ctx, layout.KeyDescriptor, w)
	} else {
		w.Verify = func(object []byte) error { _, err := parseDescriptor(object); return err }
		var first authentic.Object
		first, err = b.Read.Get(ctx, layout.KeyDescriptor, w)
		object = first.Bytes
	}
	switch {
	case errors.Is(err, storage.ErrNotFound) && known != nil:
		return nil, fmt.Errorf("%w%s, but one is expected there: its pin is known from %s. Check the URL, that the right disk is mounted, and that nobody emptied it", ErrNoRepository, b.where(), known.Source)
	case errors.Is(err, storage.ErrNotFound):
		return nil, fmt.Errorf("%w%s: check the URL, or make one with `knowngood init`", ErrNoRepository, b.where())
	}
	return object, err
}

func pinMismatch(what, source string, remembered, found [32]byte) error {
	return &authentic.TamperError{What: what, Remembered: fmt.Sprintf("pin %x from %s", remembered, source), Found: fmt.Sprintf("%x", found),
		Hint: "the pin is mistyped, the URL is that of another repository, or somebody put a forged one there; if you replaced it yourself, correct the pin, or remove it from where it is remembered"}
}

func parseDescriptor(object []byte) (*statement.Descriptor, error) {
	d, err := statement.ParseDescriptor(object)
	if err == nil {
		err = d.Verify()
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: layout.KeyDescriptor, What: "object", Err: err}
	}
	return d, nil
}

func (b *Base) where() string {
	if b.url == "" {
		return ""
	}
	return " at " + b.url
}

// Store that the repository lies in.
func (b *Base) Store() storage.Store { return b.store }

// ID of the repository.
func (b *Base) ID() seal.RepositoryID { return b.desc.Repository }

// Descriptor of the repository; the caller must not change it.
func (b *Base) Descriptor() *statement.Descriptor { return b.desc }

// URL that the repository was opened by.
func (b *Base) URL() string { return b.url }

// TrustedOnFirstUse reports whether nothing has confirmed the descriptor, neither a
// pin nor a join, and when this machine first saw it.
func (b *Base) TrustedOnFirstUse() (since time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.first, b.unpinned
}

// confirmPin makes the descriptor a pin, because this machine joined as a host.
func (b *Base) confirmPin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.unpinned {
		return nil
	}
	if err := b.State.RememberPin(b.url, b.desc, true, b.first); err != nil {
		return err
	}
	b.unpinned = false
	return nil
}

// Pin is the SHA-256 of the descriptor.
func (b *Base) Pin() [32]byte { return b.desc.Hash() }

// OwnerFingerprint names the owner key: the first 16 bytes of its SHA-256, in
// hexadecimal.
func (b *Base) OwnerFingerprint() string { return Fingerprint(b.desc.Owner) }

// Fingerprint names an Ed25519 public key: the first 16 bytes of its SHA-256,
// in hexadecimal.
func Fingerprint(pub []byte) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:16])
}

// Retention is the lock that the repository asks for on an object made now;
// the zero value is none. It is a quarter longer than the repository's lock
// duration. So an object that every snapshot reuses is locked again only once in
// that quarter.
func (b *Base) Retention(now time.Time) storage.Retention {
	if b.desc.LockMode == "" {
		return storage.Retention{}
	}
	return storage.Retention{Mode: storage.RetentionMode(b.desc.LockMode), Until: now.Add(b.desc.LockDuration + b.desc.LockDuration/4)}
}

// ClaimedProtection is until when all that a snapshot needs is locked, according to
// the root. It is not verified: a host can claim any time in its roots. It is always
// zero where the repository has no lock mode.
func (b *Base) ClaimedProtection(body *statement.RootBody) time.Time {
	if b.desc.LockMode == "" || body == nil {
		return time.Time{}
	}
	return body.ProtectedUntil
}

// Put creates an object under the repository's lock.
func (b *Base) Put(ctx context.Context, key string, object []byte, now time.Time) error {
	return b.store.Put(ctx, key, object, storage.PutOptions{SHA256: sha256.Sum256(object), Retention: b.Retention(now)})
}

// Report passes a finding on.
func (b *Base) Report(f authentic.Finding) {
	b.mu.Lock()
	report := b.report
	b.mu.Unlock()
	if report != nil {
		report(f)
	}
}

// Warn reports an error as a finding.
func (b *Base) Warn(err error) { b.Report(authentic.FindingOf(err)) }

// Divert sends findings to report instead of Options.Report, until restore is called.
func (b *Base) Divert(report func(authentic.Finding)) (restore func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.report
	b.report = report
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.report = before
	}
}
