package restore_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
)

// counter counts, concurrently, from 1.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

func TestConcurrentRuns(t *testing.T) {
	t.Run("all commit and restore", testRunsAtTheSameTimeAllCommitAndRestore)
}

// Several runs at once, of one environment and of several, from one state
// directory, each with a repository of its own as processes have.
func testRunsAtTheSameTimeAllCommitAndRestore(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		capturesAtOnce(t, storagetest.NewMemory())
	})
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		s, err := dir.Create(filepath.Join(treetest.TempDir(t), "store"))
		if err != nil {
			t.Fatal(err)
		}
		capturesAtOnce(t, s)
	})
	t.Run("versitygw", func(t *testing.T) { capturesAtOnce(t, bucket(t, storagetest.VersityGW(t))) })
}

func TestSlow(t *testing.T) {
	if !enginetest.Slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("runs at the same time all commit and restore on minio", func(t *testing.T) { capturesAtOnce(t, bucket(t, storagetest.MinIO(t))) })
}

func bucket(t *testing.T, server *storagetest.Server) storage.Store {
	server.Setenv(t)
	server.Bucket(t, "repository", storagetest.VersionedBucket)
	s, err := stores.Open(t.Context(), server.URL("repository", ""), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func capturesAtOnce(t *testing.T, store storage.Store) {
	const runs, rounds = 3, 3 // of the shared environment
	w := enginetest.New(t, store)
	shared := treetest.TempDir(t)
	treetest.Generate(t, shared, treetest.Seed(5), treetest.Shape{Nodes: 20, MaxFile: 300 << 10, LargeDir: 10, Without: []treetest.Part{treetest.DeepPaths}})
	settle()
	sharedTree := treetest.Snapshot(t, shared)
	envs := []string{"a", "b"}
	own := map[string]string{}
	for _, env := range envs {
		own[env] = treetest.TempDir(t)
	}
	type capture struct {
		ref  string
		src  string
		tree treetest.Tree
	}
	var mu sync.Mutex
	var done []capture
	var numbers []uint64
	take := func(env, src string, tree treetest.Tree) {
		res, err := w.Capture(env, nil, src)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("%s: %v", env, err)
			return
		}
		if env == "shared" {
			numbers = append(numbers, res.Snapshot.Number)
		}
		done = append(done, capture{res.Snapshot.Ref(), src, tree})
	}
	var g sync.WaitGroup
	for range runs {
		g.Go(func() {
			for range rounds {
				take("shared", shared, sharedTree)
			}
		})
	}
	for i, env := range envs {
		g.Go(func() {
			for round := range rounds {
				for j := range 4 {
					writeRandom(t, filepath.Join(own[env], fmt.Sprint(round), fmt.Sprint(j)), uint64(1000*i+10*round+j), 200<<10)
				}
				take(env, own[env], treetest.Snapshot(t, own[env]))
			}
		})
	}
	g.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i)+1 {
			t.Fatalf("the numbers of the shared environment are %d", numbers)
		}
	}
	if len(done) != runs*rounds+len(envs)*rounds {
		t.Errorf("%d snapshots", len(done))
	}
	w.Clean()
	for _, c := range done {
		w.Restores(c.ref, c.src, c.tree)
	}
	settle()
	w.MustCapture("shared", shared)
	if again := w.MustCapture("shared", shared); again.Read > 0 || again.NewBytes > 0 {
		t.Errorf("afterwards, of an unchanged tree: %d files read, %d new bytes", again.Read, again.NewBytes)
	}
}
