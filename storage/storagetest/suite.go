// Package storagetest holds what tests of and on stores need: the one
// conformance suite that every storage.Store passes, a store in memory, a
// store that fails on demand, and real S3 servers.
package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"knowngood/storage"
)

// Feature is what some stores can do and others cannot.
type Feature int

// The features that Run checks where the store has them. Elsewhere it checks that
// they are refused.
const (
	Versions  Feature = iota // a delete hides, older versions stay
	Locks                    // objects can be locked
	Checksums                // what arrives is verified
)

// Run holds a store to the contract of storage.Store. open returns an empty
// one each time, which Run may use concurrently with others.
func Run(t *testing.T, open func(t *testing.T) storage.Store, features ...Feature) {
	has := map[Feature]bool{}
	for _, f := range features {
		has[f] = true
	}
	for name, test := range map[string]func(*testing.T, storage.Store){
		"what was put can be got":                          testRoundTrip,
		"an object is created once":                        testCreateOnce,
		"of racing puts exactly one wins":                  testRace,
		"a range yields the bytes there are":               testRanges,
		"a listing is what its options select":             testListing,
		"a listing spans many pages":                       testManyKeys,
		"a big object is complete":                         testBig,
		"an invalid key is refused":                        testInvalidKeys,
		"the end of the context ends what is asked":        testContext,
		"one store serves many at once":                    testConcurrent,
		"errors name the operation, the store, the object": testErrors,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
	t.Run("a deleted object is gone from view", func(t *testing.T) {
		t.Parallel()
		testDelete(t, open(t), has[Versions])
	})
	t.Run("versions stay beneath the view", func(t *testing.T) {
		t.Parallel()
		testVersions(t, open(t), has[Versions])
	})
	if has[Versions] && !testing.Short() {
		t.Run("any number of delete markers is passed over", func(t *testing.T) {
			t.Parallel()
			testMarkers(t, open(t))
		})
	}
	if has[Checksums] {
		t.Run("what arrives is verified", func(t *testing.T) {
			t.Parallel()
			testChecksum(t, open(t))
		})
	}
	t.Run("locks are reported and only grow", func(t *testing.T) {
		t.Parallel()
		testLocks(t, open(t), has[Locks])
	})
}

func testRoundTrip(t *testing.T, s storage.Store) {
	for name, body := range map[string][]byte{
		"empty":            {},
		"one":              {0},
		"text":             []byte("known good"),
		"a/b/c/deep":       random(1, 100_000),
		"dots/..x/x..y/.z": random(2, 513),
		"=eq/_-.=":         random(3, 64<<10),
		strings.Repeat("s", storage.MaxSegment) + "/" + strings.Repeat("t", storage.MaxSegment): []byte("long"),
	} {
		given := bytes.Clone(body)
		if err := s.Put(t.Context(), name, body, storage.PutOptions{SHA256: sha256.Sum256(body)}); err != nil {
			t.Fatalf("put: %v", err)
		}
		if !bytes.Equal(given, body) {
			t.Errorf("%s: Put changed the caller's bytes", name)
		}
		clear(body) // the store may not keep it
		wantBody(t, s, name, given)
	}
}

func testChecksum(t *testing.T, s storage.Store) {
	wrong := storage.PutOptions{SHA256: sha256.Sum256([]byte("other"))}
	if err := s.Put(t.Context(), "wrong", []byte("this"), wrong); !errors.Is(err, storage.ErrChecksum) {
		t.Errorf("put with the checksum of other bytes: %v, want ErrChecksum", err)
	}
	wantAbsent(t, s, "wrong")
}

func testCreateOnce(t *testing.T, s storage.Store) {
	put(t, s, "k/once", "first")
	if err := s.Put(t.Context(), "k/once", []byte("first"), storage.PutOptions{}); err != nil {
		t.Errorf("put of the same bytes again: %v", err)
	}
	for _, other := range []string{"First", "", "first and more", "firs"} {
		if err := s.Put(t.Context(), "k/once", []byte(other), storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
			t.Errorf("put of %q: %v, want ErrExists", other, err)
		}
	}
	wantBody(t, s, "k/once", []byte("first"))
	wantKeys(t, s, storage.ListOptions{}, "k/once")
}

func testRace(t *testing.T, s storage.Store) {
	const writers = 16
	for round := range 4 {
		key := fmt.Sprintf("race/new-directory-%d/key", round)
		bodies := make([][]byte, writers)
		for i := range bodies {
			bodies[i] = random(uint64(i), 30_000)
		}
		errs := together(writers, func(i int) error {
			return s.Put(t.Context(), key, bodies[i], storage.PutOptions{})
		})
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Fatalf("writers %d and %d both created %s", winner, i, key)
			case !errors.Is(err, storage.ErrExists):
				t.Errorf("the loser of a race got %v, want ErrExists", err)
			}
		}
		if winner < 0 {
			t.Fatalf("nobody created %s", key)
		}
		wantBody(t, s, key, bodies[winner])
	}
	for _, err := range together(writers, func(int) error {
		return s.Put(t.Context(), "race/equal", []byte("the same"), storage.PutOptions{})
	}) {
		if err != nil {
			t.Errorf("racing puts of the same bytes: %v", err)
		}
	}
}

func testRanges(t *testing.T, s storage.Store) {
	put(t, s, "ten", "0123456789")
	put(t, s, "none", "")
	for _, c := range []struct {
		key            string
		offset, length int64
		want           string
	}{
		{"ten", 0, -1, "0123456789"},
		{"ten", 0, 10, "0123456789"},
		{"ten", 0, 11, "0123456789"},
		{"ten", 0, 1 << 40, "0123456789"},
		{"ten", 0, 1, "0"},
		{"ten", 0, 0, ""},
		{"ten", 3, 4, "3456"},
		{"ten", 3, 0, ""},
		{"ten", 3, -1, "3456789"},
		{"ten", 3, 100, "3456789"},
		{"ten", 9, 1, "9"},
		{"ten", 9, -1, "9"},
		{"ten", 10, 1, ""},
		{"ten", 10, -1, ""},
		{"ten", 11, 5, ""},
		{"ten", 1 << 40, -1, ""},
		{"none", 0, -1, ""},
		{"none", 0, 5, ""},
		{"none", 0, 0, ""},
		{"none", 7, 1, ""},
	} {
		r, err := s.Get(t.Context(), c.key, c.offset, c.length)
		if err != nil {
			t.Errorf("get %s [%d, +%d): %v", c.key, c.offset, c.length, err)
			continue
		}
		have, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(have) != c.want {
			t.Errorf("get %s [%d, +%d) = %q, %v; want %q", c.key, c.offset, c.length, have, err, c.want)
		}
	}
	for _, length := range []int64{-1, 0, 1} {
		if _, err := s.Get(t.Context(), "absent", 0, length); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("get of nothing, length %d: %v, want ErrNotFound", length, err)
		}
	}
	if _, err := s.Get(t.Context(), "ten", -1, 2); err == nil {
		t.Error("a negative offset was accepted")
	}
	if _, err := storage.Append(t.Context(), nil, s, "ten", 5, 6); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAll past the end: %v, want io.ErrUnexpectedEOF", err)
	}
	if _, err := storage.Append(t.Context(), nil, s, "ten", 10, 1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAll at the end: %v, want io.ErrUnexpectedEOF", err)
	}
}

// testDelete takes the word of a store whose deletes hide for what is folded.
func testDelete(t *testing.T, s storage.Store, hides bool) {
	put(t, s, "d/gone", "x")
	put(t, s, "d/stays", "y")
	for range 2 { // the second time there is nothing left to delete
		if err := s.Delete(t.Context(), "d/gone"); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	for _, never := range []string{"d/never", "d/never/in/a/directory"} {
		if err := s.Delete(t.Context(), never); err != nil {
			t.Errorf("delete of nothing, %s: %v", never, err)
		}
	}
	wantAbsent(t, s, "d/gone")
	wantKeys(t, s, storage.ListOptions{}, "d/stays")
	if err := s.Delete(t.Context(), "d/stays"); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, s, storage.ListOptions{})
	if !hides {
		wantKeys(t, s, storage.ListOptions{Delimiter: true})
	}
}

func testBig(t *testing.T, s storage.Store) {
	const size = 20<<20 + 1
	body := random(7, size)
	if err := s.Put(t.Context(), "big/object", body, storage.PutOptions{SHA256: sha256.Sum256(body)}); err != nil {
		t.Fatal(err)
	}
	wantBody(t, s, "big/object", body)
	for _, err := range together(8, func(i int) error {
		offset := int64(i) * size / 8
		part, err := storage.Append(t.Context(), nil, s, "big/object", offset, size/8)
		if err == nil && !bytes.Equal(part, body[offset:offset+size/8]) {
			err = fmt.Errorf("the range at %d has other bytes", offset)
		}
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	body[size/2] ^= 1
	if err := s.Put(t.Context(), "big/object", body, storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
		t.Errorf("put of a big object with one bit changed: %v, want ErrExists", err)
	}
}

func testInvalidKeys(t *testing.T, s storage.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a\\b", "a b", "a\x00b", "a\nb", "é",
		"a?b", "a#b", "a%2Fb", "a*b", "~", "+tmp/x", "\xff", "a/\u202e",
		strings.Repeat("x", storage.MaxSegment+1), strings.Repeat("x/", storage.MaxKey/2) + "xx",
	} {
		if err := s.Put(t.Context(), key, []byte("x"), storage.PutOptions{}); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("put %q: %v, want ErrInvalidKey", key, err)
		}
		if _, err := s.Get(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("get %q: %v, want ErrInvalidKey", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("delete %q: %v, want ErrInvalidKey", key, err)
		}
	}
	wantKeys(t, s, storage.ListOptions{})
}

func testContext(t *testing.T, s storage.Store) {
	const size = 8 << 20
	if err := s.Put(t.Context(), "c/body", random(9, size), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	r, err := s.Get(ended, "c/body", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on after the context ended: %v, want context.Canceled", err)
	}
	r.Close()

	if err := s.Put(ended, "c/new", []byte("x"), storage.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want context.Canceled", err)
	}
	if _, err := s.Get(ended, "c/body", 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v, want context.Canceled", err)
	}
	if err := s.Delete(ended, "c/body"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v, want context.Canceled", err)
	}
	if _, err := list(ended, s, storage.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v, want context.Canceled", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := s.Get(late, "c/body", 0, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get: %v, want context.DeadlineExceeded", err)
	}
	wantKeys(t, s, storage.ListOptions{}, "c/body")
}

func testConcurrent(t *testing.T, s storage.Store) {
	for _, err := range together(24, func(i int) error {
		key := fmt.Sprintf("many/%d/object", i)
		body := random(uint64(i), 1000*i)
		if err := s.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
			return err
		}
		have, err := storage.Append(t.Context(), nil, s, key, 0, -1)
		if err == nil && !bytes.Equal(have, body) {
			err = fmt.Errorf("%s: other bytes came back", key)
		}
		if err != nil {
			return err
		}
		found, err := list(t.Context(), s, storage.ListOptions{Prefix: key})
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("%s: listed %d times after its put", key, len(found))
		}
		if err == nil && i%3 == 0 {
			err = s.Delete(t.Context(), key)
		}
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if all, err := list(t.Context(), s, storage.ListOptions{}); err != nil || len(all) != 16 {
		t.Errorf("%d objects are left, %v; want 16", len(all), err)
	}
}

func testErrors(t *testing.T, s storage.Store) {
	put(t, s, "e/taken", "x")
	_, getErr := s.Get(t.Context(), "e/absent", 0, -1)
	putErr := s.Put(t.Context(), "e/taken", []byte("y"), storage.PutOptions{})
	for want, err := range map[storage.Error]error{
		{Op: "get", Key: "e/absent"}: getErr,
		{Op: "put", Key: "e/taken"}:  putErr,
	} {
		var have *storage.Error
		if !errors.As(err, &have) {
			t.Errorf("%T is no *storage.Error: %v", err, err)
			continue
		}
		if have.Op != want.Op || have.Key != want.Key || have.Store == "" {
			t.Errorf("error has op %q, key %q, store %q; want %q, %q and some store", have.Op, have.Key, have.Store, want.Op, want.Key)
		}
	}
}

func put(t *testing.T, s storage.Store, key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(body), storage.PutOptions{}); err != nil {
		t.Fatalf("put: %v", err)
	}
}

func wantBody(t *testing.T, s storage.Store, key string, want []byte) {
	t.Helper()
	have, err := storage.Append(t.Context(), nil, s, key, 0, -1)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("get %s: %d bytes, %v; want the %d that were put", key, len(have), err, len(want))
	}
}

func wantAbsent(t *testing.T, s storage.Store, key string) {
	t.Helper()
	if _, err := s.Get(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("get %s: %v, want ErrNotFound", key, err)
	}
}

// together calls f(0) to f(n-1) at the same time and returns their errors.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// random returns n incompressible bytes, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}
