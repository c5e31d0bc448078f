package repository

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
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
func (h *Host) Commit(ctx context.Context, env string, body func(number uint64) *statement.RootBody, now time.Time) (*Snapshot, error) {
	r := h.repo
	epoch, err := r.CurrentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	sealed, err := h.Domain.SealTo(epoch, r.ID(), h.Name)
	if err != nil {
		return nil, fmt.Errorf("seal the domain: %w", err)
	}
	conflict := uint64(0) // the number that was taken when we tried it
	for {
		e, err := r.environment(ctx, h.Name, env)
		if err != nil {
			return nil, err
		}
		if err := h.checkCurrent(e.certs); err != nil {
			return nil, err
		}
		previous, number, err := e.afterKnown(ctx)
		if err == nil && number > 0 && len(e.certs) > 1 {
			// Numbers of a host that was enrolled anew may have been forgotten,
			// and lost since.
			var x *statement.Tombstone
			if x, err = r.Tombstone(ctx, h.Name, env); x != nil && x.Forgotten.Has(number) {
				number = 0
			}
		}
		if err == nil && (number == 0 || number == conflict) {
			previous, number, err = e.next(ctx)
		}
		if err != nil {
			return nil, err
		}
		if number == conflict {
			return nil, &TamperError{What: fmt.Sprintf("root %s@%d", env, number), Remembered: "that it exists, for it cannot be created", Found: "none in the listing",
				Hint: "it is hidden by a delete marker; let this host see the versions of " + layout.KeyRoot(h.Name, env, number) + ", or remove the marker"}
		}
		if number > layout.MaxNumber {
			return nil, fmt.Errorf("commit %s: %w", env, noSerialLeft(h.Name))
		}
		root := &statement.Root{
			Repository: r.ID(), Host: h.Name, Environment: env, Number: number, Previous: previous, Certificate: h.Certificate,
			Domain: h.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt(),
		}
		b := body(number)
		if b == nil {
			return nil, fmt.Errorf("commit %s: given up", root.Ref())
		}
		if err := h.sealBody(root, b, now); err != nil {
			return nil, err
		}
		object, err := root.Encode(h.key)
		if err != nil {
			return nil, err
		}
		key := layout.KeyRoot(h.Name, env, number)
		opts := storage.PutOptions{SHA256: sha256.Sum256(object), Retention: r.Retention(now)}
		err = r.store.Put(ctx, key, object, opts)
		if errors.Is(err, storage.ErrExists) {
			conflict = number // another process was first
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("commit %s: %w", root.Ref(), err)
		}
		r.rememberPutProof(now)
		return e.readBack(ctx, key, object)
	}
}

// sealBody completes the body and seals it into root.
func (h *Host) sealBody(root *statement.Root, b *statement.RootBody, now time.Time) error {
	rand.Read(b.Nonce[:])
	if b.Finished.IsZero() {
		b.Finished = now
	}
	var err error
	if b.Witnesses, err = h.repo.local.witnesses(h.Name, root.Environment); err != nil {
		return err
	}
	record, err := b.AppendRecord(nil)
	if err != nil {
		return err
	}
	root.SealedBody = seal.Once(h.Domain.RootKey(root.Salt), record, nil)
	return nil
}

// next is the number that a new root may claim, and the hash of the root that
// it follows: the newest that verifies, or the newest remembered. Damaged
// roots are warned of and passed over, for a damaged object must not end the
// protection of what comes after it. So are numbers that are forgotten: a
// snapshot that was born so would be deleted.
func (e *environment) next(ctx context.Context) (previous [32]byte, number uint64, err error) {
	var taken []uint64 // above the newest that counts
	for n, err := range e.numbers(ctx) {
		var s *Snapshot
		if err == nil {
			s, err = e.root(ctx, n)
		}
		var tampered *TamperError
		switch {
		case err == nil:
			previous, number = s.ID, s.Number
		case errors.As(err, &tampered) || !Damaged(err):
			return previous, 0, err
		case e.known != nil && n == e.known.Number: // damaged, but we know what it was
			e.r.warn(err)
			previous, number = e.known.Hash, n
		default:
			e.r.warn(err)
			taken = append(taken, n)
			continue
		}
		break
	}
	x, err := e.r.Tombstone(ctx, e.host, e.name)
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
		previous = sha256.Sum256([]byte(layout.KeyRoot(e.host, e.name, number-1)))
	}
	return previous, number, nil
}

// afterKnown is what a root after the newest remembered says of it, when the
// store still shows that one. Whether there is a newer one the put will tell.
func (e *environment) afterKnown(ctx context.Context) (previous [32]byte, number uint64, err error) {
	if e.known == nil {
		return previous, 0, nil
	}
	object, err := readObject(ctx, e.r.store, layout.KeyRoot(e.host, e.name, e.known.Number))
	switch {
	case err == nil && sha256.Sum256(object) == e.known.Hash:
		return e.known.Hash, e.known.Number + 1, nil
	case err == nil || errors.Is(err, storage.ErrNotFound) || Damaged(err):
		return previous, 0, nil
	}
	return previous, 0, err
}

// readBack says that a root is committed once the store gives it back.
func (e *environment) readBack(ctx context.Context, key string, object []byte) (*Snapshot, error) {
	stored, err := readObject(ctx, e.r.store, key)
	if err == nil && !bytes.Equal(stored, object) {
		err = &DamageError{Key: key, What: "root", Err: errors.New("the store gives back other bytes than were put")}
	}
	if err != nil {
		return nil, fmt.Errorf("read back the root just committed: %w", err)
	}
	root, err := e.check(key, stored)
	if err != nil {
		return nil, err
	}
	s, err := e.snapshot(ctx, root)
	if err != nil {
		return nil, err
	}
	e.r.remember(s)
	return s, nil
}
