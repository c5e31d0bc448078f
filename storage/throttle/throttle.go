// Package throttle limits how fast a store is written and read, all its
// transfers together, without bursts that would fill a line.
package throttle

import (
	"context"
	"io"
	"iter"
	"time"

	"golang.org/x/time/rate"

	"knowngood/storage"
)

// Limiter waits until so many bytes may be moved. A *rate.Limiter is one.
type Limiter interface {
	WaitN(ctx context.Context, bytes int) error
}

// Limits of one or several stores, which keep them together; nil is no limit.
type Limits struct {
	Upload   Limiter
	Download Limiter
}

// Store is a storage.Store that passes bodies on at a limited rate. Requests
// without a body are not held up.
type Store struct {
	inner  storage.Store
	limits Limits
}

var (
	_ storage.Store     = (*Store)(nil)
	_ storage.Unwrapper = (*Store)(nil)
	_ storage.Versioner = (*Store)(nil)
)

// New decorates inner.
func New(inner storage.Store, l Limits) *Store {
	return &Store{inner: inner, limits: l}
}

// Rates limits to so many bytes per second in each direction; see Rate.
func Rates(up, down int64) Limits { return Limits{Upload: Rate(up), Download: Rate(down)} }

// Rate limits to so many bytes per second, 0 for no limit. The bytes of a twentieth
// of a second, or one piece, pass at once.
func Rate(bytesPerSecond int64) Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	burst := bytesPerSecond * int64(50*time.Millisecond) / int64(time.Second)
	return rate.NewLimiter(rate.Limit(bytesPerSecond), max(int(burst), storage.PieceSize))
}

// Unwrap implements storage.Unwrapper.
func (s *Store) Unwrap() storage.Store { return s.inner }

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if s.limits.Upload != nil {
		before := o.Pace
		o.Pace = func(ctx context.Context, n int) error {
			if err := s.limits.Upload.WaitN(ctx, n); err != nil {
				return ended(ctx, err)
			}
			if before != nil {
				return before(ctx, n)
			}
			return nil
		}
	}
	return s.inner.Put(ctx, key, body, o)
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := s.inner.Get(ctx, key, offset, length)
	return s.slow(ctx, key, r, err)
}

// List implements storage.Store.
func (s *Store) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return s.inner.List(ctx, o)
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error { return s.inner.Delete(ctx, key) }

// Versions implements storage.Versioner.
func (s *Store) Versions(ctx context.Context, key string) iter.Seq2[storage.Version, error] {
	v, ok := storage.Capability[storage.Versioner](s.inner)
	if !ok {
		return func(yield func(storage.Version, error) bool) {
			yield(storage.Version{}, &storage.Error{Op: "versions", Key: key, Err: storage.ErrUnsupported})
		}
	}
	return v.Versions(ctx, key)
}

// GetVersion implements storage.Versioner.
func (s *Store) GetVersion(ctx context.Context, key, version string, offset, length int64) (io.ReadCloser, error) {
	v, ok := storage.Capability[storage.Versioner](s.inner)
	if !ok {
		return nil, &storage.Error{Op: "get", Key: key, Err: storage.ErrUnsupported}
	}
	r, err := v.GetVersion(ctx, key, version, offset, length)
	return s.slow(ctx, key, r, err)
}

func (s *Store) slow(ctx context.Context, key string, r io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil || s.limits.Download == nil {
		return r, err
	}
	return &body{ReadCloser: r, ctx: ctx, key: key, limit: s.limits.Download}, nil
}

// body is read at a limited rate.
type body struct {
	io.ReadCloser
	ctx   context.Context
	key   string
	limit Limiter
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), storage.PieceSize)])
	if n > 0 {
		if err := b.limit.WaitN(b.ctx, n); err != nil {
			return 0, &storage.Error{Op: "get", Key: b.key, Err: ended(b.ctx, err)}
		}
	}
	return n, err
}

// ended is the reason that a wait failed. The limiter gives up with an error
// of its own when a deadline comes too soon for the wait.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := ctx.Deadline(); ok {
		return context.DeadlineExceeded
	}
	return err
}
