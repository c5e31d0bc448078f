package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// fail gives the error of an operation its meaning: a sentinel of package
// storage, the words of the server, and what the operator can do.
func (s *Store) fail(ctx context.Context, op, key string, err error) error {
	e := &storage.Error{Op: op, Store: s.url, Key: key}
	var known *storage.Error
	var reply minio.ErrorResponse
	switch {
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		e.Err = ctx.Err()
	case errors.As(err, &reply):
		e.Err, e.Hint = s.explain(reply)
	default:
		e.Err, e.Hint = s.explainLocal(err)
	}
	return e
}

// explain gives a reply of the server its meaning.
func (s *Store) explain(r minio.ErrorResponse) (error, string) {
	meaning, hint := s.meaning(r)
	said := strings.TrimSuffix(r.Message, ".")
	if r.Code != "" && !strings.Contains(said, r.Code) {
		said = r.Code + ": " + said
	}
	if meaning == nil {
		return errors.New(said), hint
	}
	return fmt.Errorf("%w: %s", meaning, said), hint
}

func (s *Store) meaning(r minio.ErrorResponse) (error, string) {
	switch r.Code {
	case "NoSuchKey", "NoSuchVersion", "MethodNotAllowed":
		return storage.ErrNotFound, ""
	case "NoSuchBucket":
		return storage.ErrNoStore, fmt.Sprintf("create the bucket %s first, or check its name and the endpoint", s.bucket)
	case "PreconditionFailed":
		return storage.ErrExists, ""
	case "SignatureDoesNotMatch":
		return storage.ErrDenied, "the secret key does not belong to the access key ID"
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return storage.ErrDenied, "the server does not know this access key ID"
	case "InvalidToken", "ExpiredToken", "ExpiredTokenException":
		return storage.ErrDenied, "get new temporary credentials"
	case "RequestTimeTooSkewed":
		return storage.ErrDenied, fmt.Sprintf("this host's clock, now %s, is off from the server's: synchronise it", time.Now().UTC().Format(time.DateTime+" UTC"))
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		if r.Region != "" {
			return storage.ErrNoStore, "the bucket is in another region: set region=" + r.Region
		}
		return storage.ErrNoStore, "the bucket is in another region: check region and endpoint"
	case "ObjectLocked", "InvalidObjectState":
		return storage.ErrLocked, ""
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return storage.ErrFull, "make room in the store, or raise the quota of the bucket"
	case "NotImplemented":
		return storage.ErrUnsupported, "this server lacks what knowngood needs"
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		if strings.Contains(strings.ToLower(r.Message), "object protected") || strings.Contains(r.Message, "WORM") {
			return storage.ErrLocked, ""
		}
		return storage.ErrDenied, "the policy of these credentials does not allow it"
	case "InvalidRequest", "InvalidBucketObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		if message := strings.ToLower(r.Message); strings.Contains(message, "lock") {
			return storage.ErrUnsupported, "the bucket was made without Object Lock"
		}
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch":
		return storage.ErrChecksum, "bytes change on their way: check memory and network of this host"
	}
	switch {
	case r.StatusCode == http.StatusInsufficientStorage:
		return storage.ErrFull, "make room in the store"
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		return storage.ErrDenied, "check the credentials and their policy"
	case transientReply(r):
		return storage.ErrUnavailable, "it goes on failing after retries: try later, or look at the server"
	}
	return nil, ""
}

// explainLocal gives an error without a reply its meaning.
func (s *Store) explainLocal(err error) (error, string) {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, storage.ErrCredentials):
		if !strings.Contains(err.Error(), storage.ErrCredentials.Error()) {
			err = fmt.Errorf("%w: %w", storage.ErrCredentials, err)
		}
		return err, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of the AWS credentials file"
	case errors.Is(err, storage.ErrStalled):
		return err, fmt.Sprintf("no byte moved for %v: look at the network and the server", s.transport.idle)
	case errors.As(err, &certificate):
		return fmt.Errorf("%w: %w", storage.ErrUnreachable, err), "name the certificate of its authority with ca=FILE"
	case unreachable(err):
		return fmt.Errorf("%w: %w", storage.ErrUnreachable, err), "check the endpoint, the network and the server"
	case transient(err):
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err), "it goes on failing after retries: try later, or look at the server"
	}
	return err, ""
}
