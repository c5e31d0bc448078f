package objects

import (
	"context"
	"errors"
	"fmt"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/inventory"
	"knowngood/storage/pack"
)

// stored reads the packs or the containers of a domain.
type stored struct {
	domain
	kind wire.Kind
	*authentic.Hashed
	kept *kept
}

func (d domain) stored(kind wire.Kind) *stored {
	return &stored{domain: d, kind: kind, kept: &kept{}, Hashed: d.repo.t.Read.Hashed(kind.String(), pack.MaxObject)}
}

func (s *stored) key(hash [32]byte) string { return s.domain.key(ID{Kind: s.kind, Hash: hash}) }

func (s *stored) damaged(hash [32]byte, err error) error {
	return &authentic.DamageError{Key: s.key(hash), What: s.kind.String(), Err: err}
}

func (s *stored) compare(ctx context.Context, hash [32]byte, listed int64, done func(bytes int)) error {
	return s.Compare(ctx, s.key(hash), hash, listed, done)
}

// contents reads the end of an object that a listing shows with so many bytes, and
// opens the contents in it, from beneath the current view where that shows something
// else. A negative number is looked up.
func (s *stored) contents(ctx context.Context, hash [32]byte, listed int64) (tail *pack.Tail, contents *pack.Contents, err error) {
	err = s.Verified(ctx, s.key(hash), hash, func() (err error) {
		if tail, err = s.readTail(ctx, hash, listed); err != nil {
			return err
		}
		if contents, err = tail.Contents(s.kind, s.Domain); err != nil {
			return s.damaged(hash, err)
		}
		return nil
	})
	return tail, contents, err
}

// uncoverOwn makes sure that an object is read from the version that has the bytes of its
// name, where the store shows several: who has a host's keys can put another one
// over it whose contents open.
func (s *stored) uncoverOwn(ctx context.Context, o inventory.Object) error {
	all, err := s.Versions(ctx, s.key(o.Hash))
	if err == nil && len(all) > 1 {
		err = s.compare(ctx, o.Hash, int64(o.Size), nil)
	}
	if authentic.Damaged(err) {
		return nil // what is left of it may still be good
	}
	return err
}

// tail reads the end of an object as contents does.
func (s *stored) tail(ctx context.Context, hash [32]byte, listed int64) (tail *pack.Tail, err error) {
	err = s.Verified(ctx, s.key(hash), hash, func() (err error) {
		tail, err = s.readTail(ctx, hash, listed)
		return err
	})
	return tail, err
}

func (s *stored) readTail(ctx context.Context, hash [32]byte, listed int64) (*pack.Tail, error) {
	size, err := s.Size(ctx, s.key(hash), hash, listed)
	if err != nil {
		return nil, err
	}
	n := s.kept.first(hash, size)
	for {
		b, err := s.Range(ctx, nil, s.key(hash), hash, size-n, n)
		if err != nil {
			return nil, err
		}
		t, err := pack.ParseTail(s.kind, b, size)
		if short, ok := errors.AsType[*pack.ErrShortTail](err); ok && short.Need > n && short.Need <= size {
			n = short.Need
			continue
		}
		if err == nil && t.Repository != s.repo.t.ID() {
			err = fmt.Errorf("it belongs to repository %v", t.Repository)
		}
		if err != nil {
			return nil, s.damaged(hash, err)
		}
		if n == size {
			s.kept.put(hash, b)
		}
		return t, nil
	}
}
