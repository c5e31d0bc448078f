package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// readBackBytes is how much of the end of an object is read back, in bytes,
// when the reply to its put proves nothing. Smaller objects are read completely.
const readBackBytes = 64 << 10

// PutProof implements storage.Prover.
func (s *Store) PutProof() storage.PutProof { return storage.PutProof(s.proof.Load()) }

// prove returns nil when the object is known to be in the store: the reply to
// its put names the SHA-256 that was sent, or the MD5 of the body as its ETag;
// or, where it does neither, the end of the object reads back as it was sent.
// Else the error is storage.ErrUnproven: whatever answered may be no store.
func (c *creation) prove(ctx context.Context, reply minio.UploadInfo) error {
	if c.proves(reply) {
		c.s.proof.Store(int32(storage.ProofByReply))
		return nil
	}
	if err := c.readBack(ctx); err != nil {
		return err
	}
	if reply.ETag != "" {
		c.s.foreign.Store(true)
	}
	c.s.proof.Store(int32(storage.ProofByReading))
	return nil
}

// proves reports whether the reply names a hash of the body. ETags of encrypted
// objects and of some servers are no MD5: once one such object was found to be
// there, no MD5 is computed any more.
func (c *creation) proves(reply minio.UploadInfo) bool {
	if reply.ChecksumSHA256 == base64.StdEncoding.EncodeToString(c.sum[:]) {
		return true
	}
	if len(reply.ETag) != hex.EncodedLen(md5.Size) || c.s.foreign.Load() {
		return false
	}
	sum := md5.Sum(c.body)
	return strings.EqualFold(reply.ETag, hex.EncodeToString(sum[:]))
}

// readBack compares the end of the object in the store with that of the body.
// The range is open at its end, so that an object of another length differs.
func (c *creation) readBack(ctx context.Context) error {
	end := c.body[max(0, len(c.body)-readBackBytes):]
	r, err := c.s.Get(ctx, c.key, int64(len(c.body)-len(end)), -1)
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: it is not there", storage.ErrUnproven)
	}
	if errors.Is(err, errNoObject) {
		return fmt.Errorf("%w: %w", storage.ErrUnproven, errNoObject)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	have, err := io.ReadAll(io.LimitReader(r, int64(len(end))+1))
	if err != nil {
		return err
	}
	if !bytes.Equal(have, end) {
		return fmt.Errorf("%w: it reads back as other bytes", storage.ErrUnproven)
	}
	return nil
}
