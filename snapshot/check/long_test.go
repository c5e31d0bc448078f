package check_test

import (
	"context"
	"io"
	"iter"
	"testing"

	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/storage"
)

// longStore shows one object as longer than any may be, with rubbish in it, and counts
// what is read of that.
type longStore struct {
	storage.Store
	key  string
	read int64
}

func (s *longStore) Unwrap() storage.Store { return s.Store }

func (s *longStore) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range s.Store.List(ctx, o) {
			if o.Key == s.key {
				o.Size = 4 << 30
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

func (s *longStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key != s.key {
		return s.Store.Get(ctx, key, offset, length)
	}
	if length < 0 || offset+length > 4<<30 {
		length = 4<<30 - offset
	}
	return io.NopCloser(io.LimitReader(&zeroes{&s.read}, length)), nil
}

// zeroes has no end.
type zeroes struct{ read *int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	clear(p)
	*z.read += int64(len(p))
	return len(p), nil
}

func TestLongObject(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(w *world){
		"a check of all data": func(w *world) { w.run(check.Options{ReadData: 1}) },
		"a repair": func(w *world) {
			for _, key := range w.keys("hosts/h/index/") {
				w.memory.Forget(key)
			}
			w.forgetCopies()
			w.repair()
		},
		"a snapshot that verifies all data": func(w *world) {
			res, err := w.Capture("e", func(o *snapshot.Options) { o.Verify.Data = true }, w.src)
			w.Check(err)
			if res.Healed.Packs != 1 {
				w.t.Errorf("healed %+v", res.Healed)
			}
		},
	} {
		for _, prefix := range []string{"hosts/h/packs/", "hosts/h/manifests/"} {
			t.Run("is not read by "+name+", below "+prefix, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.MustCapture("e", w.src)
				store := &longStore{Store: w.memory, key: w.keys(prefix)[0]}
				w.Store = store
				read(w)
				if store.read > 2<<20 {
					t.Errorf("%d bytes were read", store.read)
				}
			})
		}
	}
}
