package s3_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knowngood/internal/enginetest"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	goleak.VerifyTestMain(m)
}

// hook is what stands between a client and the server: it answers itself or
// lets next do so.
type hook func(w http.ResponseWriter, r *http.Request, next http.Handler)

// proxied makes a bucket and starts a proxy before its server that the hook
// looks into. It sets the environment of the test.
func proxied(t *testing.T, server *storagetest.Server, kind storagetest.BucketKind, h hook) s3.Config {
	t.Helper()
	server.Bucket(t, "bucket", kind)
	return between(t, server, h)
}

// between is proxied before a bucket that there is.
func between(t *testing.T, server *storagetest.Server, h hook) s3.Config {
	t.Helper()
	server.Setenv(t)
	proxy := httptest.NewServer(handler(t, server, h))
	t.Cleanup(proxy.Close)
	return s3.Config{Bucket: "bucket", Prefix: "p", Endpoint: proxy.URL, Region: storagetest.Region}
}

func handler(t *testing.T, server *storagetest.Server, h hook) http.Handler {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	next := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which is signed
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { hangUp(w) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r, next) })
}

func pass(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) }

// hangUp closes the connection without an answer.
func hangUp(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// onFirst applies h to the first n requests with a method, and lets the
// others pass.
func onFirst(n int64, method string, h hook) hook {
	var seen atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == method && seen.Add(1) <= n {
			h(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// loseReply lets the server do what it is asked and hangs up.
func loseReply(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	hangUp(w)
}

// answer is a hook that answers every request itself.
func answer(status int, code string) hook {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<Error><Code>" + code + "</Code><Message>said so</Message></Error>"))
	}
}

// cutBody sends the start of the reply's body and then calls then.
func cutBody(n int, then func(w http.ResponseWriter, r *http.Request)) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		whole := httptest.NewRecorder()
		next.ServeHTTP(whole, r)
		for name, values := range whole.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(whole.Code)
		body := whole.Body.Bytes()
		_, _ = w.Write(body[:min(n, len(body))])
		_ = http.NewResponseController(w).Flush()
		then(w, r)
	}
}

// stall does nothing for as long as the client stays.
func stall(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(30 * time.Second):
	}
}

func open(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// discard is for servers that would complain about what a test does to them.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }
