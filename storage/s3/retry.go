package s3

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"knowngood/storage"
)

const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = 10 * time.Second
	// A server that was never reached is more likely misspelt than down.
	retriesBeforeContact = 3
	// Each stall has cost an idle time.
	retriesOfStalls = 2
	// Whatever answers in the server's place seldom stops.
	retriesOfStrange = 2
)

// retrier repeats operations that failed: with exponential backoff and jitter,
// within a number of retries.
type retrier struct {
	max     int // of one operation, after its first attempt
	creds   *credentials.Credentials
	counts  *counts
	reached atomic.Bool // the server has answered before
}

// do calls f until it succeeds, fails permanently, or retries are used up.
func (r *retrier) do(ctx context.Context, f func() error) error {
	a := attempts{retrier: r}
	for {
		err := f()
		if err == nil {
			r.reached.Store(true)
			return nil
		}
		if !a.again(ctx, err) {
			return err
		}
	}
}

// attempts are those of one operation.
type attempts struct {
	*retrier
	failed  int
	stalls  int
	strange int
}

// again waits, and then reports true, when the operation should be tried again.
func (a *attempts) again(ctx context.Context, err error) bool {
	code := minio.ToErrorResponse(err).Code
	if code != "" {
		a.reached.Store(true)
	}
	if ctx.Err() != nil || !transient(err) {
		return false
	}
	limit := a.max
	if unreachable(err) && !a.reached.Load() {
		limit = min(limit, retriesBeforeContact)
	}
	if errors.Is(err, storage.ErrStalled) {
		if a.stalls++; a.stalls > retriesOfStalls {
			return false
		}
	}
	if strange(err) {
		if a.strange++; a.strange > retriesOfStrange {
			return false
		}
	}
	if a.failed++; a.failed > limit {
		return false
	}
	if strings.HasPrefix(code, "ExpiredToken") {
		if a.failed > 1 {
			return false // the new ones have expired too
		}
		a.creds.Expire()
	}
	select {
	case <-time.After(delay(a.failed)):
	case <-ctx.Done():
		return false
	}
	a.counts.retries.Add(1)
	return true
}

// progressed notes that something was achieved since the last failure.
func (a *attempts) progressed() { a.failed, a.stalls, a.strange = 0, 0, 0 }

// delay before the n-th retry, counted from 1: between half and all of a
// time that doubles, so that many clients do not come back together.
func delay(n int) time.Duration {
	d := maxDelay
	if n < 8 {
		d = min(maxDelay, firstDelay<<(n-1))
	}
	return d/2 + rand.N(d/2)
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	if reply, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return transientReply(reply)
	}
	var final *storage.Error // of an operation within, with retries of its own
	if errors.As(err, &final) {
		return false
	}
	var moved *redirected
	var certificate *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	if errors.As(err, &moved) || errors.As(err, &certificate) || errors.As(err, &plain) || strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		return false
	}
	var request *url.Error
	var network net.Error
	var syntax *xml.SyntaxError // the listing broke off
	return errors.Is(err, storage.ErrStalled) || strange(err) || errors.Is(err, errBreaksOff) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, storage.ErrCredentials) ||
		errors.As(err, &request) || errors.As(err, &network) || errors.As(err, &syntax)
}

func transientReply(r minio.ErrorResponse) bool {
	switch r.Code {
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "IncompleteBody",
		"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
		"ExpiredToken", "ExpiredTokenException":
		return true
	}
	switch r.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusInsufficientStorage, http.StatusHTTPVersionNotSupported:
		return false
	}
	return r.StatusCode >= 500
}

// unreachable reports whether no connection came about.
func unreachable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}
