// Package s3 keeps objects in a bucket of any server that speaks the S3
// protocol and has conditional puts.
//
// It promises what storage.Store does over a network that loses, delays and
// garbles: every request is retried with a policy of its own, a lost reply is
// distinguished from a conflict, a transfer that stands still is given up, a
// download that breaks continues from where it stopped, uploads carry their
// SHA-256 for the server to verify, and a put counts only when its reply, or
// reading back, proves that the store has the object.
//
// It refuses to overwrite, to work without credentials, and to upload in
// parts: a put is one request, atomic, and leaves nothing behind when it
// fails.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"knowngood/storage"
)

// Addressing is how requests name the bucket.
type Addressing int

// The ways to name the bucket: in the host name for Amazon and Google and in
// the path for others, always in the path, always in the host name.
const (
	AddressAuto Addressing = iota
	AddressPath
	AddressHost
)

// Config is where a bucket is and how to reach it.
type Config struct {
	Bucket string
	// Prefix of all keys in the bucket, without slashes at its ends.
	Prefix string
	// Endpoint is the URL of the server; empty means Amazon S3.
	Endpoint string
	// Region, when empty, comes from AWS_REGION, from AWS_DEFAULT_REGION, or from
	// the server.
	Region     string
	Addressing Addressing
	// CAFile holds PEM certificates to trust beside the system's. The file
	// that AWS_CA_BUNDLE names does when empty.
	CAFile string
	// Profile of the AWS credential files. When empty, all of the AWS chain
	// is tried.
	Profile string
	// MaxRetries of one operation, after its first attempt. 0 means 8,
	// less means none.
	MaxRetries int
	// IdleTimeout is how long a transfer may stand still. 0 means 60 s.
	IdleTimeout time.Duration
}

const (
	defaultEndpoint    = "https://s3.amazonaws.com"
	defaultRegion      = "us-east-1"
	defaultRetries     = 8
	defaultIdleTimeout = 60 * time.Second
	maxPrefix          = 1024 - storage.MaxKey - 1
)

// Store is a storage.Store in a bucket. It is also a storage.Versioner, a
// storage.Retainer, a storage.Counter, a storage.Prover and a storage.PlainPutter.
type Store struct {
	bucket    *bucket
	client    *minio.Core
	transport *transport
	retry     *retrier
	locks     atomic.Bool  // the bucket has Object Lock, or does not show whether
	blind     atomic.Bool  // we may not list versions
	foreign   atomic.Bool  // ETags are no MD5 of what was put
	proof     atomic.Int32 // storage.PutProof of the last put
}

var (
	_ storage.Store     = (*Store)(nil)
	_ storage.Versioner = (*Store)(nil)
	_ storage.Retainer  = (*Store)(nil)
	_ storage.Counter   = (*Store)(nil)
	_ storage.Prover    = (*Store)(nil)

	_ storage.PlainPutter = (*Store)(nil)
)

// ErrConfig is a Config that no server could be reached with.
var ErrConfig = errors.New("invalid configuration of the store")

// ErrBucketName is the name of a bucket that breaks the rules of Amazon S3, which
// some servers do not enforce: Open accepts it, and Check does not.
var ErrBucketName = errors.New("not a name of a bucket by the rules of S3")

// Check reports each mistake for which Open would refuse a Config, whatever the server
// and the credentials are, and a name of a bucket that breaks the rules; it asks
// nothing of anybody.
func Check(c Config) []error {
	s, wrong := newStore(c)
	if wrong == nil {
		if _, err := s.bucket.newClient(s.transport); err != nil {
			wrong = append(wrong, err)
		}
	}
	if s3utils.CheckValidBucketName(c.Bucket) == nil && s3utils.CheckValidBucketNameStrict(c.Bucket) != nil {
		wrong = append(wrong, fmt.Errorf("%w: %q: use lower-case letters, digits, dots and hyphens, from 3 to 63 of them, with a letter or digit at both ends", ErrBucketName, c.Bucket))
	}
	return wrong
}

// Open finds credentials and, where it is not given, the region of the
// bucket. Otherwise it asks nothing of the server: a missing bucket may show
// only with the first operation. ctx governs only the opening.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, wrong := newStore(c)
	if wrong != nil {
		return nil, &storage.Error{Op: "open", Store: c.URL(), Err: fmt.Errorf("%w: %w", ErrConfig, wrong[0])}
	}

	b := s.bucket
	var err error
	if s.retry.creds, err = findCredentials(ctx, c.Profile); err != nil {
		return nil, b.fail(ctx, "open", "", err)
	}
	b.options.Creds = s.retry.creds
	if b.options.Region == "" {
		if b.options.Region, err = s.findRegion(ctx); err != nil {
			return nil, b.fail(ctx, "open", "", err)
		}
	}
	if s.client, err = b.newClient(s.transport); err != nil {
		return nil, b.fail(ctx, "open", "", err)
	}
	return s, nil
}

// newStore returns a store without credentials and client, or what is wrong with c.
func newStore(c Config) (*Store, []error) {
	c.MaxRetries = cmp.Or(c.MaxRetries, defaultRetries)
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = defaultIdleTimeout
	}
	b, wrong := newBucket(c)
	t, err := newTransport(c)
	if err != nil {
		wrong = append(wrong, err)
	}
	if wrong != nil {
		return nil, wrong
	}
	return &Store{bucket: b, transport: t, retry: &retrier{max: c.MaxRetries, counts: t.counts}}, nil
}

// URL of the store, without anything secret.
func (c Config) URL() string {
	u := url.URL{Scheme: "s3", Host: c.Bucket, Path: c.Prefix}
	if c.Endpoint == "" {
		return u.String()
	}
	// The endpoint distinguishes two buckets of one name. What is no URL may be
	// a secret in the wrong place.
	u.RawQuery = "endpoint=…"
	if e, err := url.Parse(c.Endpoint); err == nil && e.Host != "" {
		u.RawQuery = "endpoint=" + e.Scheme + "://" + e.Host
	}
	return u.String()
}

// findRegion asks the server where the bucket is.
func (s *Store) findRegion(ctx context.Context) (string, error) {
	client, err := s.bucket.newClient(s.transport)
	if err != nil {
		return "", err
	}
	var region string
	err = s.retry.do(ctx, func() error {
		region, err = client.GetBucketLocation(ctx, s.bucket.name)
		return err
	})
	if named := regionOf(err); named != "" {
		return named, nil
	}
	return cmp.Or(region, defaultRegion), err
}

// Stats implements storage.Counter.
func (s *Store) Stats() storage.Stats { return s.retry.counts.stats() }

// Close gives back the connections that are kept for the next request. The
// store stays usable.
func (s *Store) Close() { s.transport.base.CloseIdleConnections() }

// String is the URL of the store, without anything secret.
func (s *Store) String() string { return s.bucket.url }

// Region is where the bucket is: as configured, or as the server named it.
func (s *Store) Region() string { return s.bucket.options.Region }
