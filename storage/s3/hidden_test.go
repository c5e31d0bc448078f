package s3_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// Those who may list objects, but not their versions, list objects.
func TestAListingOfWhatIsHiddenNeedsNoRightToSeeIt(t *testing.T) {
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
