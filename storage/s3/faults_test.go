package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

func TestFaults(t *testing.T) {
	t.Run("a lost reply is no conflict", testALostReplyIsNoConflict)
	t.Run("a big put asks for the object before it is sent again", testABigPutLooksBeforeItIsSentAgain)
	t.Run("a download continues from where it broke", testADownloadGoesOnFromWhereItBroke)
	t.Run("a transfer that stands still is given up", testATransferThatStandsStillIsGivenUp)
	t.Run("a throttling server is asked again", testAThrottlingServerIsAskedAgain)
	t.Run("locked puts carry checksums", testLockedPutsCarryChecksums)
	t.Run("bytes that change on their way are sent again", testBytesThatChangeOnTheirWayAreSentAgain)
	t.Run("a deleted key is not taken for an equal object", testADeletedKeyIsNotTakenForAnEqualObject)
	t.Run("a server without ranges is not believed", testAServerWithoutRangesIsNotBelieved)
	t.Run("an object that the server does not give out is withheld", testAnObjectThatIsNotGivenOut)
}

func testAnObjectThatIsNotGivenOut(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for name, reply := range map[string]struct {
		status        int
		code, message string
		want          error
	}{
		"encrypted with a key of the client":               {http.StatusBadRequest, "InvalidRequest", "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.", storage.ErrWithheld},
		"encrypted with another's key":                     {http.StatusForbidden, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: y", storage.ErrWithheld},
		"encrypted with a disabled key":                    {http.StatusBadRequest, "KMS.DisabledException", "The key is disabled.", storage.ErrWithheld},
		"in an archive":                                    {http.StatusForbidden, "InvalidObjectState", "The operation is not valid for the object's storage class", storage.ErrWithheld},
		"but not to credentials without the right to read": {http.StatusForbidden, "AccessDenied", "Access Denied.", storage.ErrDenied},
		"but not while its keys are asked too much":        {http.StatusServiceUnavailable, "KMS.ThrottlingException", "slow down", storage.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			c := between(t, server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodPut || r.URL.Path != "/bucket/p/k" {
					next.ServeHTTP(w, r)
					return
				}
				w.WriteHeader(reply.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", reply.code, reply.message)
			})
			c.MaxRetries = 1
			s := open(t, c)
			if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil && !errors.Is(err, storage.ErrExists) && !errors.Is(err, reply.want) {
				t.Fatal(err)
			}
			if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); !errors.Is(err, reply.want) {
				t.Errorf("get: %v, want %v", err, reply.want)
			}
			want := reply.want
			if want == storage.ErrWithheld {
				want = storage.ErrExists
			}
			if err := s.Put(t.Context(), "k", []byte("y"), storage.PutOptions{}); !errors.Is(err, want) {
				t.Errorf("put over it: %v, want %v", err, want)
			}
		})
	}
}

func testALostReplyIsNoConflict(t *testing.T) {
	body := random(100_000)
	t.Run("of a put that succeeded", func(t *testing.T) {
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, onFirst(1, http.MethodPut, loseReply))
		s := open(t, c)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Errorf("put: %v", err)
		}
		if n := s.Stats(); n.Puts != 2 || n.Retries != 1 {
			t.Errorf("counted %+v, want two puts of which one was a retry", n)
		}
	})
	t.Run("from a server that keeps no checksums", func(t *testing.T) {
		lose := onFirst(1, http.MethodPut, loseReply)
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			lose(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(&withoutChecksums{w}, r)
			}))
		})
		s := open(t, c)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Errorf("put: %v", err)
		}
		if n := s.Stats(); n.Gets != 1 {
			t.Errorf("counted %+v, want one get to compare", n)
		}
	})
	t.Run("of a put that came second", func(t *testing.T) {
		var other *s3.Store
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, onFirst(1, http.MethodPut, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			changed := bytes.Clone(body)
			changed[5] ^= 1
			if err := other.Put(t.Context(), "k", changed, storage.PutOptions{}); err != nil {
				t.Error(err)
			}
			hangUp(w)
		}))
		other = open(t, c)
		if err := open(t, c).Put(t.Context(), "k", body, storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
			t.Errorf("put: %v, want ErrExists", err)
		}
	})
}

func testABigPutLooksBeforeItIsSentAgain(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	// A server need not read the body of a put that it refuses, and its
	// answer is lost when it hangs up.
	c := proxied(t, server, storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			hangUp(w)
		}
		next.ServeHTTP(w, r)
	})
	direct := c
	direct.Endpoint = server.Endpoint
	body := random(6 << 20)
	if err := open(t, direct).Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s := open(t, c)
	if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
		t.Errorf("put of the same bytes: %v", err)
	}
	body[0] ^= 1
	if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
		t.Errorf("put of other bytes: %v, want ErrExists", err)
	}
	if n := s.Stats().Puts; n != 2 {
		t.Errorf("two puts took %d requests", n)
	}
}

type withoutChecksums struct{ http.ResponseWriter }

func (w *withoutChecksums) WriteHeader(status int) {
	for name := range w.Header() {
		if strings.HasPrefix(name, "X-Amz-Checksum-") {
			w.Header().Del(name)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func testADownloadGoesOnFromWhereItBroke(t *testing.T) {
	body := random(300_000)
	for name, h := range map[string]hook{
		"the connection breaks": cutBody(70_001, func(w http.ResponseWriter, _ *http.Request) { hangUp(w) }),
		"it stalls":             cutBody(70_001, stall),
	} {
		t.Run(name, func(t *testing.T) {
			c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, onFirst(3, http.MethodGet, h))
			c.IdleTimeout = 200 * time.Millisecond
			s := open(t, c)
			if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			have, err := storage.Append(t.Context(), nil, s, "k", 10, int64(len(body))-20)
			if err != nil || !bytes.Equal(have, body[10:len(body)-10]) {
				t.Errorf("read %d bytes, %v", len(have), err)
			}
			if n := s.Stats(); n.Gets < 4 || n.Fetched < int64(len(body))-20 || n.Fetched > int64(len(body)) {
				t.Errorf("counted %+v, want at least four gets that together read the range once", n)
			}
		})
	}
	t.Run("but not in an object that was replaced", func(t *testing.T) {
		server := storagetest.PlainVersityGW(t)
		c := proxied(t, server, storagetest.PlainBucket, onFirst(1, http.MethodGet, cutBody(70_001, func(w http.ResponseWriter, r *http.Request) {
			_, err := server.Client(t).PutObject(r.Context(), "bucket", "p/k", bytes.NewReader(random(299_000)), 299_000, minio.PutObjectOptions{})
			if err != nil {
				t.Error(err)
			}
			hangUp(w)
		})))
		s := open(t, c)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err == nil || !strings.Contains(err.Error(), "replaced") {
			t.Errorf("read a mixture of two objects: %v", err)
		}
	})
}

func testATransferThatStandsStillIsGivenUp(t *testing.T) {
	body := random(6 << 20) // more than the buffers between the two ends
	t.Run("download", func(t *testing.T) {
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, onFirst(99, http.MethodGet, cutBody(0, stall)))
		c.IdleTimeout = 100 * time.Millisecond
		s := open(t, c)
		if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); !errors.Is(err, storage.ErrStalled) {
			t.Errorf("get: %v, want ErrStalled", err)
		}
	})
	t.Run("upload", func(t *testing.T) {
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(http.ResponseWriter, *http.Request, http.Handler) {
			time.Sleep(500 * time.Millisecond) // without reading the body
		})
		c.IdleTimeout, c.MaxRetries = 100*time.Millisecond, -1
		if err := open(t, c).Put(t.Context(), "k", body, storage.PutOptions{}); !errors.Is(err, storage.ErrStalled) {
			t.Errorf("put: %v, want ErrStalled", err)
		}
	})
	t.Run("but a slow reader is none", func(t *testing.T) {
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, pass)
		c.IdleTimeout = 100 * time.Millisecond
		s := open(t, c)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := s.Get(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		rest, err := io.ReadAll(r)
		if err != nil || len(rest) != len(body)-1000 || s.Stats().Gets != 1 {
			t.Errorf("read %d bytes more, %v, in %d requests", len(rest), err, s.Stats().Gets)
		}
	})
	t.Run("nor is a paced upload", func(t *testing.T) {
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, pass)
		c.IdleTimeout = 100 * time.Millisecond
		s := open(t, c)
		paces := 0
		err := s.Put(t.Context(), "k", body[:40_000], storage.PutOptions{Pace: func(context.Context, int) error {
			paces++
			time.Sleep(200 * time.Millisecond)
			return nil
		}})
		if err != nil || paces != 3 || s.Stats().Puts != 1 {
			t.Errorf("put: %v, in %d pieces and %d requests", err, paces, s.Stats().Puts)
		}
	})
}

func testAThrottlingServerIsAskedAgain(t *testing.T) {
	slowDown := answer(http.StatusServiceUnavailable, "SlowDown")
	t.Run("until it answers", func(t *testing.T) {
		var first atomic.Int64
		c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if first.Add(1)%2 == 1 {
				slowDown(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
		s := open(t, c)
		if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
			t.Errorf("put: %v", err)
		}
		if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil {
			t.Errorf("get: %v", err)
		}
		for _, err := range s.List(t.Context(), storage.ListOptions{}) {
			if err != nil {
				t.Errorf("list: %v", err)
			}
		}
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Errorf("delete: %v", err)
		}
		if n := s.Stats(); n.Retries != 4 {
			t.Errorf("counted %+v, want a retry for each of four", n)
		}
	})
	t.Run("until retries are used up", func(t *testing.T) {
		for _, h := range []hook{slowDown, answer(http.StatusInternalServerError, "InternalError"), answer(http.StatusConflict, "ConditionalRequestConflict"), func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { hangUp(w) }} {
			c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, h)
			c.MaxRetries = 2
			s := open(t, c)
			if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("put: %v, want ErrUnavailable", err)
			}
			if n := s.Stats(); n.Puts != 3 {
				t.Errorf("counted %+v, want three puts", n)
			}
		}
	})
	t.Run("until the context ends", func(t *testing.T) {
		s := open(t, proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, slowDown))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if err := s.Put(ctx, "k", []byte("x"), storage.PutOptions{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 2*time.Second {
			t.Errorf("put: %v after %v, want context.DeadlineExceeded", err, time.Since(begin))
		}
	})
}

// testLockedPutsCarryChecksums stands for Amazon S3, which refuses others.
func testLockedPutsCarryChecksums(t *testing.T) {
	var locked atomic.Int64
	c := proxied(t, storagetest.MinIO(t), storagetest.LockBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		h := r.Header
		if h.Get("X-Amz-Object-Lock-Mode") != "" {
			locked.Add(1)
			if h.Get("Content-Md5") == "" || h.Get("X-Amz-Checksum-Sha256") == "" {
				answer(http.StatusBadRequest, "InvalidRequest")(w, r, next)
				return
			}
		}
		if r.Method == http.MethodPut && !r.URL.Query().Has("retention") && h.Get("If-None-Match") != "*" {
			t.Error("an unconditional put")
		}
		next.ServeHTTP(w, r)
	})
	s := open(t, c)
	lock := storage.Retention{Mode: storage.Governance, Until: time.Now().Add(time.Hour)}
	if err := s.Put(t.Context(), "k", random(1000), storage.PutOptions{Retention: lock}); err != nil || locked.Load() != 1 {
		t.Fatalf("put: %v, after %d locked requests", err, locked.Load())
	}
	have, err := s.Retention(t.Context(), "k", "")
	if late := have.Until.Sub(lock.Until); err != nil || have.Mode != lock.Mode || late < 0 || late > time.Second {
		t.Errorf("the lock is %+v, %v; want one that ends within a second after %v", have, err, lock.Until)
	}
}

func testBytesThatChangeOnTheirWayAreSentAgain(t *testing.T) {
	for _, server := range []*storagetest.Server{storagetest.PlainVersityGW(t), storagetest.MinIO(t)} {
		c := proxied(t, server, storagetest.PlainBucket, onFirst(1, http.MethodPut, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			b[len(b)/2] ^= 0x10
			r.Body = io.NopCloser(bytes.NewReader(b))
			next.ServeHTTP(w, r)
		}))
		s := open(t, c)
		body := random(50_000)
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Errorf("put: %v", err)
		}
		if have, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || !bytes.Equal(have, body) {
			t.Errorf("get: other bytes or %v", err)
		}
	}
}

func testADeletedKeyIsNotTakenForAnEqualObject(t *testing.T) {
	server := storagetest.VersityGW(t)
	c := proxied(t, server, storagetest.VersionedBucket, pass)
	s := open(t, c)
	if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	// Servers differ: this one takes the key for taken.
	err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{})
	if !errors.Is(err, storage.ErrExists) || !strings.Contains(err.Error(), "delete marker") {
		t.Errorf("put: %v, want ErrExists that tells of the delete marker", err)
	}
}

func testAServerWithoutRangesIsNotBelieved(t *testing.T) {
	c := proxied(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		whole := httptest.NewRecorder()
		next.ServeHTTP(whole, r)
		if r.Method == http.MethodGet {
			whole.Header().Set("Content-Range", "bytes 0-2/10")
		}
		for name, values := range whole.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(whole.Code)
		_, _ = w.Write(whole.Body.Bytes())
	})
	s := open(t, c)
	if err := s.Put(t.Context(), "k", []byte("0123456789"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := storage.Append(t.Context(), nil, s, "k", 4, 3); err == nil {
		t.Errorf("took %q for the bytes at 4", b)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
