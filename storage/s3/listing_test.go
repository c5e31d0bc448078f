package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// page is a page of a listing, in XML.
func page(token string, keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", token != "", token)
	for _, key := range keys {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>", key)
	}
	return b.String() + "</ListBucketResult>"
}

// versionsPage is the only page of a listing of versions.
func versionsPage(keys ...string) string {
	var b strings.Builder
	b.WriteString("<ListVersionsResult><IsTruncated>false</IsTruncated>")
	for _, key := range keys {
		fmt.Fprintf(&b, "<Version><Key>%s</Key><VersionId>1</VersionId><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Version>", key)
	}
	return b.String() + "</ListVersionsResult>"
}

// listed answers requests for listings with pages, chosen by the token in
// the request and how many requests there were.
func listed(answer func(token string, n int64) string) hook {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if query := r.URL.Query(); query.Has("list-type") || query.Has("versions") {
			_, _ = w.Write([]byte(answer(query.Get("continuation-token"), n.Add(1))))
			return
		}
		next.ServeHTTP(w, r)
	}
}

func TestReplies(t *testing.T) {
	t.Run("a listing that is none is requested again", testAListingThatIsNoneIsAskedForAgain)
	t.Run("a listing that stays wrong is an error", testAListingThatStaysWrongIsAnError)
	t.Run("a range that is too short is requested again", testARangeThatIsTooShortIsAskedForAgain)
	t.Run("an object whose size is not reported is compared", testAnObjectWhoseSizeIsNotToldIsCompared)
}

func testAListingThatIsNoneIsAskedForAgain(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	whole := func(string, int64) string { return page("", "p/a", "p/b") }
	for name, first := range map[string]func(token string, n int64) string{
		"an empty body":          func(string, int64) string { return "" },
		"blank lines":            func(string, int64) string { return "\n \n" },
		"a body that breaks off": func(token string, n int64) string { return whole(token, n)[:120] },
		"the start of a header":  func(string, int64) string { return `<?xml version="1.0" enc` },
		"a key twice":            func(string, int64) string { return page("", "p/a", "p/a", "p/b") },
		"keys of others":         func(string, int64) string { return page("", "p/a", "q/b") },
		"a page of a proxy":      func(string, int64) string { return "<html><body>Welcome</body></html>" },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, between(t, server, listed(func(token string, n int64) string {
				if n < 3 {
					return first(token, n)
				}
				return whole(token, n)
			})))
			var keys []string
			for o, err := range s.List(t.Context(), storage.ListOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				keys = append(keys, o.Key)
			}
			if !slices.Equal(keys, []string{"a", "b"}) || s.Stats().Retries != 2 {
				t.Errorf("listed %v after %d retries", keys, s.Stats().Retries)
			}
		})
	}
}

func testAListingThatStaysWrongIsAnError(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for name, c := range map[string]struct {
		answer func(token string, n int64) string
		hidden bool
		says   string
	}{
		"an empty body": {
			func(string, int64) string { return "" }, false, "the server answered 200 OK with an empty body"},
		"an empty body, of versions": {
			func(string, int64) string { return "" }, true, "the server answered 200 OK with an empty body"},
		"a body that breaks off": {
			func(string, int64) string { return page("", "p/a", "p/b")[:120] }, false, "the server answered 200 OK with a body that breaks off after 120 bytes"},
		"a body that breaks off, of versions": {
			func(string, int64) string { return versionsPage("p/a", "p/b")[:120] }, true, "the server answered 200 OK with a body that breaks off after 120 bytes"},
		"pages that name themselves as the next": {
			func(token string, _ int64) string {
				if token == "" {
					return page("1", "p/a")
				}
				return page("1")
			}, false, "without an end"},
		"pages without keys that never end": {
			func(_ string, n int64) string { return page(strconv.FormatInt(n, 10)) }, false, "without an end"},
		"pages that go in a circle": {
			func(token string, _ int64) string {
				if token == "1" {
					return page("2", "p/b")
				}
				return page("1", "p/a")
			}, false, "twice"},
		"pages out of order": {
			func(token string, _ int64) string {
				if token == "" {
					return page("1", "p/b")
				}
				return page("", "p/a")
			}, false, "out of order"},
		"versions out of order": {
			func(string, int64) string { return versionsPage("p/b", "p/a") }, true, "out of order"},
		"keys that were not asked for": {
			func(string, int64) string { return page("", "p/a", "q/b") }, false, "not asked for"},
		"versions that were not asked for": {
			func(string, int64) string { return versionsPage("a", "p/b") }, true, "not asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			config := between(t, server, listed(c.answer))
			config.MaxRetries = 1
			err := list(t, open(t, config), storage.ListOptions{Hidden: c.hidden})
			if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("list: %v; want ErrUnavailable that says %q", err, c.says)
			}
		})
	}
}

// list returns the error of a listing.
func list(t *testing.T, s storage.Store, o storage.ListOptions) error {
	t.Helper()
	for _, err := range s.List(t.Context(), o) {
		if err != nil {
			return err
		}
	}
	return nil
}

// shortened sends the start of the reply's body as if that were all, in n
// replies.
func shortened(n int64, bytes int) hook {
	return onFirst(n, http.MethodGet, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		whole := httptest.NewRecorder()
		next.ServeHTTP(whole, r)
		for name, values := range whole.Header() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(bytes))
		w.WriteHeader(whole.Code)
		_, _ = w.Write(whole.Body.Bytes()[:bytes])
	})
}

func testARangeThatIsTooShortIsAskedForAgain(t *testing.T) {
	server, body := storagetest.PlainVersityGW(t), random(1000)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for name, c := range map[string]struct {
		short   int64 // replies
		wrong   bool
		offset  int64
		length  int64
		content []byte
	}{
		"once":                       {1, false, 100, 300, body[100:400]},
		"to the end, once":           {1, false, 100, -1, body[100:]},
		"always":                     {99, true, 100, 300, nil},
		"past the end of the object": {0, false, 900, 300, body[900:]},
		"of nothing":                 {0, false, 900, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, between(t, server, shortened(c.short, 50)))
			if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			r, err := s.Get(t.Context(), "k", c.offset, c.length)
			if c.wrong {
				if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "fewer bytes than it announces") {
					t.Errorf("get: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var have bytes.Buffer
			if _, err := have.ReadFrom(r); err != nil || !bytes.Equal(have.Bytes(), c.content) {
				t.Errorf("read %d bytes, %v; want %d", have.Len(), err, len(c.content))
			}
		})
	}
}

func testAnObjectWhoseSizeIsNotToldIsCompared(t *testing.T) {
	body, lose := random(300_000), onFirst(1, http.MethodPut, loseReply)
	c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodHead {
			lose(w, r, next)
			return
		}
		whole := httptest.NewRecorder()
		next.ServeHTTP(whole, r)
		for name, values := range whole.Header() {
			if name != "Content-Length" {
				w.Header()[name] = values
			}
		}
		w.WriteHeader(whole.Code)
	})
	if err := open(t, c).Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
		t.Errorf("put: %v", err)
	}
}
