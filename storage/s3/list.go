package s3

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

const pageSize = 1000 // what a server lists at once

var errOrder = errors.New("the server lists keys out of order")

// List implements storage.Store, one page in memory at a time. Objects whose
// names are no keys, which are not ours, are left out.
func (s *Store) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := s.list(ctx, o, yield); err != nil {
			yield(storage.Object{}, s.fail(ctx, "list", o.Prefix, err))
		}
	}
}

// list yields objects only. Its error comes when yield may still be called.
func (s *Store) list(ctx context.Context, o storage.ListOptions, yield func(storage.Object, error) bool) error {
	start, some := startAfter(o)
	if !some {
		return ctx.Err()
	}
	fetch, err := s.pages(ctx, o, start)
	if err != nil {
		return err
	}
	last, n := o.After, 0
	for token := ""; ; {
		page, err := fetch(token)
		if err != nil {
			return err
		}
		for _, object := range s.objects(page) {
			if object.Key <= o.After {
				continue
			}
			if object.Key <= last {
				return errOrder
			}
			last = object.Key
			if n++; !yield(object, nil) || n == o.Limit {
				return nil
			}
		}
		if !page.IsTruncated {
			return nil
		}
		token = page.NextContinuationToken
	}
}

// startAfter is the key, without the store's prefix, after which the server
// should start; "" is its beginning. It tells whether there can be any keys.
func startAfter(o storage.ListOptions) (string, bool) {
	rest, inside := strings.CutPrefix(o.After, o.Prefix)
	switch {
	case !inside && o.After > o.Prefix:
		return "", false
	case !inside || o.After == "":
		return "", true
	}
	if dir, _, deeper := strings.Cut(rest, "/"); o.Delimiter && deeper {
		// Pass over all that the folded key stands for: "~" is more than
		// any byte of a key.
		return o.Prefix + dir + "/~", true
	}
	return o.After, true
}

// pages returns the function that lists one page, with retries.
func (s *Store) pages(ctx context.Context, o storage.ListOptions, start string) (func(token string) (minio.ListBucketV2Result, error), error) {
	// The library's listing of single pages takes no context, so this
	// listing has a client of its own whose transport knows it.
	client, err := s.newClient(bound{ctx, s.transport})
	if err != nil {
		return nil, err
	}
	delimiter, size := "", pageSize
	if o.Delimiter {
		delimiter = "/"
	}
	if o.Limit > 0 {
		size = min(size, o.Limit)
	}
	if start != "" {
		start = s.prefix + start
	}
	return func(token string) (page minio.ListBucketV2Result, err error) {
		if err := ctx.Err(); err != nil {
			return page, err
		}
		err = s.attempt(ctx, func() error {
			page, err = client.ListObjectsV2(s.bucket, s.prefix+o.Prefix, start, token, delimiter, size)
			return err
		})
		return page, err
	}, nil
}

// bound is a transport whose requests end with a context.
type bound struct {
	ctx context.Context
	http.RoundTripper
}

func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.RoundTripper.RoundTrip(req.WithContext(b.ctx))
}

// objects merges the two sorted parts of a page.
func (s *Store) objects(page minio.ListBucketV2Result) []storage.Object {
	all := make([]storage.Object, 0, len(page.Contents)+len(page.CommonPrefixes))
	for _, c := range page.Contents {
		key, ours := strings.CutPrefix(c.Key, s.prefix)
		if ours && storage.CheckKey(key) == nil {
			all = append(all, storage.Object{Key: key, Size: c.Size, Modified: c.LastModified})
		}
	}
	for _, c := range page.CommonPrefixes {
		key, ours := strings.CutPrefix(c.Prefix, s.prefix)
		if ours && storage.CheckKey(strings.TrimSuffix(key, "/")) == nil {
			all = append(all, storage.Object{Key: key, Folded: true})
		}
	}
	slices.SortFunc(all, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })
	return all
}
