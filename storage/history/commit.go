package history

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Commit makes a snapshot of env: it claims the environment's next number with
// a root, reads it back, verifies and remembers it. Everything that the body
// refers to must be durable before.
//
// body makes the body for a number; it is called again when another process
// claims that number first, and gives up by returning nil. Commit adds nonce
// and witnesses, and now as the time it finished if body leaves that open. The error is *TamperError when
// the store shows an older head than is remembered, ErrCloned when another
// machine has taken the host over.
func (h *Roots) Commit(ctx context.Context, host *trust.Host, env string, body func(number uint64) *statement.RootBody, now time.Time) (*Snapshot, error) {
	epoch, err := h.t.CurrentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	sealed, err := host.Domain.SealTo(epoch, h.t.ID(), host.Name)
	if err != nil {
		return nil, fmt.Errorf("seal the domain: %w", err)
	}
	var e *environment
	var previous [32]byte
	looked := false
	free := func(ctx context.Context) (number uint64, err error) {
		if e, err = h.environment(ctx, host.Name, env); err != nil {
			return 0, err
		}
		if err := h.t.CheckCurrent(host, e.certs); err != nil {
			return 0, err
		}
		if !looked {
			looked = true
			if previous, number, err = e.afterKnown(ctx); err != nil || number > 0 {
				return number, err
			}
		}
		previous, number, err = e.next(ctx)
		return number, err
	}
	encode := func(number uint64) ([]byte, error) {
		root := &statement.Root{
			Repository: h.t.ID(), Host: host.Name, Environment: env, Number: number, Previous: previous, Certificate: host.Certificate,
			Domain: host.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt(),
		}
		b := body(number)
		if b == nil {
			return nil, fmt.Errorf("commit %s: given up", root.Ref())
		}
		if err := h.sealBody(host, root, b, now); err != nil {
			return nil, err
		}
		return root.Encode(host.SigningKey())
	}
	key := ""
	object, err := ledger.Claim(ctx, "roots of "+env, free, encode, func(ctx context.Context, number uint64, object []byte) error {
		key = layout.KeyRoot(host.Name, env, number)
		if err := h.t.Put(ctx, key, object, now); err != nil {
			return fmt.Errorf("commit %s@%d: %w", env, number, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.d.RememberPutProof(now)
	return e.readBack(ctx, key, object)
}

// sealBody completes the body and seals it into root.
func (h *Roots) sealBody(host *trust.Host, root *statement.Root, b *statement.RootBody, now time.Time) error {
	rand.Read(b.Nonce[:])
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

// afterKnown is what a root after the newest remembered says of it, when the
// store still shows that one. Whether there is a newer one the put will tell.
func (e *environment) afterKnown(ctx context.Context) (previous [32]byte, number uint64, err error) {
	if e.known == nil {
		return previous, 0, nil
	}
	object, err := authentic.AtMost(ctx, nil, e.t.Store(), e.key(e.known.Number), 0, trust.MaxStatement)
	switch {
	case err == nil && sha256.Sum256(object) == e.known.Hash:
		previous, number = e.known.Hash, e.known.Number+1
	case err == nil || errors.Is(err, storage.ErrNotFound) || authentic.Damaged(err):
		return previous, 0, nil
	default:
		return previous, 0, err
	}
	if len(e.certs) > 1 {
		// Numbers of a host that was enrolled anew may have been forgotten, and lost
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
	root, _, err := e.parse(stored)
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
