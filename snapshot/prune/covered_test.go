package prune_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestWhoHasTheKeyOfAHost(t *testing.T) {
	t.Run("hides nothing by what the store does not give out", testWhatIsWithheldHidesNothing)
}

// withholding is a store that does not give out the current view of some keys.
type withholding struct {
	*storagetest.Memory
	keys map[string]error
}

func (s *withholding) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := s.keys[key]; err != nil {
		return nil, &storage.Error{Op: "get", Key: key, Err: err}
	}
	return s.Memory.Get(ctx, key, offset, length)
}

func testWhatIsWithheldHidesNothing(t *testing.T) {
	for _, as := range []error{storage.ErrWithheld, storage.ErrDenied} {
		t.Run(as.Error(), func(t *testing.T) {
			s := &withholding{storagetest.NewMemory(), map[string]error{}}
			simulated(t, func() storage.Store { return s }, func(w *world) {
				trees, _ := w.days(2)
				var keys []string
				for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/"}) {
					w.check(err)
					if !strings.HasPrefix(o.Key, "hosts/h/index/") {
						keys = append(keys, o.Key)
					}
				}
				for _, k := range keys {
					s.Overwrite(k, []byte("x"))
					s.keys[k] = as
				}
				for i, tree := range trees {
					w.Restores([]string{"web@1", "web@2"}[i], w.dir, tree)
				}
				if len(w.Warnings()) == 0 {
					t.Error("nothing is reported")
				}
			})
		})
	}
}
