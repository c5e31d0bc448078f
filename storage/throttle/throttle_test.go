package throttle_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/storagetest"
	"knowngood/storage/throttle"
)

func TestThrottle(t *testing.T) {
	t.Run("keeps the contract", testAThrottledStoreKeepsTheContract)
	t.Run("bodies move at the limit", testBodiesMoveAtTheLimit)
	t.Run("the wait ends with the context", testTheWaitEndsWithTheContext)
}

func testAThrottledStoreKeepsTheContract(t *testing.T) {
	fast := throttle.Limits{Upload: throttle.Rate(1 << 30), Download: throttle.Rate(1 << 30)}
	t.Run("memory", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store {
			return throttle.New(storagetest.NewMemory(), fast)
		}, storagetest.Versions, storagetest.Locks, storagetest.Checksums)
	})
	t.Run("directory", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			s, err := dir.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			return throttle.New(s, fast)
		})
	})
	t.Run("without limits", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return throttle.New(storagetest.NewPlainMemory(), throttle.Limits{}) })
	})
}

const (
	rate = 100 << 10 // bytes per second
	size = 1 << 20   // bytes
)

func testBodiesMoveAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := storagetest.NewMemory()
		s := throttle.New(memory, throttle.Limits{Upload: throttle.Rate(rate), Download: throttle.Rate(2 * rate)})
		seconds := func(f func() error) float64 {
			begin := time.Now()
			if err := f(); err != nil {
				t.Fatal(err)
			}
			return time.Since(begin).Seconds()
		}
		put := seconds(func() error { return s.Put(t.Context(), "k", make([]byte, size), storage.PutOptions{}) })
		if want := float64(size) / rate; put < want*0.95 || put > want*1.05 {
			t.Errorf("an upload took %.1f s, want %.1f", put, want)
		}
		get := seconds(func() error {
			_, err := storage.Append(t.Context(), nil, s, "k", 0, -1)
			return err
		})
		if want := float64(size) / (2 * rate); get < want*0.95 || get > want*1.05 {
			t.Errorf("a download took %.1f s, want %.1f", get, want)
		}
		versioner, _ := storage.Capability[storage.Versioner](s)
		versions := seconds(func() error {
			for v, err := range versioner.Versions(t.Context(), "k") {
				if err != nil {
					return err
				}
				r, err := versioner.GetVersion(t.Context(), "k", v.ID, 0, -1)
				if err != nil {
					return err
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					return err
				}
			}
			return nil
		})
		if want := float64(size) / (2 * rate); versions < want*0.95 {
			t.Errorf("the download of a version took %.1f s, want %.1f", versions, want)
		}
	})
}

func testTheWaitEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := throttle.New(storagetest.NewMemory(), throttle.Limits{Upload: throttle.Rate(rate), Download: throttle.Rate(rate)})
		if err := s.Put(t.Context(), "k", make([]byte, size), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := s.Put(ctx, "new", make([]byte, size), storage.PutOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v, want context.Canceled", err)
		}
		if _, err := s.Get(t.Context(), "new", 0, -1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("an ended put left something: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := storage.Append(ctx, nil, s, "k", 0, -1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("get: %v, want context.DeadlineExceeded", err)
		}
	})
}
