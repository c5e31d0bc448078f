package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// weighedStore measures the memory and the descriptors that are in use at each read of
// a pack. The first reads wait until so many are under way.
type weighedStore struct {
	storage.Store
	gather int

	mu          sync.Mutex
	gets        int
	enough      chan struct{}
	heap        int64
	descriptors int
}

func (s *weighedStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if s.gather == 0 || !strings.Contains(key, "/packs/") {
		return s.Store.Get(ctx, key, offset, length)
	}
	s.mu.Lock()
	if s.gets++; s.gets == s.gather {
		close(s.enough)
	}
	s.mu.Unlock()
	select {
	case <-s.enough:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	s.heap, s.descriptors = max(s.heap, treetest.Heap()), max(s.descriptors, len(fds))
	return s.Store.Get(ctx, key, offset, length)
}

// weighed restores a snapshot of a directory, and returns the memory that was in use
// more than before, in bytes, and the descriptors.
func weighed(t *testing.T, gather int, src string, o restore.Options) (memory int64, descriptors int) {
	t.Helper()
	files, err := dir.Open(treetest.TempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &weighedStore{Store: files, enough: make(chan struct{})}
	w := (&enginetest.World{T: t, Ctx: t.Context(), URL: "test", State: treetest.TempDir(t)}).Over(s)
	key, err := identity.Generate(identity.X25519)
	w.Check(err)
	name := filepath.Join(treetest.TempDir(t), "identity")
	w.Check(identity.WriteFile(name, key, identity.WriteOptions{Created: time.Now()}))
	w.ID, err = identity.Load(name, nil)
	w.Check(err)
	_, _, err = repository.Init(w.Ctx, s, trust.InitOptions{Recipients: []string{key.Recipient}, Host: enginetest.Host, StateDir: w.State, URL: w.URL, Now: time.Now()})
	w.Check(err)
	w.MustCapture("e", src)

	before := treetest.Heap()
	s.gather = gather
	o.Under = enginetest.Under(src)
	w.Restore("e", o)
	return s.heap - before, s.descriptors
}

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("of a restore with many reads under way does not grow with the content", testMemoryOfMuchContent)
	t.Run("of a restore that the store holds up does not grow with the number of files", testMemoryOfManyFiles)
}

func testMemoryOfMuchContent(t *testing.T) {
	src := treetest.TempDir(t)
	r := rand.NewChaCha8([32]byte{1})
	content := make([]byte, 2<<20)
	for i := range 100 {
		r.Read(content)
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// As many reads of frames of 4 MiB as there may be at once.
	used, _ := weighed(t, 7, src, restore.Options{Target: filepath.Join(treetest.TempDir(t), "out")})
	limit := 64 + int64(runtime.GOMAXPROCS(0)+1)*4 + 10 // buffers of ranges, frames, and what else there is
	t.Logf("%d bytes in use, want at most %d MiB", used, limit)
	if used > limit<<20 {
		t.Errorf("%d bytes in use, want at most %d MiB", used, limit)
	}
}

// stuckStore ends no read of a pack. When nothing moves any more it measures the memory
// in use.
type stuckStore struct {
	storage.Store
	on    bool
	first atomic.Bool
	stuck chan struct{}
	heap  int64
}

func (s *stuckStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if !s.on || !strings.Contains(key, "/packs/") {
		return s.Store.Get(ctx, key, offset, length)
	}
	if s.first.CompareAndSwap(false, true) {
		synctest.Wait()
		s.heap = treetest.Heap()
		close(s.stuck)
	}
	<-s.stuck
	return nil, errors.New("it is stuck")
}

func testMemoryOfManyFiles(t *testing.T) {
	src := treetest.TempDir(t)
	const dirs, each = 200, 500
	for i := range dirs {
		sub := filepath.Join(src, fmt.Sprint("directory-", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range each {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file-", j)), fmt.Append(nil, i, "-", j), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := &stuckStore{Store: storagetest.NewPlainMemory(), stuck: make(chan struct{})}
		w := enginetest.New(t, s)
		w.MustCapture("e", src)
		before := treetest.Heap()
		s.on = true
		_, err := w.TryRestore("e", restore.Options{Target: filepath.Join(treetest.TempDir(t), "out")})
		used := s.heap - before
		t.Logf("%d bytes in use: %v", used, err)
		if err == nil || used > 80<<20 {
			t.Errorf("%d bytes in use, want at most 80 MiB; %v", used, err)
		}
	})
}
