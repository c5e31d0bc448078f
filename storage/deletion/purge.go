package deletion

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// Purge deletes an object with all its versions, so that its space is free.
// The error is storage.ErrLocked when one of them is locked; then it hides none.
func (x *Deletion) Purge(ctx context.Context, key string) error {
	v, versioned := storage.Capability[storage.Versioner](x.t.Store())
	p, purges := storage.Capability[storage.Purger](x.t.Store())
	if !versioned || !purges {
		return x.t.Store().Delete(ctx, key)
	}
	var data, markers []string
	for ver, err := range v.Versions(ctx, key) {
		if errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrNotFound) {
			return x.t.Store().Delete(ctx, key)
		}
		if err != nil {
			return err
		}
		if ver.Marker {
			markers = append(markers, ver.ID)
		} else {
			data = append(data, ver.ID)
		}
	}
	for _, id := range slices.Concat(data, markers) {
		err := p.DeleteVersion(ctx, key, id)
		if errors.Is(err, storage.ErrDenied) {
			err = fmt.Errorf("%w: pruning a bucket that keeps versions needs the right to delete versions (s3:DeleteObjectVersion)", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// staleProbe is the age, by the clock of the store, from which a probe is of a run
// that died.
const staleProbe = 24 * time.Hour

// StoreTime is the time by the clock of the store, which stamps objects. It
// puts an object for that, and deletes it. On a full store it deletes a piece of the
// reserve of the host first; see KeepReserve.
func (x *Deletion) StoreTime(ctx context.Context, host string) (time.Time, error) {
	now, err := x.storeTime(ctx, host)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of the store: %w", err)
	}
	return now, nil
}

func (x *Deletion) storeTime(ctx context.Context, host string) (now time.Time, err error) {
	var random [16]byte
	rand.Read(random[:])
	key, body := layout.PrefixHostProbes(host)+hex.EncodeToString(random[:]), []byte("knowngood probe\n")
	err = x.WithReserve(ctx, host, len(body), func() error { return x.t.Store().Put(ctx, key, body, storage.PutOptions{}) })
	if err != nil {
		return now, err
	}

	var probes []storage.Object
	for o, err := range x.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixHostProbes(host)}) {
		if err != nil {
			return now, err
		}
		if o.Key == key {
			now = o.Modified
		}
		if !strings.HasPrefix(o.Key, layout.PrefixReserve(host)) {
			probes = append(probes, o)
		}
	}
	if now.IsZero() {
		return now, errors.New("what was put is not listed")
	}

	// Probes of runs that died are deleted too. A younger one may be of a concurrent
	// run that has not listed it yet.
	for _, o := range probes {
		if o.Key != key && now.Sub(o.Modified) < staleProbe {
			continue
		}
		if err := x.Purge(ctx, o.Key); err != nil && !errors.Is(err, storage.ErrLocked) {
			return now, err
		}
	}
	return now, nil
}

// Domains lists the domains in which a host has packs or manifests.
func (x *Deletion) Domains(ctx context.Context, host string) ([]seal.DomainID, error) {
	var ids []seal.DomainID
	for _, of := range []struct {
		prefix string
		parse  func(string) (string, seal.DomainID, bool)
	}{{layout.PrefixPackDomains(host), layout.ParsePackDomainPrefix}, {layout.PrefixManifestDomains(host), layout.ParseManifestDomainPrefix}} {
		for o, err := range x.t.Store().List(ctx, storage.ListOptions{Prefix: of.prefix, Delimiter: true}) {
			if err != nil {
				return nil, err
			}
			if _, id, ok := of.parse(o.Key); ok && o.Folded && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
