package objects

import (
	"context"
	"errors"
	"fmt"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/pack"
)

// stored reads the packs or the containers of a domain.
type stored struct {
	domain
	kind wire.Kind
	*authentic.Hashed
}

func (d domain) stored(kind wire.Kind) *stored {
	return &stored{d, kind, d.repo.t.Read.Hashed(kind.String(), pack.MaxObject)}
}

func (s *stored) key(hash [32]byte) string { return s.domain.key(ID{Kind: s.kind, Hash: hash}) }

func (s *stored) damaged(hash [32]byte, err error) error {
	return &authentic.DamageError{Key: s.key(hash), What: s.kind.String(), Err: err}
}

// contents reads the end of an object that is size bytes long, and opens the
// contents in it.
func (s *stored) contents(ctx context.Context, hash [32]byte, size int64) (*pack.Tail, *pack.Contents, error) {
	tail, err := s.tail(ctx, hash, size)
	if err != nil {
		return nil, nil, err
	}
	c, err := tail.Contents(s.kind, s.Domain)
	if err != nil {
		return nil, nil, s.damaged(hash, err)
	}
	return tail, c, nil
}

// tail reads the end of an object that is size bytes long, from beneath the
// current view where that shows something else; a negative size is looked up.
func (s *stored) tail(ctx context.Context, hash [32]byte, size int64) (*pack.Tail, error) {
	t, err := s.currentTail(ctx, hash, size)
	if !authentic.Damaged(err) && !errors.Is(err, storage.ErrNotFound) || s.Looked(hash) {
		return t, err
	}
	again, uerr := s.Uncover(ctx, s.key(hash), hash)
	switch {
	case uerr != nil:
		return nil, uerr
	case again:
		object, err := s.Whole(ctx, nil, s.key(hash), hash)
		if err != nil {
			return nil, err
		}
		return s.parseTail(hash, object, int64(len(object)))
	case authentic.Damaged(err):
		return nil, err
	}
	return nil, s.damaged(hash, err)
}

func (s *stored) currentTail(ctx context.Context, hash [32]byte, size int64) (*pack.Tail, error) {
	if size < 0 {
		var err error
		if size, err = s.Size(ctx, s.key(hash)); err != nil {
			return nil, err
		}
	}
	n := min(size, pack.TailLen)
	for {
		b, err := s.Range(ctx, nil, s.key(hash), hash, size-n, n)
		if err != nil {
			return nil, err
		}
		t, err := s.parseTail(hash, b, size)
		var short *pack.ErrShortTail
		if errors.As(err, &short) && short.Need > n && short.Need <= size {
			n = short.Need
			continue
		}
		return t, err
	}
}

func (s *stored) parseTail(hash [32]byte, end []byte, size int64) (*pack.Tail, error) {
	t, err := pack.ParseTail(s.kind, end, size)
	if err == nil && t.Repository != s.repo.t.ID() {
		err = fmt.Errorf("it belongs to repository %v", t.Repository)
	}
	if err != nil {
		return nil, s.damaged(hash, err)
	}
	return t, nil
}
