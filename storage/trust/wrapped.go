package trust

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// wrappedFile has what this host knows of the wrapped keys of the epochs that it
// seals to, and of the owner key. The first line has the word epoch and the hash of
// the epoch that was current then. Each further line has the key of an object, its
// size in bytes, good or bad as it was when last checked, and the object in base64
// where the store lets the host read it. Each line begins with the CRC-32 of the
// rest: with a damaged copy the object in the store would be reported as damaged. None
// of it is a secret: it is what lies in the store. There is one file for each place of
// the repository, and one for the repository, which a new place starts from.
const wrappedFile = "keys"

// wrappedKey is what is known of one.
type wrappedKey struct {
	size int64  // -1: it was never there
	file []byte // nil: it was never read
	bad  bool   // missing or damaged when last checked
}

// wrappedKeys is what is known of them, as of an epoch.
type wrappedKeys struct {
	epoch string // hash, in hexadecimal
	keys  map[string]*wrappedKey
}

// wrappedKeys reads what is known; nil when nothing is. A line that cannot be
// read is passed over.
func (e *Epochs) wrappedKeys() (*wrappedKeys, error) {
	b, err := e.base.State.Read(e.base.State.OfStore(wrappedFile))
	if b == nil && err == nil {
		b, err = e.base.State.Read(wrappedFile)
	}
	if b == nil || err != nil {
		return nil, err
	}
	known := &wrappedKeys{keys: map[string]*wrappedKey{}}
	for line := range strings.Lines(string(b)) {
		sum, line, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if sum != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(line))) {
			continue
		}
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "epoch" {
			known.epoch = f[1]
		}
		if len(f) < 3 || len(f) > 4 {
			continue
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		k := &wrappedKey{size: size, bad: f[2] == "bad"}
		if err == nil && len(f) == 4 {
			k.file, err = base64.StdEncoding.DecodeString(f[3])
		}
		if err == nil {
			known.keys[f[0]] = k
		}
	}
	return known, nil
}

func (e *Epochs) rememberWrappedKeys(known *wrappedKeys) error {
	var b strings.Builder
	add := func(line string) { fmt.Fprintf(&b, "%08x %s\n", crc32.ChecksumIEEE([]byte(line)), line) }
	add("epoch " + known.epoch)
	for _, key := range slices.Sorted(maps.Keys(known.keys)) {
		k, state := known.keys[key], "good"
		if k.bad {
			state = "bad"
		}
		add(fmt.Sprintf("%s %d %s %s", key, k.size, state, base64.StdEncoding.EncodeToString(k.file)))
	}
	return e.base.State.Locked(func() error {
		for _, file := range [...]string{e.base.State.OfStore(wrappedFile), wrappedFile} {
			if err := e.base.State.Write(file, []byte(b.String())); err != nil {
				return err
			}
		}
		return nil
	})
}

// NoteDamagedKeys makes the next run of this host examine objects that were found to
// be missing or damaged, as far as they are wrapped keys that it knows.
func (e *Epochs) NoteDamagedKeys(keys []string) error {
	known, err := e.wrappedKeys()
	if known == nil || err != nil {
		return err
	}
	noted := false
	for _, key := range keys {
		if k := known.keys[key]; k != nil && !k.bad {
			k.bad, noted = true, true
		}
	}
	if !noted {
		return nil
	}
	return e.rememberWrappedKeys(known)
}

// expectedKeys are the keys of the objects that the store must have for its epochs
// to be opened.
func expectedKeys(epochs ...*statement.Epoch) (keys []string) {
	for _, e := range epochs {
		for _, text := range e.Recipients {
			fp := layout.RecipientFingerprint(text)
			keys = append(keys, layout.KeyEpochSecret(e.ID(), fp), layout.KeyOwnerSecret(fp))
		}
	}
	return keys
}

// CheckWrappedKeys makes sure that the store has the wrapped keys of the epochs
// that this host seals to. It checks them when it is due (with each new listing),
// when another epoch is announced, and in every run while one is missing or damaged.
// A missing one is put again where this host has a copy and the right to put. It
// warns of what stays bad, and returns that of each epoch which nobody can open.
func (e *Epochs) CheckWrappedKeys(ctx context.Context, due bool) (closed []error, err error) {
	known, err := e.wrappedKeys()
	if err != nil {
		return nil, err
	}
	current, err := e.newest(ctx)
	if err != nil {
		return nil, err
	}
	epochs := []*statement.Epoch{current}
	if known == nil { // then it is not known either what this host sealed to before
		known = &wrappedKeys{keys: map[string]*wrappedKey{}}
		for x, err := range e.all(ctx, e.ledger()) {
			if err != nil {
				return nil, err
			}
			epochs = append(epochs, x)
		}
	}
	// A wrapped key is made again only together with a new announcement.
	hash := fmt.Sprintf("%x", current.Hash())
	announced := hash != known.epoch
	known.epoch = hash
	due = due || announced
	for _, key := range expectedKeys(epochs...) {
		if known.keys[key] == nil {
			known.keys[key], due = &wrappedKey{size: -1}, true
		}
	}
	for _, k := range known.keys {
		due = due || k.bad
	}
	if !due {
		return nil, nil
	}

	sizes := map[string]int64{}
	for o, err := range e.base.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixKeys}) {
		if errors.Is(err, storage.ErrDenied) {
			e.base.Warn(fmt.Errorf("this host cannot check whether the wrapped keys are in the store; without them nobody can restore: let it list %s (docs/SECURITY.md): %w", layout.PrefixKeys, err))
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		sizes[o.Key] = o.Size
	}
	damage := map[string]error{}
	for _, key := range slices.Sorted(maps.Keys(known.keys)) {
		k := known.keys[key]
		size, listed := sizes[key]
		if !listed {
			size = -1
		}
		if listed && announced {
			*k = wrappedKey{size: -1}
		}
		err := e.checkWrappedKey(ctx, key, k, size)
		if err != nil && !authentic.Damaged(err) {
			return nil, err
		}
		if k.bad = err != nil; k.bad {
			damage[key] = err
			e.base.Warn(err)
		}
	}
	if err := e.rememberWrappedKeys(known); err != nil {
		e.base.Warn(err)
	}
	return closedEpochs(known.keys, damage), nil
}

// closedEpochs is the damage of each epoch of which no wrapped key is good.
func closedEpochs(known map[string]*wrappedKey, damage map[string]error) (closed []error) {
	open := map[seal.EpochID]bool{}
	for key, k := range known {
		if id, _, ok := layout.ParseEpochSecretKey(key); ok && !k.bad {
			open[id] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(damage)) {
		if id, _, ok := layout.ParseEpochSecretKey(key); ok && !open[id] {
			closed = append(closed, damage[key])
		}
	}
	return closed
}

// checkWrappedKey checks one, of which a listing shows the size; -1 when it does
// not show it. It records the object in k, and puts it again where it is missing.
// The error is *DamageError when it stays missing, or has other bytes.
func (e *Epochs) checkWrappedKey(ctx context.Context, key string, k *wrappedKey, size int64) error {
	good := func(b []byte) bool {
		if k.file != nil {
			return bytes.Equal(b, k.file)
		}
		return (k.size < 0 || int64(len(b)) == k.size) && checkHeader(b) == nil
	}
	want := authentic.Want{What: "wrapped key", Limit: identity.MaxWrapped, Verify: func(b []byte) error {
		if !good(b) {
			return errWrongBytes
		}
		return nil
	}}
	missing := false
	for range 2 { // one reply that was cut short or altered proves no damage
		b, err := e.base.Read.Exact(ctx, key, want)
		switch {
		case err == nil:
			k.size, k.file = int64(len(b)), b
			return nil
		case errors.Is(err, storage.ErrDenied) && size > 0 && (k.size < 0 || k.size == size):
			k.size = size
			return nil
		case errors.Is(err, storage.ErrNotFound):
			missing = true
		case !authentic.Damaged(err) && !errors.Is(err, storage.ErrDenied):
			return err
		}
	}
	if !missing {
		return lostKey(key, errWrongBytes)
	}
	if k.file == nil {
		return lostKey(key, errors.New("missing"))
	}
	if err := e.base.Put(ctx, key, k.file, time.Now()); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return lostKey(key, fmt.Errorf("missing, and this host may not put its copy of it there (%w)", err))
	}
	e.base.Warn(fmt.Errorf("the wrapped key %s was missing in the store: this host put its copy of it there again; find out what became of it", key))
	return nil
}

var errWrongBytes = errors.New("its bytes are not those that were put there")

// lostKey is the damage of a wrapped key, and what to do about it.
func lostKey(key string, why error) error {
	return &authentic.DamageError{Key: key, What: "wrapped key", Err: fmt.Errorf(
		"%w; without it the identity that it is for cannot open the repository. Put it back from another copy of the repository; or remove what is in its place, and take a snapshot with --verify on a host, which may have a copy of it; or make it again with the identity of another recipient: knowngood keys add RECIPIENT --identity FILE", why)}
}
