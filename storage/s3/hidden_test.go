package s3_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

func TestListHidden(t *testing.T) {
	t.Run("a listing of what is hidden needs no right to see it", testAListingOfWhatIsHiddenNeedsNoRightToSeeIt)
	t.Run("a listing reports where older versions lie", testAListingTellsWhereOlderVersionsLie)
}

// Those who may list objects, but not their versions, list objects.
func testAListingOfWhatIsHiddenNeedsNoRightToSeeIt(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
	}{{http.StatusForbidden, "AccessDenied"}, {http.StatusNotImplemented, "NotImplemented"}} {
		t.Run(c.code, func(t *testing.T) {
			var refused atomic.Int64
			config := proxied(t, storagetest.VersityGW(t), storagetest.VersionedBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Query().Has("versions") {
					refused.Add(1)
					answer(c.status, c.code)(w, r, next)
					return
				}
				next.ServeHTTP(w, r)
			})
			config.Prefix = c.code
			config.MaxRetries = -1
			s := open(t, config)
			for _, key := range []string{"a/1", "a/2"} {
				if err := s.Put(t.Context(), key, []byte(key), storage.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Delete(t.Context(), "a/1"); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				var keys []string
				for o, err := range s.List(t.Context(), storage.ListOptions{Prefix: "a/", Hidden: true}) {
					if err != nil {
						t.Fatal(err)
					}
					keys = append(keys, o.Key)
				}
				if got := strings.Join(keys, " "); got != "a/2" {
					t.Errorf("listed %q", got)
				}
			}
			if n := refused.Load(); n != 1 {
				t.Errorf("it asked for versions %d times, want once", n)
			}
		})
	}
}

func testAListingTellsWhereOlderVersionsLie(t *testing.T) {
	for name, server := range map[string]*storagetest.Server{"versitygw": storagetest.VersityGW(t), "minio": storagetest.MinIO(t)} {
		t.Run(name, func(t *testing.T) {
			server.Setenv(t)
			server.Bucket(t, "older", storagetest.VersionedBucket)
			s := open(t, s3.Config{Bucket: "older", Prefix: "p", Endpoint: server.Endpoint, Region: storagetest.Region})
			over := func(key string) {
				t.Helper()
				if _, err := server.Client(t).PutObject(t.Context(), "older", "p/"+key, strings.NewReader("over"), 4, minio.PutObjectOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			want := func(o storage.ListOptions, want string) {
				t.Helper()
				var keys []string
				for x, err := range s.List(t.Context(), o) {
					if err != nil {
						t.Fatal(err)
					}
					for flag, set := range map[string]bool{"+": x.Older, "-": x.Hidden} {
						if set {
							x.Key += flag
						}
					}
					keys = append(keys, x.Key)
				}
				if got := strings.Join(keys, " "); got != want {
					t.Errorf("%+v lists %q, want %q", o, got, want)
				}
			}
			for _, key := range []string{"a/1", "a/2", "a/20", "a/3"} {
				if err := s.Put(t.Context(), key, []byte(key), storage.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Delete(t.Context(), "a/20"); err != nil {
				t.Fatal(err)
			}
			over("a/2")
			over("a/3")
			want(storage.ListOptions{Prefix: "a/", Hidden: true}, "a/1 a/2+ a/20- a/3+")
			want(storage.ListOptions{Prefix: "a/", Hidden: true, Limit: 2}, "a/1 a/2+")
			want(storage.ListOptions{Prefix: "a/", Hidden: true, After: "a/2", Limit: 2}, "a/20- a/3+")
			want(storage.ListOptions{Prefix: "a/"}, "a/1 a/2 a/3")
			for range 1000 { // more than a page
				over("a/2")
			}
			want(storage.ListOptions{Prefix: "a/", Hidden: true}, "a/1 a/2+ a/20- a/3+")
		})
	}
}
