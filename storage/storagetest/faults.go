package storagetest

import (
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"

	"knowngood/storage"
)

// FailBefore fails an operation that then has no effect; with ErrInjected
// when err is nil.
func FailBefore(err error) Fault { return Fault{before: orInjected(err)} }

// FailAfter fails an operation that has had its effect. A listing fails at
// its end.
func FailAfter(err error) Fault { return Fault{after: orInjected(err)} }

// LostReply is a network that loses the answer, and a store that gave up
// asking for it.
func LostReply() Fault { return Fault{after: storage.ErrUnavailable} }

// Throttled is a store that is asked too much (503), after retries.
func Throttled() Fault { return Fault{before: storage.ErrUnavailable} }

// DiskFull is a store without room.
func DiskFull() Fault { return Fault{before: storage.ErrFull} }

// Delayed waits before the operation, as long as its context allows.
func Delayed(d time.Duration) Fault { return Fault{delay: d} }

// Truncated ends a body after n bytes as if that were all. A listing ends
// after n objects, which is at least one.
func Truncated(n int) Fault {
	return Fault{limit: max(n, 1), body: func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		return withReader{io.LimitReader(r, int64(n)), r}
	}}
}

// FlippedBit changes the lowest bit of the byte at an offset of the body.
func FlippedBit(offset int64) Fault {
	return Fault{body: func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		return &flipped{r, offset}
	}}
}

// Broken fails a body with io.ErrUnexpectedEOF after n bytes.
func Broken(n int64) Fault {
	return Fault{body: func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		return withReader{io.MultiReader(io.LimitReader(r, n), breaking{}), r}
	}}
}

// Stalled sends nothing more of a body after n bytes until the context ends.
func Stalled(n int64) Fault {
	return Fault{body: func(ctx context.Context, r io.ReadCloser) io.ReadCloser {
		return withReader{io.MultiReader(io.LimitReader(r, n), stalled{ctx}), r}
	}}
}

// Slow sends a body at so many bytes per second.
func Slow(bytesPerSecond int) Fault {
	return Fault{body: func(ctx context.Context, r io.ReadCloser) io.ReadCloser {
		return withReader{&slow{ctx, r, rate.NewLimiter(rate.Limit(bytesPerSecond), slowPiece)}, r}
	}}
}

// Meanwhile calls do when the store has chosen what it sends, and before it sends
// that.
func Meanwhile(do func()) Fault {
	return Fault{body: func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		do()
		return r
	}}
}

func orInjected(err error) error {
	if err == nil {
		return ErrInjected
	}
	return err
}

// withReader is a body that is read through something else.
type withReader struct {
	io.Reader
	io.Closer
}

type flipped struct {
	io.ReadCloser
	offset int64 // from here on
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.offset >= 0 && f.offset < int64(n) {
		p[f.offset] ^= 1
	}
	f.offset -= int64(n)
	return n, err
}

type breaking struct{}

func (breaking) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

const slowPiece = 4 << 10 // bytes

type slow struct {
	ctx   context.Context
	r     io.Reader
	limit *rate.Limiter
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), slowPiece)])
	if n > 0 {
		if err := s.limit.WaitN(s.ctx, n); err != nil {
			return 0, err
		}
	}
	return n, err
}
