package objects_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/objects"
	"knowngood/storage/storagetest"
)

// slowStore ends no put of a pack before so many are under way.
type slowStore struct {
	storage.Store
	wanted int

	mu       sync.Mutex
	underWay int
	enough   chan struct{} // closed when there are
}

func (s *slowStore) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if strings.Contains(key, "/packs/") {
		s.mu.Lock()
		if s.underWay++; s.underWay == s.wanted {
			close(s.enough)
		}
		s.mu.Unlock()
		select {
		case <-s.enough:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Store.Put(ctx, key, body, o)
}

func TestWriter(t *testing.T) {
	t.Run("has five packs under way to a slow store, and one being filled", func(t *testing.T) {
		t.Parallel()
		store := &slowStore{Store: storagetest.NewPlainMemory(), wanted: 5, enough: make(chan struct{})}
		w := enginetest.New(t, store)
		dir := treetest.TempDir(t)
		content := make([]byte, 1<<20)
		for i := range 20 { // two a pack, at most
			rand.Read(content)
			w.Check(os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content, 0o644))
		}
		w.MustCapture("e", dir) // hangs where fewer are
	})
	t.Run("makes longer frames of large files, in which no small file lies", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewPlainMemory())
		r := w.Open(w.State)
		host, err := r.Host(w.Ctx)
		w.Check(err)
		x, err := r.OpenIndex(w.Ctx, host, objects.Verification{})
		w.Check(err)
		defer x.Close()
		epoch, err := r.CurrentEpoch(w.Ctx)
		w.Check(err)
		writer, err := r.NewWriter(w.Ctx, host, epoch, x, objects.WriterOptions{PackSize: 16 << 20})
		w.Check(err)
		defer writer.Abort()

		const large, small = 1 << 20, 100 << 10
		lengths := slices.Concat(slices.Repeat([]int{large}, 5), slices.Repeat([]int{small}, 25), []int{large})
		want := []int{4 * large, large + 10*small, 15 * small, large} // content of the frames
		framer, content := writer.NewFramer(), make([]byte, large)
		var refs []objects.ChunkRef
		for i, n := range lengths {
			rand.Read(content)
			ref, _, err := framer.Add([32]byte{byte(i)}, content[:n])
			w.Check(err)
			refs = append(refs, ref)
		}
		w.Check(writer.Flush())

		sealed := map[uint32]uint32{} // by offset
		for _, ref := range refs {
			_, offset, length, _, err := writer.Place(ref, nil)
			w.Check(err)
			sealed[offset] = length
		}
		got := slices.Sorted(maps.Values(sealed))
		slices.Sort(want)
		if !slices.EqualFunc(got, want, func(sealed uint32, content int) bool { return int(sealed)-content <= 64 && int(sealed) > content }) {
			t.Errorf("frames of %d sealed bytes, content %d", got, want)
		}
	})
}
