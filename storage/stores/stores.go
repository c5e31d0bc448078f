// Package stores opens a store by its URL:
//
//	file:///path  or an absolute path
//	s3://bucket/prefix?endpoint=https://host:port&region=…&path_style=true&ca=/file&profile=…
//
// It refuses what it does not understand, and URLs with secrets in them:
// those end up in process lists, logs and configuration that others read.
package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/s3"
	"knowngood/storage/throttle"
)

// ErrURL is a repository URL that cannot be used, whatever the store is like.
var ErrURL = errors.New("invalid repository URL")

// Options qualify Open and Create. The zero value is fit for use.
type Options struct {
	Limits throttle.Limits
	// Region of a bucket whose URL names none, where that is known: see Region.
	Region string
}

// Open opens the store at a URL.
func Open(ctx context.Context, rawURL string, o Options) (storage.Store, error) {
	return open(ctx, rawURL, o, dir.Open)
}

// Create opens the store at a URL and makes it first where it can: a
// directory, but no bucket.
func Create(ctx context.Context, rawURL string, o Options) (storage.Store, error) {
	return open(ctx, rawURL, o, dir.Create)
}

// Check reports why no store could be opened at a URL, whatever it is like: each mistake
// for which Open and Create refuse it, and a name of a bucket that breaks the rules
// (s3.ErrBucketName). It connects to nothing. The errors do not repeat what may
// be a secret.
func Check(rawURL string) []error {
	u, wrong := parse(rawURL)
	if u == nil || u.Scheme == "file" {
		return wrong
	}
	c, mistakes := bucketConfig(u)
	wrong = append(wrong, mistakes...)
	if u.Host != "" {
		wrong = append(wrong, s3.Check(c)...)
	}
	return wrong
}

// inOneLine is one error of several mistakes: the only one as it is, and nil of none.
func inOneLine(wrong []error) error {
	if len(wrong) <= 1 {
		return errors.Join(wrong...)
	}
	texts := make([]string, len(wrong))
	for i, err := range wrong {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

func open(ctx context.Context, rawURL string, o Options, openDir func(string) (*dir.Store, error)) (storage.Store, error) {
	u, wrong := parse(rawURL)
	if err := inOneLine(wrong); err != nil {
		return nil, &storage.Error{Op: "open", Store: Redact(rawURL), Err: fmt.Errorf("%w: %w", ErrURL, err), Hint: "use file:///path or s3://bucket/prefix?endpoint=https://host:port"}
	}
	var s storage.Store
	var err error
	if u.Scheme == "file" {
		s, err = openDir(u.Path)
	} else {
		s, err = openBucket(ctx, u, o.Region)
	}
	if err != nil {
		return nil, err
	}
	if o.Limits != (throttle.Limits{}) {
		s = throttle.New(s, o.Limits)
	}
	return s, nil
}

// Region is where the bucket of an open store was found to be; "" for none.
func Region(s storage.Store) string {
	if b, ok := storage.Capability[*s3.Store](s); ok {
		return b.Region()
	}
	return ""
}

func openBucket(ctx context.Context, u *url.URL, region string) (storage.Store, error) {
	c, wrong := bucketConfig(u)
	c.Region = cmp.Or(c.Region, region)
	if err := inOneLine(wrong); err != nil {
		return nil, &storage.Error{Op: "open", Store: Redact(u.String()), Err: fmt.Errorf("%w: %w", ErrURL, err)}
	}
	s, err := s3.Open(ctx, c)
	if errors.Is(err, s3.ErrConfig) {
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	}
	if err != nil {
		return nil, err // not a *s3.Store that is nil in an interface
	}
	return s, nil
}

// parse checks the parts of a URL that all schemes have in common. With mistakes it
// returns a URL whose other parts can be checked, too, or nil.
func parse(rawURL string) (u *url.URL, wrong []error) {
	if strings.ContainsRune(rawURL, 0) {
		return nil, []error{errors.New("it has a NUL in it")}
	}
	if filepath.IsAbs(rawURL) {
		return &url.URL{Scheme: "file", Path: filepath.Clean(rawURL)}, nil
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, []error{errors.New("it does not parse")} // the parser's message repeats the URL with its secrets
	}
	switch {
	case u.Scheme == "" && rawURL != "":
		return nil, []error{errors.New("a path must be absolute: use /path, or s3://bucket/prefix")}
	case u.Scheme != "file" && u.Scheme != "s3":
		return nil, []error{fmt.Errorf("the scheme is %q, want file or s3: file:///path, or s3://bucket/prefix?endpoint=https://host:port", u.Scheme)}
	}
	if u.User != nil {
		wrong = append(wrong, errors.New("it has credentials in it: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the AWS credentials file"))
	}
	if u.Fragment != "" {
		wrong = append(wrong, errors.New("it has a fragment (#): write %23 for a # in it"))
	}
	if u.Scheme == "file" {
		wrong = append(wrong, checkFile(u)...)
	} else if u.Host == "" || u.Opaque != "" || u.Port() != "" {
		wrong = append(wrong, errors.New("the bucket is missing: s3://bucket/prefix; a server's address goes into endpoint="))
		u.Host = ""
	}
	return u, wrong
}

func checkFile(u *url.URL) (wrong []error) {
	if u.RawQuery != "" {
		wrong = append(wrong, errors.New("a file URL takes no parameters"))
	}
	switch {
	case u.Host != "" && u.Host != "localhost":
		wrong = append(wrong, errors.New("a file URL has three slashes: file:///path"))
	case u.Opaque != "" || !filepath.IsAbs(u.Path):
		wrong = append(wrong, errors.New("the path must be absolute: file:///path"))
	}
	return wrong
}

// parameters that an S3 URL may have.
const (
	paramEndpoint  = "endpoint"
	paramRegion    = "region"
	paramPathStyle = "path_style"
	paramCA        = "ca"
	paramProfile   = "profile"
)

func bucketConfig(u *url.URL) (c s3.Config, wrong []error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		wrong = append(wrong, errors.New("its parameters do not parse"))
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		known, values := []string{paramEndpoint, paramRegion, paramPathStyle, paramCA, paramProfile}, query[name]
		if !slices.Contains(known, name) {
			wrong = append(wrong, fmt.Errorf("unknown parameter %q, want one of %s", name, strings.Join(known, ", ")))
		} else if len(values) != 1 || values[0] == "" {
			wrong = append(wrong, fmt.Errorf("parameter %q needs one value", name))
		}
	}
	c = s3.Config{
		Bucket:   u.Host,
		Prefix:   strings.Trim(u.Path, "/"),
		Endpoint: query.Get(paramEndpoint),
		Region:   query.Get(paramRegion),
		CAFile:   query.Get(paramCA),
		Profile:  query.Get(paramProfile),
	}
	if value := query.Get(paramPathStyle); value != "" {
		yes, err := strconv.ParseBool(value)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("parameter %q is %q, want true or false", paramPathStyle, value))
		case yes:
			c.Addressing = s3.AddressPath
		default:
			c.Addressing = s3.AddressHost
		}
	}
	return c, wrong
}

// Place names the store at a URL: the same for every spelling of the URL, and
// without how to reach it (region, credentials, addressing). A
// URL that cannot be used stands for itself, secrets left out. What comes out of
// Redact has the place of what went in.
func Place(rawURL string) string {
	u, wrong := parse(rawURL)
	if len(wrong) > 0 {
		return Redact(rawURL)
	}
	if u.Scheme == "file" {
		return "file://" + filepath.Clean(u.Path)
	}
	prefix := strings.Trim(u.Path, "/")
	endpoint, err := url.Parse(u.Query().Get(paramEndpoint))
	if err != nil {
		return Redact(rawURL)
	}
	host, port := strings.TrimSuffix(strings.ToLower(endpoint.Hostname()), "."), endpoint.Port()
	switch {
	case host == "" || host == "amazonaws.com" || strings.HasSuffix(host, ".amazonaws.com"):
		host, port = "amazonaws.com", "" // whose buckets have one name space
	case port == "" && endpoint.Scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	}
	return "s3://" + net.JoinHostPort(host, port) + "/" + u.Host + "/" + prefix
}

// Redact returns a URL that may be shown: without user information, and
// without the values of parameters that this package does not know.
func Redact(rawURL string) string {
	if filepath.IsAbs(rawURL) {
		return rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Opaque != "" {
		scheme, _, found := strings.Cut(rawURL, ":")
		if !found {
			scheme = "?"
		}
		return scheme + ":…"
	}
	if u.User != nil {
		u.User = url.User("…")
	}
	var shown []string
	for name, values := range u.Query() {
		for _, value := range values {
			switch name {
			case paramEndpoint:
				value = Redact(value)
			case paramRegion, paramPathStyle, paramCA, paramProfile:
			default:
				value = "…"
			}
			shown = append(shown, name+"="+value)
		}
	}
	slices.Sort(shown)
	u.RawQuery, u.ForceQuery = strings.Join(shown, "&"), false
	if u.Fragment != "" {
		u.Fragment = "…"
	}
	plain, err := url.PathUnescape(u.String())
	if err != nil {
		return u.String()
	}
	return plain
}
