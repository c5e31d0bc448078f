package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

// replying lets the server do what it is asked and changes the headers of its
// replies to puts.
func replying(change func(h http.Header)) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodPut {
			next.ServeHTTP(w, r)
			return
		}
		reply := httptest.NewRecorder()
		next.ServeHTTP(reply, r)
		change(reply.Header())
		for name, values := range reply.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(reply.Code)
		_, _ = w.Write(reply.Body.Bytes())
	}
}

func TestProof(t *testing.T) {
	t.Run("a put counts only when it is proved", testAPutCountsOnlyWhenItIsProved)
	t.Run("a server that answers puts without keeping them is detected", testWhoAnswersPutsWithoutKeepingThemIsFoundOut)
	t.Run("a plain put is refused where the store demands a condition", testAPlainPutIsRefusedWhereTheStoreDemandsACondition)
	t.Run("a reply that holds no listing is requested again", testAReplyThatHoldsNoListingIsAskedForAgain)
}

func testAPutCountsOnlyWhenItIsProved(t *testing.T) {
	body := random(200_000)
	plain := func(t *testing.T) *storagetest.Server { return storagetest.PlainVersityGW(t) }
	for name, test := range map[string]struct {
		server func(t *testing.T) *storagetest.Server
		reply  func(h http.Header)
		want   storage.PutProof
		gets   int64
	}{
		"by the checksum that versitygw returns": {plain, func(h http.Header) { h.Del("ETag") }, storage.ProofByReply, 0},
		"by the checksum that MinIO returns":     {func(t *testing.T) *storagetest.Server { return storagetest.MinIO(t) }, func(h http.Header) { h.Del("ETag") }, storage.ProofByReply, 0},
		"by an ETag that is the MD5":             {plain, func(h http.Header) { h.Del("X-Amz-Checksum-Sha256") }, storage.ProofByReply, 0},
		"by reading back where the ETag is no MD5": {plain, func(h http.Header) {
			h.Del("X-Amz-Checksum-Sha256")
			h.Set("ETag", `"`+strings.Repeat("0f", 16)+`"`)
		}, storage.ProofByReading, 1},
		"by reading back where the reply says nothing": {plain, func(h http.Header) {
			h.Del("X-Amz-Checksum-Sha256")
			h.Del("ETag")
		}, storage.ProofByReading, 1},
		"by reading back where the checksum is another": {plain, func(h http.Header) {
			h.Set("X-Amz-Checksum-Sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
			h.Del("ETag")
		}, storage.ProofByReading, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, proxied(t, test.server(t), storagetest.PlainBucket, replying(test.reply)))
			if got := s.PutProof(); got != storage.ProofUnknown {
				t.Errorf("before a put the proof is %v", got)
			}
			if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
				t.Fatalf("put: %v", err)
			}
			if n := s.Stats(); s.PutProof() != test.want || n.Puts != 1 || n.Gets != test.gets {
				t.Errorf("the proof is %v, counted %+v; want %v and %d gets", s.PutProof(), n, test.want, test.gets)
			}
			if n := s.Stats(); n.Fetched > 65<<10 {
				t.Errorf("%d bytes were read back", n.Fetched)
			}
		})
	}
}

func testWhoAnswersPutsWithoutKeepingThemIsFoundOut(t *testing.T) {
	html := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Welcome</html>")
	}
	var body []byte
	for name, h := range map[string]hook{
		"to puts alone": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPut {
				html(w)
				return
			}
			next.ServeHTTP(w, r)
		},
		"to everything": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { html(w) },
		"with a part of the object": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet {
				_, _ = w.Write(body[:len(body)-1])
			}
		},
		"with more than the object": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet {
				_, _ = w.Write(append(bytes.Clone(body), 0))
			}
		},
		"with a hash of something else": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPut {
				w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`) // the MD5 of nothing
				return
			}
			next.ServeHTTP(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, h))
			for _, body = range [][]byte{random(300), random(1 << 20)} {
				err := s.Put(t.Context(), "k", body, storage.PutOptions{})
				if !errors.Is(err, storage.ErrUnproven) || !strings.Contains(err.Error(), "check the endpoint, proxies on the way") {
					t.Errorf("put of %d bytes: %v, want ErrUnproven with what to do", len(body), err)
				}
			}
		})
	}
	t.Run("once, and it is put again", func(t *testing.T) {
		s := open(t, proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, onFirst(1, http.MethodPut, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { html(w) })))
		body := random(1 << 20)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Fatalf("put: %v", err)
		}
		if have, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || !bytes.Equal(have, body) {
			t.Errorf("get: other bytes, or %v", err)
		}
	})
}

// A proxy refuses puts without the condition, as Amazon does by a policy with
// s3:if-none-match.
func testAPlainPutIsRefusedWhereTheStoreDemandsACondition(t *testing.T) {
	for name, reply := range map[string]struct {
		status int
		code   string
		want   error
	}{
		"denied":                 {http.StatusForbidden, "AccessDenied", storage.ErrDenied},
		"a failed precondition":  {http.StatusPreconditionFailed, "PreconditionFailed", storage.ErrExists},
		"nothing: it goes along": {},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if reply.want == nil || r.Method != http.MethodPut || r.Header.Get("If-None-Match") == "*" {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/xml")
				w.WriteHeader(reply.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", reply.code)
			}))
			if err := s.Put(t.Context(), "k", []byte("first"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := s.PlainPut(t.Context(), "k", []byte("second")); !errors.Is(err, reply.want) {
				t.Errorf("plain put: %v, want %v", err, reply.want)
			}
			want := "first"
			if reply.want == nil {
				want = "second"
			}
			if have, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || string(have) != want {
				t.Errorf("stored is %q, %v; want %q", have, err, want)
			}
		})
	}
}

func testAReplyThatHoldsNoListingIsAskedForAgain(t *testing.T) {
	put := func(t *testing.T, c s3.Config, server *storagetest.Server) {
		t.Helper()
		c.Endpoint = server.Endpoint
		if err := open(t, c).Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	keys := func(t *testing.T, s *s3.Store, o storage.ListOptions) (n int, err error) {
		for _, err := range s.List(t.Context(), o) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	for name, reply := range map[string]string{"an empty one": "", "a page of a proxy": "<html><body>Welcome</body></html>", "words": "it works", "half of one": "<ListBucketResult><Contents>"} {
		answer := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = io.WriteString(w, reply) }
		for _, o := range []storage.ListOptions{{}, {Hidden: true}} {
			t.Run(name, func(t *testing.T) {
				server := storagetest.PlainVersityGW(t)
				c := proxied(t, server, storagetest.PlainBucket, onFirst(2, http.MethodGet, answer))
				put(t, c, server)
				if n, err := keys(t, open(t, c), o); n != 1 || err != nil {
					t.Errorf("listed %d objects, %v", n, err)
				}
			})
		}
		t.Run(name+" for ever is an error", func(t *testing.T) {
			c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, answer)
			c.MaxRetries = 1
			s := open(t, c)
			if _, err := keys(t, s, storage.ListOptions{}); !errors.Is(err, storage.ErrUnavailable) || s.Stats().Lists != 2 {
				t.Errorf("list: %v after %d requests, want ErrUnavailable after two", err, s.Stats().Lists)
			}
		})
	}
}
