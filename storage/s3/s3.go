// Package s3 keeps objects in a bucket of any server that speaks the S3
// protocol and has conditional puts.
//
// It promises what storage.Store does over a network that loses, delays and
// garbles: every request is retried with a policy of its own, a lost reply is
// told from a conflict, a transfer that stands still is given up, a download
// that breaks goes on from where it stopped, uploads carry their SHA-256 for
// the server to verify, and a put counts only when its reply, or reading back,
// proves that the store has the object.
//
// It refuses to overwrite, to go on without credentials, and to upload in
// parts: a put is one request, atomic, and leaves nothing behind when it
// fails.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
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

// Config says where a bucket is and how to reach it.
type Config struct {
	Bucket string
	// Prefix of all keys in the bucket, without slashes at its ends.
	Prefix string
	// Endpoint is the URL of the server; empty means Amazon S3.
	Endpoint string
	// Region is looked for in AWS_REGION, in AWS_DEFAULT_REGION and then
	// at the server when empty.
	Region     string
	Addressing Addressing
	// CAFile holds PEM certificates to trust beside the system's. The file
	// that AWS_CA_BUNDLE names does when empty.
	CAFile string
	// Profile of the AWS credential files. When empty, the whole AWS chain
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
	url       string
	bucket    string
	prefix    string // "" or ends in a slash
	endpoint  *url.URL
	options   minio.Options
	client    *minio.Core
	creds     *credentials.Credentials
	transport *transport
	retries   int
	counts    *counts
	reached   atomic.Bool  // the server has answered before
	locks     atomic.Bool  // the bucket has Object Lock, or will not tell
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
// some servers do not hold to: Open takes it, and Check does not.
var ErrBucketName = errors.New("not a name of a bucket by the rules of S3")

// Check reports what Open would refuse of a Config, whatever the server and the
// credentials are, and a name of a bucket that breaks the rules; it asks nothing
// of anybody.
func Check(c Config) error {
	s, err := prepare(c)
	if err == nil {
		_, err = s.newClient(s.transport)
	}
	if err != nil {
		return err
	}
	if s3utils.CheckValidBucketNameStrict(c.Bucket) != nil {
		return fmt.Errorf("%w: %q: use lower-case letters, digits, dots and hyphens, from 3 to 63 of them, with a letter or digit at both ends", ErrBucketName, c.Bucket)
	}
	return nil
}

// Open finds credentials and, where it is not given, the region of the
// bucket. Otherwise it asks nothing of the server: a missing bucket may show
// only with the first operation. ctx governs the opening alone.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := prepare(c)
	if err != nil {
		return nil, &storage.Error{Op: "open", Store: c.URL(), Err: fmt.Errorf("%w: %w", ErrConfig, err)}
	}
	if s.creds, err = findCredentials(ctx, c.Profile); err != nil {
		return nil, s.fail(ctx, "open", "", err)
	}
	s.options.Creds = s.creds
	if s.options.Region == "" {
		if s.options.Region, err = s.findRegion(ctx); err != nil {
			return nil, s.fail(ctx, "open", "", err)
		}
	}
	if s.client, err = s.newClient(s.transport); err != nil {
		return nil, s.fail(ctx, "open", "", err)
	}
	return s, nil
}

// URL of the store, without anything secret.
func (c Config) URL() string {
	u := url.URL{Scheme: "s3", Host: c.Bucket, Path: c.Prefix}
	if c.Endpoint == "" {
		return u.String()
	}
	// The endpoint is what tells two buckets of one name apart. What is no
	// URL may be a secret in the wrong place.
	u.RawQuery = "endpoint=…"
	if e, err := url.Parse(c.Endpoint); err == nil && e.Host != "" {
		u.RawQuery = "endpoint=" + e.Scheme + "://" + e.Host
	}
	return u.String()
}

// prepare makes all of a Store but its credentials, region and client.
func prepare(c Config) (*Store, error) {
	if err := s3utils.CheckValidBucketName(c.Bucket); err != nil {
		return nil, fmt.Errorf("bucket name %q: %w: use lower-case letters, digits, dots and hyphens, from 3 to 63 of them", c.Bucket, err)
	}
	s := &Store{url: c.URL(), bucket: c.Bucket, retries: c.MaxRetries, counts: &counts{}}
	if s.retries == 0 {
		s.retries = defaultRetries
	}
	if prefix := strings.Trim(c.Prefix, "/"); prefix != "" {
		if err := storage.CheckKey(prefix); err != nil || len(prefix) > maxPrefix {
			return nil, fmt.Errorf("prefix %q: %w: use letters, digits, '.', '_', '=' and '-' between single slashes", c.Prefix, storage.ErrInvalidKey)
		}
		s.prefix = prefix + "/"
	}
	var err error
	if s.endpoint, err = parseEndpoint(c.Endpoint); err != nil {
		return nil, err
	}
	if s.transport, err = newTransport(c, s.counts); err != nil {
		return nil, err
	}
	s.options = minio.Options{
		Secure:     s.endpoint.Scheme == "https",
		Region:     firstOf(c.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		MaxRetries: 1, // this package has its own policy
	}
	switch c.Addressing {
	case AddressPath:
		s.options.BucketLookup = minio.BucketLookupPath
	case AddressHost:
		s.options.BucketLookup = minio.BucketLookupDNS
	}
	return s, nil
}

func parseEndpoint(endpoint string) (*url.URL, error) {
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, errors.New("the endpoint is not a URL, want https://host or https://host:port")
	}
	if u.User != nil {
		return nil, errors.New("the endpoint has credentials in it: put them into the environment or the AWS credentials file")
	}
	if port, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || port < 1 || port > 65535) {
		return nil, fmt.Errorf("the endpoint has the port %s, want one from 1 to 65535", u.Port())
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the endpoint is %q, want https://host or https://host:port (a path goes before the ?: s3://bucket/prefix)", endpoint)
	}
	return u, nil
}

func (s *Store) newClient(rt http.RoundTripper) (*minio.Core, error) {
	o := s.options
	o.Transport = rt
	return minio.NewCore(s.endpoint.Host, &o)
}

// findRegion asks the server where the bucket is.
func (s *Store) findRegion(ctx context.Context) (string, error) {
	client, err := s.newClient(s.transport)
	if err != nil {
		return "", err
	}
	var region string
	err = s.attempt(ctx, func() error {
		region, err = client.GetBucketLocation(ctx, s.bucket)
		return err
	})
	if named := regionOf(err); named != "" {
		return named, nil
	}
	return firstOf(region, defaultRegion), err
}

// Stats implements storage.Counter.
func (s *Store) Stats() storage.Stats { return s.counts.stats() }

// Close gives back the connections that are kept for the next request. The
// store stays usable.
func (s *Store) Close() { s.transport.base.CloseIdleConnections() }

// String is the URL of the store, without anything secret.
func (s *Store) String() string { return s.url }

func newTransport(c Config, counts *counts) (*transport, error) {
	roots, err := trusted(c.CAFile)
	if err != nil {
		return nil, err
	}
	idle := c.IdleTimeout
	if idle <= 0 {
		idle = defaultIdleTimeout
	}
	return &transport{
		base: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     60 * time.Second,
			DisableCompression:  true,
			WriteBufferSize:     64 << 10,
			ReadBufferSize:      64 << 10,
		},
		idle:   idle,
		counts: counts,
	}, nil
}

// trusted returns the system's certificates with those of a file, which
// AWS_CA_BUNDLE may name too; nil for the system's alone.
func trusted(file string) (*x509.CertPool, error) {
	from := "ca"
	if file == "" {
		from = "AWS_CA_BUNDLE"
		file = os.Getenv(from)
	}
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA certificates, from %s: %w", from, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("CA certificates of the system: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA certificates, from %s: %s has no certificate in PEM form", from, file)
	}
	return pool, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
