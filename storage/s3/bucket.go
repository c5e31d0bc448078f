package s3

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"knowngood/storage"
)

// bucket is where the objects lie, as it was configured. It makes clients, and
// explains errors in the words of the configuration.
type bucket struct {
	url      string // without anything secret
	name     string
	prefix   string // of all keys: "" or ends in a slash
	endpoint *url.URL
	options  minio.Options
	idle     time.Duration // how long a transfer may stand still
}

// newBucket returns the bucket of a configuration, without credentials, and what is
// wrong with it.
func newBucket(c Config) (b *bucket, wrong []error) {
	if err := s3utils.CheckValidBucketName(c.Bucket); err != nil {
		wrong = append(wrong, fmt.Errorf("bucket name %q: %w: use lower-case letters, digits, dots and hyphens, from 3 to 63 of them", c.Bucket, err))
	}
	b = &bucket{url: c.URL(), name: c.Bucket, idle: c.IdleTimeout}
	if prefix := strings.Trim(c.Prefix, "/"); prefix != "" {
		if err := storage.CheckKey(prefix); err != nil || len(prefix) > maxPrefix {
			wrong = append(wrong, fmt.Errorf("prefix %q: %w: use letters, digits, '.', '_', '=' and '-' between single slashes", c.Prefix, storage.ErrInvalidKey))
		}
		b.prefix = prefix + "/"
	}
	var err error
	if b.endpoint, err = parseEndpoint(c.Endpoint); err != nil {
		return nil, append(wrong, err)
	}
	b.options = minio.Options{
		Secure:     b.endpoint.Scheme == "https",
		Region:     cmp.Or(c.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		MaxRetries: 1, // this package has its own policy
	}
	switch c.Addressing {
	case AddressPath:
		b.options.BucketLookup = minio.BucketLookupPath
	case AddressHost:
		b.options.BucketLookup = minio.BucketLookupDNS
	}
	return b, wrong
}

func parseEndpoint(endpoint string) (*url.URL, error) {
	endpoint = cmp.Or(endpoint, defaultEndpoint)
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

func (b *bucket) newClient(rt http.RoundTripper) (*minio.Core, error) {
	o := b.options
	o.Transport = rt
	return minio.NewCore(b.endpoint.Host, &o)
}
