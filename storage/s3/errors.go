package s3

import (
	"cmp"
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
func (b *bucket) fail(ctx context.Context, op, key string, err error) error {
	e := &storage.Error{Op: op, Store: b.url, Key: key}
	var known *storage.Error
	var moved *redirected
	var reply minio.ErrorResponse
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		e.Err = ctx.Err()
	case errors.As(err, &moved):
		e.Hint, e.Err = b.explainRedirect(moved)
	case errors.As(err, &reply):
		e.Hint, e.Err = b.explain(op, reply)
	default:
		e.Hint, e.Err = b.explainLocal(err)
	}
	return e
}

// explain gives a reply of the server its meaning.
func (b *bucket) explain(op string, r minio.ErrorResponse) (hint string, err error) {
	hint, meaning := withheld(r)
	if op != "get" || meaning == nil {
		hint, meaning = b.meaning(r)
	}
	said := strings.TrimSuffix(r.Message, ".")
	if r.Code != "" && !strings.Contains(said, r.Code) {
		said = r.Code + ": " + said
	}
	if meaning == nil {
		return hint, errors.New(said)
	}
	return hint, fmt.Errorf("%w: %s", meaning, said)
}

// withheld is the meaning of a reply to a request for an object that is about this
// object rather than about the credentials or the request: storage.ErrWithheld, or
// nil. Who may put objects can make any of them so.
func withheld(r minio.ErrorResponse) (hint string, meaning error) {
	if r.Code == "InvalidObjectState" {
		return "the object lies in an archive: restore it to a storage class that can be read", storage.ErrWithheld
	}
	code, message := strings.ToLower(r.Code), strings.ToLower(r.Message)
	switch {
	case transientReply(r) || strings.Contains(code, "throttl"):
		return "", nil
	case r.Code == "InvalidRequest" && strings.Contains(message, "encrypt"),
		strings.Contains(code, "kms"),
		r.Code == "AccessDenied" && (strings.Contains(message, "kms:") || strings.Contains(message, "customer master key")):
		return "the object is encrypted with a key that these credentials may not use", storage.ErrWithheld
	}
	return "", nil
}

// meaning of a reply as a sentinel of package storage, nil for none.
func (b *bucket) meaning(r minio.ErrorResponse) (hint string, meaning error) {
	switch r.Code {
	case "NoSuchKey", "NoSuchVersion", "MethodNotAllowed":
		return "", storage.ErrNotFound
	case "NoSuchBucket":
		return fmt.Sprintf("create the bucket %s first, or check its name and the endpoint", b.name), storage.ErrNoStore
	case "PreconditionFailed":
		return "", storage.ErrExists
	case "SignatureDoesNotMatch":
		return "the secret key does not belong to the access key ID", storage.ErrDenied
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return "the server does not know this access key ID", storage.ErrDenied
	case "InvalidToken", "ExpiredToken", "ExpiredTokenException":
		return "get new temporary credentials", storage.ErrDenied
	case "RequestTimeTooSkewed":
		return fmt.Sprintf("this host's clock, now %s, is off from the server's: synchronise it", time.Now().UTC().Format(time.DateTime+" UTC")), storage.ErrDenied
	case "AuthorizationHeaderMalformed", "InvalidRegion", "IllegalLocationConstraintException":
		return b.elsewhere(cmp.Or(r.Region, regionIn(r.Message)), ""), storage.ErrNoStore
	case "ObjectLocked":
		return "", storage.ErrLocked
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return "make room in the store, or raise the quota of the bucket", storage.ErrFull
	case "NotImplemented":
		return "this server lacks what knowngood needs", storage.ErrUnsupported
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		if strings.Contains(strings.ToLower(r.Message), "object protected") || strings.Contains(r.Message, "WORM") {
			return "", storage.ErrLocked
		}
		return "the policy of these credentials does not allow it", storage.ErrDenied
	case "InvalidRequest", "InvalidBucketObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		if strings.Contains(r.Message, "WORM protected") {
			return "", storage.ErrLocked
		}
		if message := strings.ToLower(r.Message); strings.Contains(message, "lock") {
			return "the bucket has no Object Lock: leave out --lock (repository.lock in the configuration), or use a bucket that was made with it", storage.ErrUnsupported
		}
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch":
		return "bytes change on their way: check memory and network of this host", storage.ErrChecksum
	}
	switch {
	case r.StatusCode == http.StatusBadRequest && r.Region != "" && r.Region != b.options.Region: // to HEAD, which has no code
		return b.elsewhere(r.Region, ""), storage.ErrNoStore
	case r.StatusCode == http.StatusInsufficientStorage:
		return "make room in the store", storage.ErrFull
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		return "check the credentials and their policy", storage.ErrDenied
	case transientReply(r):
		return "it goes on failing after retries: try later, or look at the server", storage.ErrUnavailable
	}
	return "", nil
}

// explainLocal gives an error without a reply its meaning.
func (b *bucket) explainLocal(err error) (hint string, meaning error) {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, storage.ErrCredentials):
		if !strings.Contains(err.Error(), storage.ErrCredentials.Error()) {
			err = fmt.Errorf("%w: %w", storage.ErrCredentials, err)
		}
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of the AWS credentials file", err
	case errors.Is(err, storage.ErrStalled):
		return fmt.Sprintf("no byte moved for %v: look at the network and the server", b.idle), err
	case errors.Is(err, storage.ErrUnproven):
		return "something on the way answers in the store's place, or the store loses what it takes: check the endpoint, proxies on the way, and the server", err
	case errors.As(err, &certificate):
		return "name the certificate of its authority with ca=FILE in the URL of the repository, or in AWS_CA_BUNDLE", fmt.Errorf("%w: %w", storage.ErrUnreachable, err)
	case unreachable(err):
		return "check the endpoint, the network and the server", fmt.Errorf("%w: %w", storage.ErrUnreachable, err)
	case strange(err):
		return "something on the way answers in the store's place: check the endpoint and proxies on the way", fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	case transient(err):
		return "it goes on failing after retries: try later, or look at the server", fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return "", err
}
