package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

// reply is an answer that a proxy gives in the server's place.
type reply struct {
	status int
	header map[string]string
	body   string // an element of <Error> or several
}

func (r reply) hook() hook {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for name, value := range r.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(r.status)
		if r.body != "" {
			_, _ = w.Write([]byte("<Error>" + r.body + "</Error>"))
		}
	}
}

func TestRedirect(t *testing.T) {
	t.Run("names what to write into the URL", testARedirectNamesWhatToWriteIntoTheURL)
	t.Run("servers name the region that they expect", testServersNameTheRegionThatTheyExpect)
}

func testARedirectNamesWhatToWriteIntoTheURL(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for name, c := range map[string]struct {
		reply reply
		write string
	}{
		"to a region, by the body": {
			reply{301, nil, "<Code>PermanentRedirect</Code><Message>m</Message><Region>eu-west-1</Region>"}, "write region=eu-west-1 into the URL"},
		"to a region, by a header": {
			reply{301, map[string]string{"x-amz-bucket-region": "eu-west-1"}, "<Code>PermanentRedirect</Code><Message>m</Message>"}, "write region=eu-west-1 into the URL"},
		"to an endpoint of Amazon, with the bucket before it": {
			reply{307, nil, "<Code>TemporaryRedirect</Code><Message>m</Message><Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint>"},
			"write region=eu-west-1 and endpoint=http://s3.eu-west-1.amazonaws.com into the URL"},
		"to another server": {
			reply{301, nil, "<Code>PermanentRedirect</Code><Message>m</Message><Endpoint>minio.example.org:9000</Endpoint>"},
			"write endpoint=http://minio.example.org:9000 into the URL"},
		"to HTTPS, without a body": {
			reply{308, map[string]string{"Location": "https://minio.example.org/bucket/p/k"}, ""},
			"write endpoint=https://minio.example.org into the URL"},
		"to a login page": {
			reply{302, map[string]string{"Location": "/login?next=x"}, ""}, "something on the way answers in the store's place"},
		"to nowhere": {
			reply{307, nil, ""}, "check region= and endpoint="},
		"to what is no region": {
			reply{301, nil, "<Code>PermanentRedirect</Code><Message>m</Message><Region>x; rm -rf /</Region>"}, "check region= and endpoint="},
		"as another region in a malformed request": {
			reply{400, nil, "<Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region>"}, "write region=eu-west-1 into the URL"},
		"as another region, in the message alone": {
			reply{400, nil, "<Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>"}, "write region=eu-west-1 into the URL"},
		"as another region, to a request whose reply has no body": {
			reply{400, map[string]string{"x-amz-bucket-region": "eu-west-1"}, ""}, "write region=eu-west-1 into the URL"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, between(t, server, c.reply.hook()))
			begin := time.Now()
			for op, err := range map[string]error{
				"put":    s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}),
				"get":    get(t, s),
				"list":   list(t, s, storage.ListOptions{}),
				"delete": s.Delete(t.Context(), "k"),
			} {
				if !errors.Is(err, storage.ErrNoStore) || !strings.Contains(fmt.Sprint(err), c.write) {
					t.Errorf("%s: %v; want ErrNoStore that mentions %q", op, err, c.write)
				}
			}
			if s.Stats().Retries > 0 || time.Since(begin) > 4*time.Second {
				t.Errorf("it was tried again: %+v", s.Stats())
			}
		})
	}
	t.Run("which is taken when the URL names no region", func(t *testing.T) {
		c := between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Query().Has("location") {
				reply{301, map[string]string{"x-amz-bucket-region": storagetest.Region}, ""}.hook()(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
		c.Region = ""
		if err := open(t, c).Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func testServersNameTheRegionThatTheyExpect(t *testing.T) {
	for name, server := range map[string]*storagetest.Server{"versitygw": storagetest.PlainVersityGW(t), "minio": storagetest.MinIO(t)} {
		server.Setenv(t)
		server.Bucket(t, "bucket", storagetest.PlainBucket)
		s := open(t, s3.Config{Bucket: "bucket", Endpoint: server.Endpoint, Region: "mars-1"})
		for op, err := range map[string]error{"put": s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}), "list": list(t, s, storage.ListOptions{})} {
			if !errors.Is(err, storage.ErrNoStore) || !strings.Contains(fmt.Sprint(err), "write region="+storagetest.Region+" into the URL") {
				t.Errorf("%s, %s: %v", name, op, err)
			}
		}
	}
}

func get(t *testing.T, s storage.Store) error {
	t.Helper()
	_, err := storage.Append(t.Context(), nil, s, "k", 0, -1)
	return err
}
