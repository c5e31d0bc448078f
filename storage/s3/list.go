package s3

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

const pageSize = 1000 // what a server lists at once

// maxBarren is how many pages in a row may be without a key although more follow.
const maxBarren = 1000

// List implements storage.Store, one page in memory at a time. Objects whose
// names are no keys, which are not ours, are left out.
func (s *Store) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		l := listing{s: s, o: o, yield: yield}
		if err := l.run(ctx); err != nil {
			yield(storage.Object{}, s.bucket.fail(ctx, "list", o.Prefix, err))
		}
	}
}

// listing is one List.
type listing struct {
	s     *Store
	o     storage.ListOptions
	yield func(storage.Object, error) bool // of objects; errors are returned
}

// run returns an error only while yield may still be called.
func (l *listing) run(ctx context.Context) error {
	o := &l.o
	start, some := startAfter(l.o)
	if !some {
		return ctx.Err()
	}
	if o.Hidden && !o.Delimiter && !l.s.blind.Load() {
		err := l.versions(ctx)
		if !mayNot(err) {
			return err
		}
		l.s.blind.Store(true)
	}
	fetch, err := l.pages(ctx, start)
	if err != nil {
		return err
	}
	last, n, barren := o.After, 0, 0
	for token := ""; ; {
		objects, next, err := fetch(token, last)
		if err != nil {
			return err
		}
		for _, object := range objects {
			last = object.Key
			if n++; !l.yield(object, nil) || n == o.Limit {
				return nil
			}
		}
		if next == "" {
			return nil
		}
		if barren++; len(objects) > 0 {
			barren = 0
		}
		if barren > maxBarren {
			return errOrder
		}
		token = next
	}
}

// mayNot reports whether the server does not list versions, or not for us.
func mayNot(err error) bool {
	switch r := minio.ToErrorResponse(err); r.Code {
	case "AccessDenied", "NotImplemented", "MethodNotAllowed":
		return true
	}
	return false
}

// versions lists with what delete markers hide: the newest version of each
// key that is none. There are servers that go in circles when they are asked
// for the page after a version, so each page starts after a key.
func (l *listing) versions(ctx context.Context) error {
	v := versionPage{listing: l}
	if l.o.After >= l.o.Prefix {
		v.last = l.o.After
	}
	for {
		from := v.last
		if err := l.s.retry.do(ctx, func() error { return v.read(ctx) }); err != nil || !v.more {
			return err
		}
		if v.last == from {
			return errOrder
		}
	}
}

// versionPage is where a listing of versions stands.
type versionPage struct {
	*listing
	last string // key that was yielded last, or after which the listing starts
	n    int    // yielded
	more bool   // there may be more after last
}

func (v *versionPage) read(ctx context.Context) error {
	v.more = false
	opts := minio.ListObjectsOptions{Prefix: v.s.bucket.prefix + v.o.Prefix, Recursive: true, WithVersions: true}
	if v.last != "" {
		// Some servers list a key again, of which versions are left: between it
		// and the next that is valid lies what is greater by a "!".
		opts.StartAfter = v.s.bucket.prefix + v.last + "!"
	}

	seen, marked, newest, previous := 0, "", "", minio.ObjectInfo{}
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

	for info := range v.s.client.ListObjectsIter(ctx, v.s.bucket.name, opts) {
		if info.Err != nil {
			return info.Err
		}
		if !strings.HasPrefix(info.Key, opts.Prefix) {
			return errNotAsked
		}
		if !info.IsDeleteMarker { // some servers list those after the others of a page
			if info.Key < newest {
				return errOrder
			}
			newest = info.Key
		}
		circle := info.Key == previous.Key && info.VersionID == previous.VersionID
		previous = info
		key, ours := strings.CutPrefix(info.Key, v.s.bucket.prefix)
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
// should start; "" is its beginning. It reports whether there can be any keys.
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

// fetchPage lists one page: the objects in it, all of which come after the key
// last, and the token of the next page; "" when this is the end.
type fetchPage func(token, last string) (objects []storage.Object, next string, err error)

// pages returns the function that lists one page, with retries.
func (l *listing) pages(ctx context.Context, start string) (fetchPage, error) {
	s, o := l.s, l.o
	// The library's listing of single pages takes no context, so this
	// listing has a client of its own whose transport knows it.
	client, err := s.bucket.newClient(bound{ctx, s.transport})
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
		start = s.bucket.prefix + start
	}
	return func(token, last string) (objects []storage.Object, next string, err error) {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		err = s.retry.do(ctx, func() error {
			page, err := client.ListObjectsV2(s.bucket.name, s.bucket.prefix+o.Prefix, start, token, delimiter, size)
			if err != nil {
				return err
			}
			if next = ""; page.IsTruncated {
				next = page.NextContinuationToken
			}
			if next != "" && next == token {
				return errOrder
			}
			objects, err = l.objects(page, last)
			return err
		})
		return objects, next, err
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

// objects merges the two sorted parts of a page. It refuses what a server sends
// that does not list what it was asked for, after the key last.
func (l *listing) objects(page minio.ListBucketV2Result, last string) ([]storage.Object, error) {
	s, o := l.s, l.o
	all := make([]storage.Object, 0, len(page.Contents)+len(page.CommonPrefixes))
	add := func(object storage.Object, name string) error {
		if !strings.HasPrefix(name, s.bucket.prefix+o.Prefix) {
			return errNotAsked
		}
		object.Key = strings.TrimPrefix(name, s.bucket.prefix)
		if storage.CheckKey(strings.TrimSuffix(object.Key, "/")) == nil && strings.HasSuffix(object.Key, "/") == object.Folded && object.Key > o.After {
			all = append(all, object)
		}
		return nil
	}
	for _, c := range page.Contents {
		if err := add(storage.Object{Size: c.Size, Modified: c.LastModified}, c.Key); err != nil {
			return nil, err
		}
	}
	for _, c := range page.CommonPrefixes {
		if err := add(storage.Object{Folded: true}, c.Prefix); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })

	for _, object := range all {
		if object.Key <= last {
			return nil, errOrder
		}
		last = object.Key
	}
	return all, nil
}
