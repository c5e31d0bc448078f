package trust

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/replay"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// epochFile is where the newest epoch that was seen lies in the state directory.
const epochFile = "epoch"

// Epochs are the repository keys that the owner announced, and the recipients of
// each. The newest is the one with the highest number, independent of its time.
type Epochs struct {
	base   *Base
	keys   *Keyring
	fresh  time.Duration
	memory *ledger.Newest[*statement.Epoch]

	mu     sync.Mutex
	seen   epochSeen
	listed epochList
}

// epochList are the epochs that verify, as the store showed them at a time.
type epochList struct {
	at  time.Time
	all []*statement.Epoch
}

// epochSeen is the newest epoch as the store showed it at a time.
type epochSeen struct {
	at    time.Time
	epoch *statement.Epoch
}

// CurrentEpoch is what a run that starts now seals to: the newest.
//
// This machine remembers the newest that it has seen. A store that shows only
// older ones is reported by Warnings, and the remembered one is used; a store that
// cannot be listed is an error, because a recipient may have been removed since.
func (e *Epochs) CurrentEpoch(ctx context.Context) (*seal.Epoch, error) {
	newest, err := e.newest(ctx)
	if err != nil {
		return nil, err
	}
	return seal.ParseEpoch(newest.PublicKey)
}

// newest is the newest epoch, which is not older than the one remembered.
func (e *Epochs) newest(ctx context.Context) (*statement.Epoch, error) {
	if _, err := e.memory.Known(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	seen := e.seen
	e.mu.Unlock()
	if seen.epoch != nil && time.Since(seen.at) < e.fresh {
		return seen.epoch, nil
	}
	seen.at = replay.ListedAt(e.base.store, layout.PrefixEpochs)
	var shown []*statement.Epoch
	l := e.ledger() // a new one asks again whether the store denies only some
	l.Kept = e.memory.Copy
	for x, err := range e.all(ctx, l) {
		if err != nil {
			return nil, err
		}
		shown = append(shown, x)
		break
	}
	newest, lost, err := e.memory.Update(shown)
	if err == nil && newest == nil {
		err = &authentic.DamageError{Key: layout.PrefixEpochs, What: "epochs", Err: errors.New("there is none that the owner signed")}
	}
	if err != nil || lost != nil {
		return newest, err
	}
	seen.epoch = newest
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = seen
	return newest, nil
}

// forgetSeen makes the next use of epochs ask the store.
func (e *Epochs) forgetSeen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen, e.listed = epochSeen{}, epochList{}
}

func (e *Epochs) parse(object []byte) (*statement.Epoch, error) {
	x, err := statement.ParseEpoch(object)
	if err == nil {
		err = x.Verify(e.base.ID(), e.base.desc.Owner)
	}
	return x, err
}

func (e *Epochs) ledger() *ledger.Ledger[*statement.Epoch] {
	return &ledger.Ledger[*statement.Epoch]{
		Reader: e.base.Read, Prefix: layout.PrefixEpochs, Beside: layout.KeyDescriptor, What: "epoch", Limit: MaxStatement,
		Number: layout.ParseEpochKey, Key: func(x *statement.Epoch) string { return layout.KeyEpoch(x.Number) }, Parse: e.parse,
	}
}

// all yields the epochs of a ledger that verify, newest first, hidden ones included. It
// warns of those that do not verify.
func (e *Epochs) all(ctx context.Context, l *ledger.Ledger[*statement.Epoch]) iter.Seq2[*statement.Epoch, error] {
	return func(yield func(*statement.Epoch, error) bool) {
		for x, err := range l.All(ctx, 1) {
			switch {
			case err != nil:
				yield(nil, err)
				return
			case !x.Counts():
				e.base.Warn(x.Err)
			case !yield(x.Value, nil):
				return
			}
		}
	}
}

// announced are the epochs that verify: again reads them now, without it they may have
// been read before, within Options.Fresh.
func (e *Epochs) announced(ctx context.Context, again bool) ([]*statement.Epoch, error) {
	e.mu.Lock()
	l := e.listed
	e.mu.Unlock()
	if !again && time.Since(l.at) < e.fresh {
		return l.all, nil
	}

	l = epochList{at: time.Now()}
	for x, err := range e.all(ctx, e.ledger()) {
		if err != nil {
			return nil, err
		}
		l.all = append(l.all, x)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listed = l
	return l.all, nil
}
