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
	if o.Hidden && !o.Delimiter && !s.blind.Load() {
		err := s.listVersions(ctx, o, yield)
		if !mayNot(err) {
			return err
		}
		s.blind.Store(true)
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

// mayNot says that the server does not list versions, or not for us.
func mayNot(err error) bool {
	switch r := minio.ToErrorResponse(err); r.Code {
	case "AccessDenied", "NotImplemented", "MethodNotAllowed":
		return true
	}
	return false
}

// listVersions lists with what delete markers hide: the newest version of each
// key that is none. There are servers that go in circles when they are asked
// for the page after a version, so each page starts after a key.
func (s *Store) listVersions(ctx context.Context, o storage.ListOptions, yield func(storage.Object, error) bool) error {
	v := versionPage{Store: s, o: o, yield: yield}
	if o.After >= o.Prefix {
		v.last = o.After
	}
	for {
		from := v.last
		if err := s.attempt(ctx, func() error { return v.read(ctx) }); err != nil || !v.more {
			return err
		}
		if v.last == from {
			return errOrder
		}
	}
}

// versionPage is where a listing of versions stands.
type versionPage struct {
	*Store
	o     storage.ListOptions
	yield func(storage.Object, error) bool
	last  string // key that was yielded last, or after which the listing starts
	n     int    // yielded
	more  bool   // there may be more after last
}

func (v *versionPage) read(ctx context.Context) error {
	v.more = false
	opts := minio.ListObjectsOptions{Prefix: v.prefix + v.o.Prefix, Recursive: true, WithVersions: true}
	if v.last != "" {
		// Some servers list a key again, of which versions are left: between it
		// and the next that is valid lies what is greater by a "!".
		opts.StartAfter = v.prefix + v.last + "!"
	}
	seen, marked, previous := 0, "", minio.ObjectInfo{}
	var next *storage.Object // to be yielded once it is known whether it is the only version
	flush := func() (goOn bool) {
		if next == nil {
			return true
		}
		o := *next
		next, v.last = nil, o.Key
		v.n++
		return v.yield(o, nil) && v.n != v.o.Limit
	}
	for info := range v.client.ListObjectsIter(ctx, v.bucket, opts) {
		if info.Err != nil {
			return listingError(info.Err)
		}
		circle := info.Key == previous.Key && info.VersionID == previous.VersionID
		previous = info
		key, ours := strings.CutPrefix(info.Key, v.prefix)
		switch {
		case circle:
		case !ours || storage.CheckKey(key) != nil || key <= v.last || next != nil && key < next.Key: // not ours, or an older version
		case info.IsDeleteMarker:
			marked = key
		case next != nil && key == next.Key:
			next.Older = true
		default:
			if !flush() {
				return nil
			}
			next = &storage.Object{Key: key, Size: info.Size, Modified: info.LastModified, Hidden: key == marked}
		}
		if seen++; seen == pageSize || circle {
			if next != nil {
				next.Older = true // the rest of them may be on the next page
			}
			v.more = flush()
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the iteration ends without an error when ctx does
	}
	flush()
	return nil
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
			return listingError(err)
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
