package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"

	"github.com/minio/minio-go/v7"
)

var (
	errRangeIgnored = errors.New("the server sends another range than was asked for")
	errChanged      = errors.New("the object was replaced while it was read")
)

// Get implements storage.Store. The reader continues by itself when the
// transfer breaks off or stalls.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return s.GetVersion(ctx, key, "", offset, length)
}

// GetVersion implements storage.Versioner; the empty version is the newest.
func (s *Store) GetVersion(ctx context.Context, key, version string, offset, length int64) (io.ReadCloser, error) {
	err := begin(ctx, key)
	if err == nil && offset < 0 {
		err = fmt.Errorf("negative offset %d", offset)
	}
	if err != nil {
		return nil, s.bucket.fail(ctx, "get", key, err)
	}
	if length < 0 || length > math.MaxInt64-offset {
		length = -1
	}
	b := &body{ctx: ctx, s: s, key: key, version: version, pos: offset, left: length, attempts: attempts{retrier: s.retry}}
	if err := s.retry.do(ctx, b.open); err != nil {
		return nil, s.bucket.fail(ctx, "get", key, err)
	}
	return b, nil
}

// body is a download that survives broken connections.
type body struct {
	ctx          context.Context
	s            *Store
	key, version string

	pos  int64 // of the next byte in the object
	left int64 // bytes still to come; negative: to the end
	etag string
	r    io.ReadCloser
	attempts
	err error // sticky
}

// open starts a transfer at pos. A body of nothing is asked for by its first
// byte, so that it is known to exist.
func (b *body) open() error {
	options := minio.GetObjectOptions{VersionID: b.version}
	ranged := b.pos > 0 || b.left >= 0
	if ranged {
		last := int64(0) // to the end
		if b.left >= 0 {
			last = b.pos + max(b.left, 1) - 1
		}
		if err := options.SetRange(b.pos, last); err != nil {
			return err
		}
	}
	if b.etag != "" {
		if err := options.SetMatchETag(b.etag); err != nil {
			return err
		}
	}
	r, info, header, err := b.s.client.GetObject(b.ctx, b.s.bucket.name, b.s.bucket.prefix+b.key, options)
	err = objectError(err)
	switch code := minio.ToErrorResponse(err); {
	case err == nil:
	case code.StatusCode == http.StatusRequestedRangeNotSatisfiable && b.etag == "":
		b.left = 0 // it exists and ends before pos
		b.r = http.NoBody
		return nil
	case code.StatusCode == http.StatusPreconditionFailed:
		return errChanged
	default:
		return err
	}
	size := info.Size
	if ranged {
		if size, err = b.ranged(header, size); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	if size >= 0 && (b.left < 0 || size < b.left) {
		b.left = size
	}
	b.etag, b.r = info.ETag, r
	return nil
}

// ranged returns how many bytes follow the header of a reply to a request for a
// range, size by its Content-Length: as many as were asked for, or as the object
// has. A server that sends all of a small object is right when pos is its start.
func (b *body) ranged(h http.Header, size int64) (int64, error) {
	contentRange := h.Get("Content-Range")
	if contentRange == "" && b.pos == 0 {
		return size, nil
	}
	var first, last int64
	var total string
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%s", &first, &last, &total); err != nil || first != b.pos {
		return 0, errRangeIgnored
	}

	n := last - first + 1
	if size >= 0 && size != n {
		return 0, errTooShort
	}
	if whole, err := strconv.ParseInt(total, 10, 64); err == nil {
		want := whole - first
		if b.left >= 0 {
			want = min(want, max(b.left, 1))
		}
		if n < want {
			return 0, errTooShort
		}
	}
	return n, nil
}

func (b *body) Read(p []byte) (int, error) {
	if b.err == nil && b.ctx.Err() != nil {
		b.err = b.s.bucket.fail(b.ctx, "get", b.key, b.ctx.Err())
	}
	for b.err == nil {
		if b.left == 0 {
			return 0, io.EOF
		}
		if b.left > 0 && int64(len(p)) > b.left {
			p = p[:b.left]
		}
		n, err := b.r.Read(p)
		b.pos += int64(n)
		if b.left > 0 {
			b.left -= int64(n)
		}
		switch {
		case n > 0:
			b.progressed()
			return n, nil
		case err == io.EOF && b.left < 0:
			return 0, io.EOF
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			b.resume(err)
		}
	}
	return 0, b.err
}

// resume opens a new transfer after cause broke the last.
func (b *body) resume(cause error) {
	_ = b.r.Close() // it failed already
	b.r = http.NoBody
	for err := cause; ; {
		if !b.again(b.ctx, err) {
			b.err = b.s.bucket.fail(b.ctx, "get", b.key, err)
			return
		}
		if err = b.open(); err == nil {
			return
		}
	}
}

func (b *body) Close() error { return b.r.Close() }
