package trust

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// probeFile is where a machine remembers what it saw the store do last.
const probeFile = "probe"

// Probe finds out what the store does now, with the credentials of this machine,
// and remembers it here. host is a host whose prefix the credentials may write;
// empty for the place where Init probes.
func (t *Trust) Probe(ctx context.Context, host string, now time.Time) (*statement.Probe, error) {
	prefix := layout.PrefixProbes
	if host != "" {
		prefix = layout.PrefixHostProbes(host)
	}
	p, err := probeStore(ctx, t.store, prefix, now)
	if err != nil {
		return nil, fmt.Errorf("probe the store: %w", err)
	}
	if t.State.None() {
		return p, nil
	}
	return p, t.State.Write(t.State.OfStore(probeFile), p.Record())
}

// Probed is what is known of the store without asking it: what this machine saw
// itself, or what the descriptor has of the day of Init, whichever is newer; nil
// when neither is there. The store may have changed since.
func (b *Base) Probed() *statement.Probe {
	known := b.desc.Probe
	object, err := b.State.Read(b.State.OfStore(probeFile))
	if err != nil || object == nil {
		return known
	}
	own, err := statement.ParseProbe(object)
	if err != nil || known != nil && known.At.After(own.At) {
		return known
	}
	return own
}

// The two contents of the object that probes.
var firstProbe, secondProbe = []byte("knowngood probe 1\n"), []byte("knowngood probe 2\n")

// probeStore finds out with an object of its own what the store does when a
// key exists, to a put with a condition and to one without, and whether what was
// overwritten or deleted can be read again. A store that replaces what is put
// with a condition is ErrUnsafeStore.
func probeStore(ctx context.Context, store storage.Store, prefix string, now time.Time) (*statement.Probe, error) {
	var id [16]byte
	rand.Read(id[:])
	key := prefix + hex.EncodeToString(id[:])
	if err := store.Put(ctx, key, firstProbe, storage.PutOptions{}); err != nil {
		return nil, err
	}
	p := &statement.Probe{At: now}
	second := store.Put(ctx, key, secondProbe, storage.PutOptions{})
	p.SecondCreateRefused = errors.Is(second, storage.ErrExists)
	replaced := false
	var plain error
	if p.SecondCreateRefused {
		p.PlainPutRefused, replaced, plain = plainPut(ctx, store, key)
	}

	// Deleting is cleanliness: a store that forbids it is all the better.
	deleted := store.Delete(ctx, key)
	if deleted != nil && !errors.Is(deleted, storage.ErrDenied) && !errors.Is(deleted, storage.ErrLocked) {
		return nil, deleted
	}
	switch {
	case second == nil:
		return nil, ErrUnsafeStore
	case !p.SecondCreateRefused:
		return nil, second
	case plain != nil:
		return nil, plain
	}
	if !replaced && deleted != nil {
		return p, nil // nothing covers the object: whether versions are kept does not show
	}
	var err error
	p.VersionsKept, err = beneath(ctx, store, key)
	return p, err
}

// plainPut tries to replace an object as anybody with the credentials can.
func plainPut(ctx context.Context, store storage.Store, key string) (refused, replaced bool, err error) {
	s, ok := storage.Capability[storage.PlainPutter](store)
	if !ok {
		return false, false, nil // a directory: files are replaced by whoever may write there
	}
	err = s.PlainPut(ctx, key, secondProbe)
	if errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrExists) {
		return true, false, nil
	}
	return false, err == nil, err
}

// beneath reports whether the first content can be read among the versions of key.
func beneath(ctx context.Context, store storage.Store, key string) (bool, error) {
	versions, err := authentic.NewReader(store, nil).Versions(ctx, key)
	if err != nil {
		return false, err
	}
	v, _ := storage.Capability[storage.Versioner](store)
	read := func(id string) ([]byte, error) {
		r, err := v.GetVersion(ctx, key, id, 0, -1)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(io.LimitReader(r, int64(len(firstProbe)+1)))
	}
	for _, version := range versions {
		if version.Marker || version.Size != int64(len(firstProbe)) {
			continue
		}
		body, err := read(version.ID)
		switch {
		case errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDenied):
		case err != nil:
			return false, err
		case bytes.Equal(body, firstProbe):
			return true, nil
		}
	}
	return false, nil
}
