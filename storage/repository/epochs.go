package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Files of the state directory that hold epochs.
const (
	epochFile     = "epoch"
	hostEpochFile = "epoch.host"
)

// CurrentEpoch is what a run that starts now seals to: the owner's newest
// epoch, or the one that this host made for itself, if that is later.
//
// The host remembers the newest epoch of the owner it has seen. A store that
// shows only older ones is reported by Warnings, and the remembered one is
// used; a store that cannot be listed is an error, for a recipient may have
// been removed since.
func (r *Repository) CurrentEpoch(ctx context.Context) (*seal.Epoch, error) {
	e, err := r.currentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	return seal.ParseEpoch(e.PublicKey)
}

func (r *Repository) currentEpoch(ctx context.Context) (*statement.Epoch, error) {
	newest, err := r.newestEpoch(ctx)
	if err != nil {
		return nil, err
	}
	own, err := r.rememberedEpoch(hostEpochFile)
	if err != nil || own == nil || !own.Created.After(newest.Created) {
		return newest, err
	}
	host, err := r.loadHost()
	if err != nil {
		return nil, err
	}
	if own.Certificate == nil || !own.Certificate.HostKey.Equal(host.Certificate.HostKey) {
		return newest, nil // made under the key of an earlier enrolment
	}
	return own, nil
}

// newestEpoch is the owner's newest epoch, that is not older than the one
// this machine remembers.
func (r *Repository) newestEpoch(ctx context.Context) (*statement.Epoch, error) {
	known, err := r.rememberedEpoch(epochFile)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	seen := r.epochSeen
	r.mu.Unlock()
	if seen.epoch != nil && time.Since(seen.at) < r.freshFor {
		return seen.epoch, nil
	}
	seen.at = time.Now()
	var newest *statement.Epoch
	for e, err := range r.epochs(ctx, layout.PrefixEpochs, known) {
		if err != nil {
			return nil, err
		}
		newest = e
		break
	}
	switch {
	case newest == nil && known == nil:
		return nil, &DamageError{Key: layout.PrefixEpochs, What: "epochs", Err: errors.New("there is none that the owner signed")}
	case known != nil && (newest == nil || newest.Number < known.Number || newest.Number == known.Number && newest.Hash() != known.Hash()):
		found := "none"
		if newest != nil {
			found = fmt.Sprintf("epoch %d (%v)", newest.Number, newest.ID())
		}
		r.warn(&TamperError{What: "the newest epoch", Remembered: fmt.Sprintf("epoch %d (%v)", known.Number, known.ID()), Found: found, Hint: "the remembered one is used"})
		return known, nil
	case known == nil || newest.Number > known.Number:
		if r.local.stateDir != "" {
			if err := r.local.write(epochFile, newest.Bytes()); err != nil {
				r.warn(err)
			}
		}
	}
	seen.epoch = newest
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epochSeen = seen
	return newest, nil
}

// epochSeen is the owner's newest epoch as the store showed it at a time.
type epochSeen struct {
	at    time.Time
	epoch *statement.Epoch
}

// rememberedEpoch reads an epoch of the state directory; nil when there is none.
func (r *Repository) rememberedEpoch(file string) (*statement.Epoch, error) {
	b, err := r.local.read(file)
	if b == nil || err != nil {
		return nil, err
	}
	e, err := statement.ParseEpoch(b)
	if err == nil {
		err = e.Verify(r.ID(), r.desc.Owner)
	}
	if err == nil && (e.Certificate != nil) != (file == hostEpochFile) {
		err = errors.New("an epoch of another kind")
	}
	if err != nil {
		return nil, fmt.Errorf("file %s/%s is damaged: %w; remove it to forget the epoch seen", r.local.dir(), file, err)
	}
	return e, nil
}

// epochs yields the epochs under prefix that verify, newest first, hidden ones
// included. Those that do not are warned of. known, which may be nil, is not
// read again.
func (r *Repository) epochs(ctx context.Context, prefix string, known *statement.Epoch) func(yield func(*statement.Epoch, error) bool) {
	return func(yield func(*statement.Epoch, error) bool) {
		for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err != nil {
				yield(nil, fmt.Errorf("list epochs: %w", err))
				return
			}
			if known != nil && !o.Hidden && o.Key == layout.KeyEpoch(known.Number) {
				if !yield(known, nil) {
					return
				}
				continue
			}
			e, err := r.epoch(ctx, o)
			if Damaged(err) {
				r.warn(err)
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (r *Repository) epoch(ctx context.Context, o storage.Object) (*statement.Epoch, error) {
	object, err := r.listed(ctx, o, func(b []byte) bool { _, err := r.checkEpoch(o.Key, b); return err == nil })
	if err != nil {
		return nil, err
	}
	return r.checkEpoch(o.Key, object)
}

func (r *Repository) checkEpoch(key string, object []byte) (*statement.Epoch, error) {
	e, err := statement.ParseEpoch(object)
	if err == nil {
		err = e.Verify(r.ID(), r.desc.Owner)
	}
	if err == nil {
		place := layout.KeyEpoch(e.Number)
		if e.Certificate != nil {
			place = layout.KeyHostEpoch(e.Host, e.Number)
		}
		if place != key {
			err = fmt.Errorf("it belongs at %s", place)
		}
	}
	if err != nil {
		return nil, &DamageError{Key: key, What: "epoch", Err: err}
	}
	return e, nil
}

// allEpochs are the epochs of the owner and of every host, newest first in
// each.
func (r *Repository) allEpochs(ctx context.Context) ([]*statement.Epoch, error) {
	hosts, err := r.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	prefixes := []string{layout.PrefixEpochs}
	for _, h := range hosts {
		prefixes = append(prefixes, layout.PrefixHostEpochs(h))
	}
	var all []*statement.Epoch
	for _, p := range prefixes {
		for e, err := range r.epochs(ctx, p, nil) {
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	}
	return all, nil
}

// after is now, or the moment after the latest of epochs if a clock was ahead.
func after(now time.Time, epochs ...*statement.Epoch) time.Time {
	for _, e := range epochs {
		if !now.After(e.Created) {
			now = e.Created.Add(1)
		}
	}
	return now
}
