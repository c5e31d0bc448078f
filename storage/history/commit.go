package history

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Commit is a snapshot that is about to be committed: its root claims the next number
// of an environment. Everything that the root refers to must be durable before.
//
// Next returns the number, and Put puts the root there. Where another process was
// first, Put reports that, and both are called again.
type Commit struct {
	roots  *Roots
	host   *trust.Host
	env    string
	epoch  *seal.Epoch
	sealed []byte // the domain, to the epoch

	attempts ledger.Attempts
	e        *environment
	number   uint64
	previous [32]byte // the hash of the root before
}

// Begin begins to commit a snapshot of env.
func (h *Roots) Begin(ctx context.Context, host *trust.Host, env string) (*Commit, error) {
	epoch, err := h.t.CurrentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	sealed, err := h.t.SealedDomain(host, epoch)
	if err != nil {
		return nil, err
	}
	return &Commit{roots: h, host: host, env: env, epoch: epoch, sealed: sealed, attempts: ledger.Attempts{What: "roots of " + env}}, nil
}

// Next is the number that the root gets. The error is *TamperError when the store
// shows an older head than is remembered, ErrCloned when another machine has taken
// the host over.
func (c *Commit) Next(ctx context.Context) (uint64, error) {
	first := c.e == nil
	var err error
	if c.e, err = c.roots.environment(ctx, c.host.Name, c.env); err != nil {
		return 0, err
	}
	if err := c.roots.t.CheckCurrent(c.host, c.e.certs); err != nil {
		return 0, err
	}
	c.number = 0
	if first {
		c.previous, c.number, err = c.e.afterKnown(ctx)
	}
	if err == nil && c.number == 0 {
		c.previous, c.number, err = c.e.next(ctx)
	}
	if err == nil {
		err = c.attempts.Try(c.number)
	}
	return c.number, err
}

// Put puts the root with a body and the live index runs at the number, reads it back, verifies and remembers
// it. taken reports that another process has claimed the number. Witnesses
// are added to the body, and now as the time it finished if that is open.
func (c *Commit) Put(ctx context.Context, b *statement.RootBody, runs [][32]byte, now time.Time) (s *Snapshot, taken bool, err error) {
	h := c.roots
	root := &statement.Root{
		Repository: h.t.ID(), Host: c.host.Name, Environment: c.env, Number: c.number, Previous: c.previous, Certificate: c.host.Certificate,
		Domain: c.host.Domain.ID, Epoch: c.epoch.ID, SealedDomain: c.sealed, Salt: seal.NewSalt(), IndexRuns: runs,
	}
	if err := h.sealBody(c.host, root, b, now); err != nil {
		return nil, false, err
	}
	object, err := root.Encode(c.host.SigningKey())
	if err != nil {
		return nil, false, err
	}
	key := layout.KeyRoot(c.host.Name, c.env, c.number)
	err = h.t.Put(ctx, key, object, now)
	if errors.Is(err, storage.ErrExists) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("commit %s: %w", root.Ref(), err)
	}
	h.d.RememberPutProof(now)
	s, err = c.e.readBack(ctx, key, object)
	if err != nil {
		return nil, false, err
	}
	run, err := localstate.AppendRun(nil, []localstate.RootCopy{{Object: object}})
	if err == nil {
		err = h.t.State.KeepRoots(s.Host, s.Environment, run)
	}
	if err == nil {
		err = h.writeCatalogues(ctx, s.Host, s.Environment, s.Number, now)
	}
	if err != nil {
		h.t.Warn(fmt.Errorf("%s is committed, but a list of snapshots will take more requests: %w", s.Ref(), err))
	}
	return s, false, nil
}

// sealBody completes the body and seals it into root.
func (h *Roots) sealBody(host *trust.Host, root *statement.Root, b *statement.RootBody, now time.Time) error {
	if b.Finished.IsZero() {
		b.Finished = now
	}
	var err error
	if b.Witnesses, err = h.t.State.Witnesses(host.Name, root.Environment); err != nil {
		return err
	}
	// Whoever has the host's key can make any number of environments.
	b.Witnesses = b.Witnesses[:min(len(b.Witnesses), statement.MaxHeads)]
	record, err := b.AppendRecord(nil)
	if err != nil {
		return err
	}
	root.SealedBody = seal.Once(host.Domain.RootKey(root.Salt), record, nil)
	return nil
}

// next is the number that a new root may claim, and the hash of the root that
// it follows: the newest that verifies, or the newest remembered. Damaged
// roots are warned of and passed over, for a damaged object must not end the
// protection of what comes after it. So are numbers that are forgotten: a
// snapshot that was born so would be deleted.
func (e *environment) next(ctx context.Context) (previous [32]byte, number uint64, err error) {
	var taken []uint64 // above the newest that counts
	for p, err := range ledger.Ordered(ctx, 1, e.places, e.fetch) {
		if err != nil {
			return previous, 0, err
		}
		switch {
		case p.err == nil:
			previous, number = p.read.ID, p.number
		case authentic.Tampered(p.err):
			return previous, 0, p.err
		case e.known != nil && p.number == e.known.Number: // damaged, but we know what it was
			e.t.Warn(p.err)
			previous, number = e.known.Hash, p.number
		default:
			e.t.Warn(p.err)
			taken = append(taken, p.number)
			continue
		}
		break
	}
	x, err := e.tombstones.Tombstone(ctx, e.host, e.name)
	if err != nil {
		return previous, 0, err
	}
	passed := statement.NumbersOf(taken...)
	if x != nil {
		passed = passed.With(x.Forgotten)
	}
	number++
	for _, span := range passed {
		if span.First <= number && number <= span.Last {
			number = span.Last + 1
		}
	}
	if number > 1 && previous == [32]byte{} {
		// There is none before that verifies, and what lies there need not be
		// readable.
		previous = sha256.Sum256([]byte(e.key(number - 1)))
	}
	return previous, number, nil
}

// afterKnown is what a root after the newest remembered has of it, when the
// store still shows that one. Whether there is a newer one the put will show.
func (e *environment) afterKnown(ctx context.Context) (previous [32]byte, number uint64, err error) {
	if e.known == nil {
		return previous, 0, nil
	}
	object, err := authentic.AtMost(ctx, nil, e.t.Store(), e.key(e.known.Number), 0, trust.MaxStatement)
	switch {
	case err == nil && sha256.Sum256(object) == e.known.Hash:
		previous, number = e.known.Hash, e.known.Number+1
	case err == nil || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrWithheld) || errors.Is(err, storage.ErrDenied) || authentic.Damaged(err):
		return previous, 0, nil
	default:
		return previous, 0, err
	}
	if len(e.certs) > 1 {
		// Numbers of a host that was enrolled again may have been forgotten, and lost
		// since.
		x, err := e.tombstones.Tombstone(ctx, e.host, e.name)
		if err != nil || x != nil && x.Forgotten.Has(number) {
			return previous, 0, err
		}
	}
	return previous, number, nil
}

// readBack returns the snapshot that is committed, once the store gives it back.
func (e *environment) readBack(ctx context.Context, key string, object []byte) (*Snapshot, error) {
	stored, err := authentic.AtMost(ctx, nil, e.t.Store(), key, 0, trust.MaxStatement)
	if err == nil && !bytes.Equal(stored, object) {
		err = &authentic.DamageError{Key: key, What: "root", Err: errors.New("the store gives back other bytes than were put")}
	}
	if err != nil {
		return nil, fmt.Errorf("read back the root just committed: %w", err)
	}
	root, err := e.parse(stored)
	if err != nil {
		return nil, &authentic.DamageError{Key: key, What: "root", Err: err}
	}
	s, err := e.snapshot(ctx, ledger.Entry[*statement.Root]{Number: root.Number, Value: root})
	if err != nil {
		return nil, err
	}
	if err := e.t.State.RememberHead(s.Host, s.head()); err != nil {
		e.t.Warn(fmt.Errorf("a roll-back to before %s may go unseen: %w", s.Ref(), err))
	}
	return s, nil
}
