package snapshot_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// watchedStore measures the memory in use at each put of a kind of object, when
// nothing moves but that.
type watchedStore struct {
	storage.Store
	kind string
	most int64

	mu            sync.Mutex
	gets, longest int64 // of containers
	ends          int64 // of containers, which hold what opens their frames; not in gets
}

func (s *watchedStore) Unwrap() storage.Store { return s.Store }

func (s *watchedStore) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if s.kind != "" && strings.Contains(key, "/"+s.kind+"/") {
		synctest.Wait()
		s.most = max(s.most, treetest.Heap())
	}
	return s.Store.Put(ctx, key, body, o)
}

func (s *watchedStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if strings.Contains(key, "/manifests/") {
		s.mu.Lock()
		if s.longest = max(s.longest, length); length == pack.TailLen {
			s.ends++
		} else {
			s.gets++
		}
		s.mu.Unlock()
	}
	return s.Store.Get(ctx, key, offset, length)
}

// manyFiles makes 100,000 empty files, and one that has content before all of them.
func manyFiles(t *testing.T) (dir, first string) {
	t.Helper()
	dir = filepath.Join(treetest.TempDir(t), "src")
	for i := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("directory-%03d", i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 500 {
			f, err := os.Create(filepath.Join(sub, fmt.Sprintf("a-file-with-a-name-%03d", j)))
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	return dir, filepath.Join(dir, "a-first-file")
}

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("of a capture that its first file holds up does not grow with the tree", testMemoryWithManyFiles)
	t.Run("of a capture while uploads are slow does not grow with the content", testMemoryWithMuchContent)
}

func testMemoryWithManyFiles(t *testing.T) {
	dir, first := manyFiles(t)
	synctest.Test(t, func(t *testing.T) {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(info.ModTime()) + time.Hour)
		s := &watchedStore{Store: storagetest.NewPlainMemory()}
		w := enginetest.New(t, s)
		for _, c := range []struct {
			name, kind string
			limit      int64 // MiB
		}{
			// 16 of the walk, 18 of batches, a segment of the manifest, and what chunks take.
			{"a first capture whose first file is put", "packs", 40},
			{"a first capture whose list of files is put", "manifests", 14},
			// 2 more segments, of the last manifest.
			{"a capture whose first file is put", "packs", 44},
			{"a capture whose list of files is put", "manifests", 14},
		} {
			time.Sleep(time.Minute)
			w.Check(os.WriteFile(first, fmt.Append(nil, time.Now()), 0o644))
			before := treetest.Heap()
			s.kind, s.most = c.kind, 0
			w.MustCapture("e", dir)
			s.kind = ""
			used := s.most - before
			t.Logf("%s: %d bytes", c.name, used)
			if used > c.limit<<20 || s.most == 0 {
				t.Errorf("%s: %d bytes, want at most %d MiB", c.name, used, c.limit)
			}
		}

		// The list of files, read by one who does not go on after the first.
		before := treetest.Heap()
		tree := w.Tree("e")
		s.gets, s.ends, s.longest = 0, 0, 0
		used := int64(0)
		for _, err := range tree.Entries(w.Ctx, "") {
			w.Check(err)
			synctest.Wait()
			used = treetest.Heap() - before
			break
		}
		t.Logf("%d reads and %d of ends, of at most %d bytes; %d bytes", s.gets, s.ends, s.longest, used)
		// The first segment is at hand, and four requests run ahead of it. Those that begin
		// before one of them knows the key of their container read its end, each once.
		if s.gets < 2 || s.gets > 4 || s.ends > s.gets || s.longest > 1<<20 || used > 16<<20 {
			t.Errorf("%d reads and %d of ends, of at most %d bytes, ahead, %d bytes in use", s.gets, s.ends, s.longest, used)
		}
	})
}

// slowStore forgets packs, and ends no put of one before five are under way. It measures
// the memory in use.
type slowStore struct {
	storage.Store

	mu     sync.Mutex
	puts   int
	enough chan struct{}
	most   int64
}

func (s *slowStore) Unwrap() storage.Store { return s.Store }

func (s *slowStore) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if !strings.Contains(key, "/packs/") {
		return s.Store.Put(ctx, key, body, o)
	}
	s.mu.Lock()
	s.puts++
	if s.puts == 5 {
		close(s.enough)
	}
	s.mu.Unlock()
	select {
	case <-s.enough:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = max(s.most, treetest.Heap())
	return nil
}

func testMemoryWithMuchContent(t *testing.T) {
	dir := treetest.TempDir(t)
	r := rand.NewChaCha8([32]byte{1})
	content := make([]byte, 4<<20)
	for i := range 100 {
		r.Read(content)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content[:len(content)>>(i%3)], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &slowStore{Store: storagetest.NewPlainMemory(), enough: make(chan struct{})}
	w := (&enginetest.World{T: t, Ctx: t.Context(), URL: "test", State: treetest.TempDir(t)}).Over(s)
	key, err := identity.Generate(identity.X25519)
	w.Check(err)
	_, _, err = repository.Init(w.Ctx, s, trust.InitOptions{Recipients: []string{key.Recipient}, Host: enginetest.Host, StateDir: w.State, URL: w.URL, Now: time.Now()})
	w.Check(err)
	before := treetest.Heap()
	w.MustCapture("e", dir)
	// Buffers of readers, of frames and of compressors, packs, containers and the rest.
	p := int64(runtime.GOMAXPROCS(0))
	limit := p*6 + (2*p+1)*4 + (p+1)*10 + 99 + 9 + 10
	used := s.most - before
	t.Logf("%d bytes in use, %d puts, want at most %d MiB", used, s.puts, limit)
	if used > limit<<20 {
		t.Errorf("%d bytes in use, want at most %d MiB", used, limit)
	}
}
