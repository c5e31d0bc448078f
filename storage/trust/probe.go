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

// probeFile has what the last probe of this machine found.
const probeFile = "probe"

// Probe probes the store with the credentials of this machine, and remembers the
// result in the state directory. host is a host whose prefix the credentials may
// write; empty for the prefix of Init.
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
	record, err := p.Record()
	if err != nil {
		return nil, err
	}
	return p, t.State.Write(t.State.OfStore(probeFile), record)
}

// Probed is the newest known probe: of this machine, or of Init, from the descriptor;
// nil when there is none. It does not access the store, which may have changed since.
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

// The two contents of the probed object.
var firstProbe, secondProbe = []byte("knowngood probe 1\n"), []byte("knowngood probe 2\n")

// probeStore makes an object and tries three things: to overwrite it with a put that
// has a condition, with a put that has none, and to read it after it was overwritten
// or deleted. The error is ErrUnsafeStore when the put with a condition replaces it.
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

	// The object is removed where the store allows it. A store that forbids it is
	// safer.
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
		return p, nil // it was neither replaced nor deleted: nothing shows whether versions are kept
	}
	var err error
	p.VersionsKept, err = hasFirstVersion(ctx, store, key)
	return p, err
}

// plainPut tries to replace an object with a put that has no condition.
func plainPut(ctx context.Context, store storage.Store, key string) (refused, replaced bool, err error) {
	s, ok := storage.Capability[storage.PlainPutter](store)
	if !ok {
		return false, false, nil // a directory: whose files everybody with write access can replace
	}
	err = s.PlainPut(ctx, key, secondProbe)
	if errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrExists) {
		return true, false, nil
	}
	return false, err == nil, err
}

// hasFirstVersion reports whether a version of key has the first content.
func hasFirstVersion(ctx context.Context, store storage.Store, key string) (bool, error) {
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
