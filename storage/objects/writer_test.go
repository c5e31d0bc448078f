package objects_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
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
}
