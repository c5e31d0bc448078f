package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// lookFirst is the size in bytes from which a put that failed looks whether
// the object is there before it is sent again.
const lookFirst = 256 << 10

// errHidden is a conflict with an object that cannot be seen.
var errHidden = errors.New("the key is taken, but nothing is in view")

// Put implements storage.Store: one conditional request, whose reply must prove
// the object (see prove). The caller's SHA-256 is both the checksum that the
// server verifies and the content hash that is signed, so that the body is not
// hashed again.
func (s *Store) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if err := begin(ctx, key); err != nil {
		return s.bucket.fail(ctx, "put", key, err)
	}
	if o.Retention.Mode != "" {
		if err := s.checkLocks(ctx); err != nil {
			return s.bucket.fail(ctx, "put", key, err)
		}
	}
	if o.SHA256 == [32]byte{} {
		o.SHA256 = sha256.Sum256(body)
	}
	c := creation{s: s, key: key, body: body, sum: o.SHA256, send: s.putRequest(key, body, o, true)}
	err := s.retry.do(ctx, func() error { return c.try(ctx) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errHidden):
		return &storage.Error{Op: "put", Store: s.bucket.url, Key: key, Err: storage.ErrExists, Hint: "the object is hidden by a delete marker: somebody deleted it"}
	}
	return s.bucket.fail(ctx, "put", key, err)
}

// creation is one Put, with what its attempts so far have found out.
type creation struct {
	s    *Store
	key  string
	body []byte
	sum  [32]byte
	send func(context.Context) (minio.UploadInfo, error)

	sent   bool // an attempt was made, and its outcome is not known
	hidden bool // an attempt met an object that was not in view
}

func (c *creation) try(ctx context.Context) error {
	if c.sent && len(c.body) >= lookFirst {
		// A server that refuses a put may hang up before it has read the
		// body, and the sender then often loses the answer. A request for the
		// object is cheaper than sending again, and its answer is certain.
		if err := c.same(ctx); !errors.Is(err, errHidden) {
			return err
		}
	}
	c.sent = true
	reply, err := c.send(ctx)
	switch code := minio.ToErrorResponse(err).Code; {
	case err == nil:
		err = c.prove(ctx, reply)
	case code == "PreconditionFailed":
		// Either an attempt before this succeeded and its reply was lost,
		// or the key is another's.
		err = c.same(ctx)
		if errors.Is(err, errHidden) && !c.hidden {
			c.hidden = true
			return c.try(ctx) // it may have been deleted between the two requests
		}
	case isChecksumCode(code) && sha256.Sum256(c.body) != c.sum:
		// Bytes that changed on their way are sent again, bytes that never
		// were those of the checksum are not.
		err = storage.ErrChecksum
	}
	return err
}

// same returns nil when the object in the store has the bytes of body, and
// storage.ErrExists when it has others.
func (c *creation) same(ctx context.Context) error {
	info, err := c.s.client.StatObject(ctx, c.s.bucket.name, c.s.bucket.prefix+c.key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusNotFound {
			return errHidden
		}
		if c.withheld(ctx, err) {
			return storage.ErrExists
		}
		if errors.Is(objectError(err), errNoObject) {
			err = fmt.Errorf("%w: %w", storage.ErrUnproven, errNoObject)
		}
		return err
	}
	if info.Size >= 0 && info.Size != int64(len(c.body)) { // a reply may lack it
		return storage.ErrExists
	}
	// The server verified the checksum at the upload. Another one proves
	// other bytes only when it covers all of the object, not parts of it.
	if info.ChecksumSHA256 == base64.StdEncoding.EncodeToString(c.sum[:]) {
		return nil
	}

	r, err := c.s.Get(ctx, c.key, 0, -1)
	if errors.Is(err, storage.ErrWithheld) {
		return storage.ErrExists
	}
	if err != nil {
		return err
	}
	defer r.Close()
	have := sha256.New()
	if _, err := io.Copy(have, r); err != nil {
		return err
	}
	if !bytes.Equal(have.Sum(nil), c.sum[:]) {
		return storage.ErrExists
	}
	return nil
}

// withheld reports whether err, the refusal of a request without a body, is about an
// object that the server does not give out: the reply to another request shows it.
func (c *creation) withheld(ctx context.Context, err error) bool {
	code := minio.ToErrorResponse(err).StatusCode
	if code != http.StatusBadRequest && code != http.StatusForbidden {
		return false
	}
	r, err := c.s.Get(ctx, c.key, 0, 1)
	if err == nil {
		_ = r.Close() // nothing of it is needed
	}
	return errors.Is(err, storage.ErrWithheld)
}

func isChecksumCode(code string) bool {
	return code == "BadDigest" || code == "XAmzContentSHA256Mismatch" || code == "XAmzContentChecksumMismatch"
}

// PlainPut implements storage.PlainPutter: one request without If-None-Match.
func (s *Store) PlainPut(ctx context.Context, key string, body []byte) error {
	err := begin(ctx, key)
	if err == nil {
		send := s.putRequest(key, body, storage.PutOptions{SHA256: sha256.Sum256(body)}, false)
		err = s.retry.do(ctx, func() error { _, err := send(ctx); return err })
	}
	return s.bucket.fail(ctx, "plain put", key, err)
}

// putRequest returns the function that sends one attempt to put an object, which
// refuses to overwrite when create is set.
func (s *Store) putRequest(key string, body []byte, o storage.PutOptions, create bool) func(context.Context) (minio.UploadInfo, error) {
	var options minio.PutObjectOptions
	if create {
		options.SetMatchETagExcept("*")
	}
	options.DisableMultipart = true
	options.DisableContentSha256 = true // of pieces of the body; all of it is signed
	options.UserMetadata = map[string]string{
		"X-Amz-Checksum-Sha256":        base64.StdEncoding.EncodeToString(o.SHA256[:]),
		"X-Amz-Sdk-Checksum-Algorithm": "SHA256",
	}
	var md5Sum string
	if o.Retention.Mode != "" {
		options.Mode = minio.RetentionMode(o.Retention.Mode)
		options.RetainUntilDate = wholeSeconds(o.Retention.Until)
		// Amazon accepts either checksum for a locked put; others only the
		// older one.
		sum := md5.Sum(body)
		md5Sum = base64.StdEncoding.EncodeToString(sum[:])
	}
	sha256Hex := hex.EncodeToString(o.SHA256[:])
	return func(ctx context.Context) (minio.UploadInfo, error) {
		var r io.ReadSeeker = bytes.NewReader(body)
		if o.Pace != nil {
			r = &paced{ctx, r, o.Pace}
		}
		return s.client.PutObject(ctx, s.bucket.name, s.bucket.prefix+key, r, int64(len(body)), md5Sum, sha256Hex, options)
	}
}

// paced is a body that is sent at the rate of storage.PutOptions.Pace.
type paced struct {
	ctx context.Context
	io.ReadSeeker
	pace func(ctx context.Context, n int) error
}

func (r *paced) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p[:min(len(p), storage.PieceSize)])
	if n > 0 {
		if err := r.pace(r.ctx, n); err != nil {
			return 0, err
		}
	}
	return n, err
}

// Delete implements storage.Store. On a versioned bucket it puts a delete
// marker on top.
func (s *Store) Delete(ctx context.Context, key string) error { return s.DeleteVersion(ctx, key, "") }

func begin(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// wholeSeconds rounds up, as locks have no finer times.
func wholeSeconds(t time.Time) time.Time {
	t = t.UTC()
	if whole := t.Truncate(time.Second); !whole.Equal(t) {
		return whole.Add(time.Second)
	}
	return t
}
