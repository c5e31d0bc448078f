package repository

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// maxStatement is the longest statement that is read here, in bytes.
const maxStatement = statement.MaxPayload + 256

// maxWarnings bounds what waits to be told.
const maxWarnings = 1000

// Repository is an open repository. Its methods may be called concurrently.
type Repository struct {
	store storage.Store
	desc  *statement.Descriptor
	url   string
	place string // names the store, however its URL is spelled
	local local
	first bool // trusted on first use
	keys  keyring
	certs certificates

	freshFor  time.Duration // how long what was listed counts
	keepIndex time.Duration // how long a look at index runs counts
	warm      warm

	mu          sync.Mutex
	epochSeen   epochSeen
	host        *Host        // loaded and checked
	domainOwn   *seal.Domain // of the host key, once domainRead
	domainRead  bool
	inventories map[seal.DomainID]*ownInventory
	warnings    []error
	warned      map[string]bool
}

// OpenOptions qualify Open.
type OpenOptions struct {
	// StateDir is where this machine remembers; empty for no memory.
	StateDir string
	// Pins are what is known from elsewhere of the repository at this place: the
	// descriptor must match each.
	Pins []Pin
	// Given is a pin that the user of the command typed, or nil. The descriptor
	// must match it, too; where it matches what is remembered instead, the error is
	// *PinError: that may be a typing mistake, and is no sign of tampering.
	Given *Pin
	// Known are the pins of repositories whose place is not said, or is another:
	// one that the descriptor matches vouches for it.
	Known [][32]byte
	// URL by which the repository is named in messages.
	URL string
	// Place under which the repository is remembered: the same for all spellings
	// of its URL. Empty: the URL.
	Place string
	// MachineID tells machines apart; that of the system when empty.
	MachineID string
	Now       time.Time
	// Fresh is how long a look at epochs counts before the store is asked again,
	// and one at certificates, which counts for a minute at most; 0 asks each
	// time. What this Repository publishes itself it sees at once.
	Fresh time.Duration
	// KeepIndex keeps the index of the host's own domain open between runs,
	// until Close: this is how long a look at what other processes of the host
	// wrote counts, at most half a day. 0 opens it for each run.
	KeepIndex time.Duration
}

// Pin is the SHA-256 of a repository's descriptor, known from elsewhere.
type Pin struct {
	Descriptor [32]byte
	Source     string // where it is known from, for messages
}

// Open opens the repository in store. Its descriptor must match the pins given
// and what the state directory remembers of the place. A pin that is known of
// another place, as of a copy, vouches for it, too. With none it is trusted on
// first use, and remembered. The error is ErrNoRepository when
// there is none, wire.ErrNewer when it needs a newer version, *TamperError
// when it is not the one that is remembered, and *PinError when it is, and is not
// the one that was given.
func Open(ctx context.Context, store storage.Store, o OpenOptions) (*Repository, error) {
	r := &Repository{store: store, url: o.URL, place: cmp.Or(o.Place, o.URL), local: local{stateDir: o.StateDir, machine: o.MachineID}, freshFor: o.Fresh, keepIndex: o.KeepIndex}
	known, err := r.local.pin(r.place)
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
	if known == nil {
		known = o.Given
	}
	object, err := r.descriptor(ctx, known)
	if err != nil {
		return nil, err
	}
	if remembered != nil && o.Given != nil && o.Given.Descriptor != remembered.Descriptor {
		return nil, &PinError{Given: *o.Given, Remembered: *remembered, URL: o.URL}
	}
	if r.desc, err = parseDescriptor(object); err != nil {
		return nil, err
	}
	r.local.repo = r.desc.Repository
	r.first = known == nil && !slices.Contains(o.Known, r.desc.Hash()) && !r.local.knows(r.desc.Hash())
	if err := r.local.rememberPin(r.place, o.URL, r.desc, o.Now); err != nil {
		if r.first {
			r.warn(fmt.Errorf("this repository will not be recognised next time: %w", err))
		}
	}
	return r, nil
}

// descriptor reads the descriptor, from beneath the current view when that
// does not show the one that is known.
func (r *Repository) descriptor(ctx context.Context, known *Pin) ([]byte, error) {
	object, err := readObject(ctx, r.store, layout.KeyDescriptor)
	missing := errors.Is(err, storage.ErrNotFound)
	if err != nil && !missing && !Damaged(err) || err == nil && (known == nil || sha256.Sum256(object) == known.Descriptor) {
		return object, err
	}
	if known != nil {
		hidden, err := r.version(ctx, layout.KeyDescriptor, maxStatement, func(b []byte) bool { return sha256.Sum256(b) == known.Descriptor })
		if err != nil {
			return nil, err
		}
		if hidden != nil {
			r.warnHidden(layout.KeyDescriptor, missing)
			return hidden, nil
		}
	}
	if missing {
		return nil, fmt.Errorf("%w%s: check the URL, or make one with `knowngood init`", ErrNoRepository, r.where())
	}
	if err != nil {
		return nil, err
	}
	return nil, pinMismatch("the descriptor"+r.where(), known.Source, known.Descriptor, sha256.Sum256(object))
}

func pinMismatch(what, source string, remembered, found [32]byte) error {
	return &TamperError{What: what, Remembered: fmt.Sprintf("pin %x from %s", remembered, source), Found: fmt.Sprintf("%x", found),
		Hint: "this is another repository than the one trusted before; if you replaced it yourself, correct the pin, or remove it from where it is remembered"}
}

func parseDescriptor(object []byte) (*statement.Descriptor, error) {
	d, err := statement.ParseDescriptor(object)
	if err == nil {
		err = d.Verify()
	}
	if errors.Is(err, wire.ErrNewer) {
		return nil, fmt.Errorf("the repository's descriptor: %w", err)
	}
	if err != nil {
		return nil, &DamageError{Key: layout.KeyDescriptor, What: "object", Err: err}
	}
	return d, nil
}

func (r *Repository) where() string {
	if r.url == "" {
		return ""
	}
	return " at " + r.url
}

// Store that the repository lies in.
func (r *Repository) Store() storage.Store { return r.store }

// ID of the repository.
func (r *Repository) ID() seal.RepositoryID { return r.desc.Repository }

// Descriptor of the repository; the caller must not change it.
func (r *Repository) Descriptor() *statement.Descriptor { return r.desc }

// URL that the repository was opened by.
func (r *Repository) URL() string { return r.url }

// StoreHash names the place that the repository was opened at: a copy of it
// elsewhere has another.
func (r *Repository) StoreHash() string { return placeHash(r.place) }

// StateDir is the state directory that Open was given.
func (r *Repository) StateDir() string { return r.local.stateDir }

// LocalDir is where this machine keeps what belongs to this repository alone.
func (r *Repository) LocalDir() userdir.Dir { return r.local.dir() }

// TrustedOnFirstUse says that nothing vouched for the descriptor.
func (r *Repository) TrustedOnFirstUse() bool { return r.first }

// Pin is the SHA-256 of the descriptor.
func (r *Repository) Pin() [32]byte { return r.desc.Hash() }

// OwnerFingerprint names the owner key: the first 16 bytes of its SHA-256, in
// hexadecimal.
func (r *Repository) OwnerFingerprint() string { return Fingerprint(r.desc.Owner) }

// Fingerprint names an Ed25519 public key: the first 16 bytes of its SHA-256,
// in hexadecimal.
func Fingerprint(pub []byte) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:16])
}

// put creates an object under the repository's lock.
func (r *Repository) put(ctx context.Context, key string, object []byte, now time.Time) error {
	if strings.HasPrefix(key, layout.PrefixAllCertificates) || strings.HasPrefix(key, layout.PrefixEpochs) {
		defer r.lookAgain()
	}
	return r.store.Put(ctx, key, object, storage.PutOptions{SHA256: sha256.Sum256(object), Retention: r.Retention(now)})
}

// lookAgain forgets what was listed.
func (r *Repository) lookAgain() {
	r.certs.forgetListed()
	r.mu.Lock()
	r.epochSeen = epochSeen{}
	r.mu.Unlock()
}

// Warnings returns what was found amiss and got round since the last call:
// hidden and overwritten objects, statements that do not verify, memory that
// could not be written.
func (r *Repository) Warnings() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.warnings
	r.warnings, r.warned = nil, nil
	return w
}

func (r *Repository) warn(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.warned[err.Error()] || len(r.warnings) >= maxWarnings {
		return
	}
	if r.warned == nil {
		r.warned = map[string]bool{}
	}
	r.warned[err.Error()] = true
	r.warnings = append(r.warnings, err)
}

// readObject reads a whole statement or age file. One that is longer than any
// may be is a *DamageError.
func readObject(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	return readAtMost(ctx, nil, s, key, 0, maxStatement)
}

// readAtMost appends all of an object from offset to dst. One of which that is
// more than limit bytes is a *DamageError: whoever may put objects must not be
// able to fill the memory of those who read.
func readAtMost(ctx context.Context, dst []byte, s storage.Store, key string, offset, limit int64) ([]byte, error) {
	start := len(dst)
	b, err := storage.Append(ctx, dst, atMost{s, limit + 1}, key, offset, -1)
	if err == nil && int64(len(b)-start) > limit {
		return nil, &DamageError{Key: key, What: "object", Err: fmt.Errorf("longer than the limit of %d bytes", limit)}
	}
	return b, err
}

// atMost is a store that gives no more than so many bytes of an object.
type atMost struct {
	storage.Store
	bytes int64
}

func (s atMost) Get(ctx context.Context, key string, offset, _ int64) (io.ReadCloser, error) {
	body, err := s.Store.Get(ctx, key, offset, s.bytes)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, s.bytes), body}, nil
}
