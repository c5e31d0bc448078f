package restore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// copyOf is a store with the objects of another.
func copyOf(t *testing.T, m *storagetest.Memory) *storagetest.Memory {
	t.Helper()
	c := storagetest.NewMemory()
	for _, key := range m.Keys() {
		body, err := storage.Append(t.Context(), nil, m, key, 0, -1)
		if err == nil {
			err = c.Put(t.Context(), key, body, storage.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// writeRandom makes a file of n bytes that do not compress.
func writeRandom(t testing.TB, path string, seed uint64, n int) {
	t.Helper()
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	write(t, path, string(b))
}

func write(t testing.TB, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settle waits until files written just now are trusted by their time stamps.
func settle() { time.Sleep(60 * time.Millisecond) }

// history is a repository with one snapshot, and a tree that changed since.
type changedTree struct {
	*enginetest.World
	memory *storagetest.Memory
	src    string
	before treetest.Tree // as e@1 has it
	now    treetest.Tree
}

func newHistory(t *testing.T) *changedTree {
	h := &changedTree{memory: storagetest.NewMemory(), src: treetest.TempDir(t)}
	h.World = enginetest.New(t, h.memory)
	treetest.Generate(t, h.src, treetest.Seed(7), treetest.Shape{Nodes: 30, MaxFile: 300 << 10, LargeDir: 20, Without: []treetest.Part{treetest.DeepPaths}})
	for i := range 3 {
		writeRandom(t, filepath.Join(h.src, "kept", fmt.Sprint(i)), uint64(i), 200<<10)
	}
	settle()
	h.before = treetest.Snapshot(t, h.src)
	h.MustCapture("e", h.src)
	treetest.Mutate(t, h.src, treetest.Seed(8), 15, treetest.Shape{MaxFile: 100 << 10})
	for i := range 5 {
		writeRandom(t, filepath.Join(h.src, "new", fmt.Sprint(i)), uint64(100+i), 500<<10)
	}
	settle()
	h.now = treetest.Snapshot(t, h.src)
	return h
}

// content is how many bytes the packs of a store hold, those of other domains
// than the host's left out.
func content(w *enginetest.World, m *storagetest.Memory) (n uint64) {
	w.T.Helper()
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	reader := r.NewReader(enginetest.Host, host.Domain)
	for _, key := range m.Keys() {
		_, domain, hash, ok := layout.ParsePackKey(key)
		if !ok || domain != host.Domain.ID {
			continue
		}
		_, contents, err := reader.Contents(w.Ctx, wire.KindPack, hash, -1)
		w.Check(err)
		for _, f := range contents.Files {
			n += uint64(f.ContentLen)
		}
	}
	return n
}

// loss is what a machine that stopped has lost of its state directory.
type loss int

const (
	nothing loss = iota
	allButTheKey
	everything
)

func (l loss) String() string {
	return [...]string{"nothing lost", "all state but the host key lost", "everything lost"}[l]
}

func (l loss) strike(w *enginetest.World) {
	w.T.Helper()
	if l == nothing {
		return
	}
	key := filepath.Join(w.Open("").ID().String(), "host.key")
	kept, err := os.ReadFile(filepath.Join(w.State, "repos", key))
	w.Check(err)
	w.State = treetest.TempDir(w.T)
	if l == allButTheKey {
		file := filepath.Join(w.State, "repos", key)
		w.Check(os.MkdirAll(filepath.Dir(file), 0o700))
		w.Check(os.WriteFile(file, kept, 0o600))
		return
	}
	r := w.Open(w.State)
	r.Unlock(w.ID)
	_, err = r.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
	w.Check(err)
}

func TestStoppedRun(t *testing.T) {
	t.Parallel()
	t.Run("harms nothing and loses no pack, wherever it stops", testARunThatStopsAnywhereHarmsNothingAndLosesNoPack)
}

// A run is stopped at each of its operations on the store, before and after
// the effect; whatever it leaves, what was there restores, a check is clean,
// and the next run succeeds and stores nothing that a durable pack holds.
func testARunThatStopsAnywhereHarmsNothingAndLosesNoPack(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	whole := h.With(t, copyOf(t, h.memory))
	log := storagetest.NewFaulty(whole.Store)
	whole.Store = log
	full := whole.MustCapture("e", h.src)
	if full.NewBytes < 2<<20 {
		t.Fatalf("only %d bytes are new", full.NewBytes)
	}
	operations, step := len(log.Log()), 1
	if testing.Short() {
		step = 4
	}
	for n := 1; n <= operations; n += step {
		for _, effect := range []bool{false, true} {
			for _, lost := range []loss{nothing, allButTheKey, everything} {
				if lost != nothing && (!effect || !enginetest.Slow() && n%4 != 0) {
					continue
				}
				t.Run(fmt.Sprintf("operation %d, effect %v, %v", n, effect, lost), func(t *testing.T) {
					t.Parallel()
					h.stop(t, n, effect, lost, full.NewBytes)
				})
			}
		}
	}
}

func (h *changedTree) stop(t *testing.T, n int, effect bool, lost loss, whole uint64) {
	memory := copyOf(t, h.memory)
	faulty := storagetest.NewFaulty(memory)
	w := h.With(t, faulty)
	before := content(w, memory)
	faulty.Clear()
	faulty.StopAt(n, effect)
	if _, err := w.Capture("e", nil, h.src); err == nil {
		t.Log("the run was complete before that")
	} else if !errors.Is(err, storagetest.ErrStopped) {
		t.Errorf("the run failed with %v", err)
	}
	faulty.Clear()
	w.Restores("e@1", h.src, h.before)
	w.Clean()
	number := uint64(2)
	if _, s, err := w.Snapshot("e@2"); err == nil {
		w.Restores(s.Ref(), h.src, h.now)
		number = 3
	}
	left := content(w, memory) - before
	lost.strike(w)
	next := w.MustCapture("e", h.src)
	if next.Snapshot.Number != number {
		t.Errorf("the next snapshot is %s, want e@%d", next.Snapshot.Ref(), number)
	}
	if lost != everything && next.NewBytes+left != whole {
		t.Errorf("the stopped run stored %d bytes of content, the next %d; %d would have been enough", left, next.NewBytes, whole)
	}
	w.Restores("e", h.src, h.now)
	w.Restores("e@1", h.src, h.before)
	w.Clean()
	if again := w.MustCapture("e", h.src); again.NewBytes > 0 || again.Read > 0 {
		t.Errorf("an unchanged tree after all that: %d files read, %d new bytes", again.Read, again.NewBytes)
	}
}
