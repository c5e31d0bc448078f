package repository

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
// The error is storage.ErrLocked when one of them is locked; then none is
// hidden that was not.
func (r *Repository) Purge(ctx context.Context, key string) error {
	v, versioned := storage.Capability[storage.Versioner](r.store)
	p, purges := storage.Capability[storage.Purger](r.store)
	if !versioned || !purges {
		return r.store.Delete(ctx, key)
	}
	var data, markers []string
	for ver, err := range v.Versions(ctx, key) {
		if unseen(err) {
			return r.store.Delete(ctx, key)
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
			err = fmt.Errorf("%w: pruning a bucket that keeps versions takes the right to delete versions (s3:DeleteObjectVersion)", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// staleProbe is how old a probe is, by the clock of the store, that nobody waits
// for any more.
const staleProbe = 24 * time.Hour

// StoreTime is the time by the clock of the store, which stamps objects. It
// puts an object for that, and deletes it; on a full store it gives up some of
// the reserve of the host, see KeepReserve.
func (r *Repository) StoreTime(ctx context.Context, host string) (time.Time, error) {
	now, err := r.storeTime(ctx, host)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of the store: %w", err)
	}
	return now, nil
}

func (r *Repository) storeTime(ctx context.Context, host string) (now time.Time, err error) {
	var random [16]byte
	rand.Read(random[:])
	key, body := layout.PrefixHostProbes(host)+hex.EncodeToString(random[:]), []byte("knowngood probe\n")
	err = r.withReserve(ctx, host, len(body), func() error { return r.store.Put(ctx, key, body, storage.PutOptions{}) })
	if err != nil {
		return now, err
	}

	var probes []storage.Object
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixHostProbes(host)}) {
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

	// Those that a run left which died are deleted too. A younger one may be of
	// a run beside this one, which has not listed it yet.
	for _, o := range probes {
		if o.Key != key && now.Sub(o.Modified) < staleProbe {
			continue
		}
		if err := r.Purge(ctx, o.Key); err != nil && !errors.Is(err, storage.ErrLocked) {
			return now, err
		}
	}
	return now, nil
}

// EveryEnvironment lists the environments of a host, those too of which every
// root is hidden. What else lies there is passed over: it must hide none.
func (r *Repository) EveryEnvironment(ctx context.Context, host string) ([]string, error) {
	names, err := r.local.names(host)
	if err != nil {
		return nil, err
	}
	prefix := layout.PrefixEnvironments(host)
	for after, more := "", true; more; {
		more = false
		for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, After: after, Hidden: true}) {
			if err != nil {
				return nil, err
			}
			if _, env, _, ok := layout.ParseRootKey(o.Key); ok {
				names = append(names, env)
				after, more = layout.PrefixRoots(host, env)+"~", true // after all of them: no key has it
				break
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Domains lists the domains in which a host has packs or manifests.
func (r *Repository) Domains(ctx context.Context, host string) ([]seal.DomainID, error) {
	var ids []seal.DomainID
	for _, of := range []struct {
		prefix string
		parse  func(string) (string, seal.DomainID, bool)
	}{{layout.PrefixPackDomains(host), layout.ParsePackDomainPrefix}, {layout.PrefixManifestDomains(host), layout.ParseManifestDomainPrefix}} {
		for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: of.prefix, Delimiter: true}) {
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

// OpenRuns is ReadRuns; those of this host's own domain are cached where its
// captures cache them.
func (r *Repository) OpenRuns(ctx context.Context, host string, domain *seal.Domain) (*Index, error) {
	own, err := r.ownDomain()
	if err != nil {
		return nil, err
	}
	if own == nil || own.ID != domain.ID || r.LocalDir().None() {
		return r.ReadRuns(ctx, host, domain)
	}
	x, err := r.openIndex(ctx, host, domain, r.indexDir(domain.ID))
	if err != nil {
		return nil, err
	}
	x.reading = true
	if _, err = x.sync(ctx); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Replaced are the index runs that are in the store and count as absent,
// because a live one that the store took before a time replaces them, by key;
// and whether there are more that do not count yet for long enough.
func (x *Index) Replaced(ctx context.Context, before time.Time) (old []storage.Object, more bool, err error) {
	by := map[[32]byte][32]byte{}
	live := map[[32]byte]time.Time{}
	for _, run := range x.table.Runs() {
		live[run.Hash] = time.Time{}
		for _, h := range run.Replaces {
			by[h] = run.Hash
		}
	}
	var listed []storage.Object
	for o, err := range x.repo.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(x.host, x.domain.ID)}) {
		if err != nil {
			return nil, false, err
		}
		_, _, _, hash, ok := layout.ParseIndexRunKey(o.Key)
		if _, isLive := live[hash]; isLive {
			live[hash] = o.Modified
		} else if _, replaced := by[hash]; ok && replaced {
			listed = append(listed, o)
		}
	}
	for _, o := range listed {
		_, _, _, hash, _ := layout.ParseIndexRunKey(o.Key)
		if at := live[by[hash]]; at.IsZero() || !at.Before(before) {
			more = true
			continue
		}
		old = append(old, o)
	}
	return old, more || len(x.unread) > 0, nil
}
