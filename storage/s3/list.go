package s3

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"iter"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

const pageSize = 1000 // what a server lists at once

// maxName is what a name has at most, in bytes.
const maxName = 1024

// mangled is what some servers write for what XML cannot hold.
const mangled = "\uFFFD"

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
// for the page after a version, so each page starts after a name.
func (l *listing) versions(ctx context.Context) error {
	v := versionListing{s: l.s, prefix: l.s.bucket.prefix + l.o.Prefix, foreign: l.o.Foreign}
	if l.o.After >= l.o.Prefix && l.o.After != "" {
		v.last, v.start = l.o.After, beyond(l.s.bucket.prefix+l.o.After, "")
	}
	n := 0
	for {
		var page versionPage
		err := l.s.retry.do(ctx, func() (err error) {
			page, err = v.read(ctx)
			return err
		})
		if err != nil {
			return err
		}
		for _, object := range page.objects {
			v.last = object.Key
			if n++; !l.yield(object, nil) || n == l.o.Limit {
				return nil
			}
		}
		if page.next == "" {
			return nil
		}
		v.start = page.next
	}
}

// versionListing is where a listing of versions stands.
type versionListing struct {
	s      *Store
	prefix string // of the names that are asked for
	last   string // key after which keys are wanted
	start  string // name after which the next page starts

	foreign func(name string) // see storage.ListOptions
}

// versionPage is what a page has after the last key.
type versionPage struct {
	objects []storage.Object
	next    string // name after which the next page starts; empty at the end
}

// read reads a page, and more where a page shows nothing but delete markers of
// one key: its other versions follow.
func (v *versionListing) read(ctx context.Context) (versionPage, error) {
	opts := minio.ListObjectsOptions{Prefix: v.prefix, Recursive: true, WithVersions: true, StartAfter: v.start}
	var (
		page   versionPage
		marked = map[string]bool{} // keys whose newest version is a delete marker
		marker string              // the greatest name of a delete marker: its other versions may follow
		passed = v.start           // up to here nothing of ours follows
		last   minio.ObjectInfo
		seen   int
	)
	pass := func(name string) { passed = max(passed, beyond(name, v.start)) }
	for info := range v.s.client.ListObjectsIter(ctx, v.s.bucket.name, opts) {
		if info.Err != nil {
			return page, info.Err
		}
		if !strings.HasPrefix(info.Key, v.prefix) {
			return page, errNotAsked
		}
		circle := info.Key == last.Key && info.VersionID == last.VersionID
		last = info
		key := strings.TrimPrefix(info.Key, v.s.bucket.prefix)
		switch {
		case circle:
		case storage.CheckKey(key) != nil: // not ours, and a server may list it out of order
			pass(info.Key)
			if v.foreign != nil && !info.IsDeleteMarker {
				v.foreign(key)
			}
		case info.IsDeleteMarker: // some servers list those before or after the others of a page
			if marker != "" && marker != info.Key {
				pass(min(marker, info.Key))
			}
			marker = max(marker, info.Key)
			marked[key] = marked[key] || info.IsLatest
		default:
			pass(info.Key)
			if err := page.add(storage.Object{Key: key, Size: info.Size, Modified: info.LastModified, MD5: md5Of(info.ETag)}, v.last); err != nil {
				return page, err
			}
		}
		if seen++; circle || seen >= pageSize && passed > v.start {
			page.next = passed
			break
		}
	}
	if page.next != "" && page.next == v.start {
		return page, errOrder
	}
	if err := ctx.Err(); err != nil {
		return page, err // the iteration ends without an error when ctx does
	}

	for i := range page.objects {
		page.objects[i].Hidden = marked[page.objects[i].Key]
	}
	if n := len(page.objects); n > 0 && page.next != "" {
		page.objects[n-1].Older = true // the rest of them may be on the next page
	}
	return page, nil
}

// add adds the next version that the server lists, unless it is not after the key last.
func (p *versionPage) add(o storage.Object, last string) error {
	if n := len(p.objects); n > 0 {
		last = p.objects[n-1].Key
		if o.Key == last {
			p.objects[n-1].Older = true
			return nil
		}
		if o.Key < last {
			return errOrder
		}
	}
	if o.Key > last {
		p.objects = append(p.objects, o)
	}
	return nil
}

// beyond returns the name after which a listing goes on that has come to name,
// and to start before: no key lies between the two that was not listed.
//
// Some servers list a name again of which versions are left: between it and the
// next key lies what is greater by a "!". What is mangled are control characters,
// which are less than any byte of a key, and code points that are greater.
func beyond(name, start string) string {
	known, _, unknown := strings.Cut(name, mangled)
	if !unknown {
		return name + "!"
	}
	for _, next := range []string{known + "!", known + "\x7f"} {
		if next > start {
			return next
		}
	}
	return known + strings.Repeat("\U0010FFFF", max(1, (maxName-len(known))/utf8.UTFMax))
}

// md5Of is the MD5 that an ETag is; zero for one of parts.
func md5Of(etag string) (sum [md5.Size]byte) {
	if b, err := hex.DecodeString(strings.Trim(etag, `"`)); err == nil && len(b) == len(sum) {
		copy(sum[:], b)
	}
	return sum
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
	prefix := s.bucket.prefix + o.Prefix
	if start != "" {
		start = s.bucket.prefix + start
	}
	return func(token, last string) (objects []storage.Object, next string, err error) {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		if strings.HasPrefix(token, prefix) && strings.Contains(token, mangled) {
			// The token is the last name of the page, and the server would go on after
			// what XML made of it.
			own, _ := startAfter(storage.ListOptions{Prefix: o.Prefix, After: last, Delimiter: o.Delimiter})
			from := start
			if start = max(beyond(token, from), s.bucket.prefix+own); start == from {
				return nil, "", errOrder
			}
			token = ""
		}
		err = s.retry.do(ctx, func() error {
			page, err := client.ListObjectsV2(s.bucket.name, prefix, start, token, delimiter, size)
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
		if len(objects) == 0 {
			size = pageSize // there may be many names that are no keys
		}
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
		switch {
		case storage.CheckKey(strings.TrimSuffix(object.Key, "/")) != nil || strings.HasSuffix(object.Key, "/") != object.Folded:
			if o.Foreign != nil {
				o.Foreign(object.Key)
			}
		case object.Key > o.After:
			all = append(all, object)
		}
		return nil
	}
	for _, c := range page.Contents {
		if err := add(storage.Object{Size: c.Size, Modified: c.LastModified, MD5: md5Of(c.ETag)}, c.Key); err != nil {
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
