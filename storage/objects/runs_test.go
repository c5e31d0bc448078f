package objects_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// counted is a store that counts how index runs are read. The first ones wait until
// as many as gather are read at once.
type counted struct {
	storage.Store
	gather int

	mu           sync.Mutex
	arrived      chan struct{} // closed when so many have
	gets         int
	atOnce, most int
	put          []string // keys of runs
}

func newCounted(gather int) *counted {
	return &counted{Store: storagetest.NewMemory(), gather: gather, arrived: make(chan struct{})}
}

func (c *counted) Unwrap() storage.Store { return c.Store }

func (c *counted) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if !strings.Contains(key, "/index/") {
		return c.Store.Get(ctx, key, offset, length)
	}
	c.mu.Lock()
	c.gets++
	c.atOnce++
	c.most = max(c.most, c.atOnce)
	if c.gets == c.gather {
		close(c.arrived)
	}
	wait := c.gets <= c.gather
	c.mu.Unlock()
	if wait {
		select {
		case <-c.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() {
		c.mu.Lock()
		c.atOnce--
		c.mu.Unlock()
	}()
	return c.Store.Get(ctx, key, offset, length)
}

func (c *counted) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if strings.Contains(key, "/index/") {
		c.mu.Lock()
		c.put = append(c.put, key)
		c.mu.Unlock()
	}
	return c.Store.Put(ctx, key, body, o)
}

// reset begins to count again, without waiting.
func (c *counted) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gets, c.most, c.gather, c.put = 0, 0, 0, nil
}

// indexed is a world whose host has many index runs.
type indexed struct {
	*enginetest.World
	store *counted
	host  *trust.Host
	runs  [][32]byte
}

// newIndexed publishes n index runs of a chunk each.
func newIndexed(t *testing.T, n, gather int) *indexed {
	t.Helper()
	store := newCounted(gather)
	w := &indexed{World: enginetest.New(t, store), store: store}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of what waits in vain
	t.Cleanup(cancel)
	w.Ctx = ctx
	host, err := w.Open(w.State).Host(w.Ctx)
	w.Check(err)
	w.host = host
	for i := range n {
		w.publish(uint64(i+1), nil)
	}
	return w
}

func chunkOf(n uint64) [32]byte { return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n)) }

// publish puts an index run of a generation, with a chunk of that number.
func (w *indexed) publish(generation uint64, replaces [][32]byte) {
	w.T.Helper()
	w.put(generation, replaces, &index.Body{Packs: []pack.Ref{w.pack(1000 + generation)},
		Frames: []index.Frame{{Pack: 0, Offset: 8, SealedLen: 100, ContentLen: 100}}, Len: 1,
		Entries: slices.Values([]index.Entry{{ID: chunkOf(generation), Len: 10}})})
}

// pack puts an object in the place of a pack.
func (w *indexed) pack(n uint64) pack.Ref {
	w.T.Helper()
	p := pack.Ref{Hash: chunkOf(n), Size: 1000}
	w.Check(w.store.Store.Put(w.Ctx, layout.KeyPack(enginetest.Host, w.host.Domain.ID, p.Hash), make([]byte, p.Size), storage.PutOptions{}))
	return p
}

// put puts an index run.
func (w *indexed) put(generation uint64, replaces [][32]byte, body *index.Body) {
	w.T.Helper()
	plain, err := body.Append(nil)
	w.Check(err)
	slices.SortFunc(replaces, deletion.CompareHashes)
	r := w.Open(w.State)
	run := &statement.IndexRun{Repository: r.ID(), Host: enginetest.Host, Domain: w.host.Domain.ID, Generation: generation, Salt: seal.NewSalt(), Replaces: replaces, Certificate: w.host.Certificate}
	run.SealedBody = seal.Once(w.host.Domain.RunKey(run.Salt), plain, nil)
	object, err := run.Encode(w.host.SigningKey())
	w.Check(err)
	hash := sha256.Sum256(object)
	w.Check(w.store.Store.Put(w.Ctx, layout.KeyIndexRun(enginetest.Host, w.host.Domain.ID, generation, hash), object, storage.PutOptions{}))
	w.runs = append(w.runs, hash)
}

// read opens the index with a state directory, and looks for chunks 1 to n.
func (w *indexed) read(state string, n int, again func([32]byte) bool) {
	w.T.Helper()
	x, err := w.Open(state).ReadIndex(w.Ctx, enginetest.Host, w.host.Domain, again)
	w.Check(err)
	defer x.Close()
	for i := range n {
		if _, ok := x.Lookup(chunkOf(uint64(i + 1))); !ok {
			w.T.Errorf("the chunk of run %d is not found", i+1)
		}
	}
}

func (w *indexed) expects(what string, gets int) {
	w.T.Helper()
	if w.store.gets != gets {
		w.T.Errorf("%s: %d runs are fetched, want %d", what, w.store.gets, gets)
	}
	w.store.reset()
}

// copies are the files of the cache below a state directory that end in suffix.
func (w *indexed) copies(state, suffix string) []string {
	found, err := filepath.Glob(filepath.Join(state, "repos", "*", "index", "*", "*"+suffix))
	w.Check(err)
	return found
}

func TestRuns(t *testing.T) {
	t.Run("are fetched 16 at once, and none that a newer one replaces", runsAreFetched16AtOnce)
	t.Run("are fetched as many at once as 192 MiB hold", runsAreFetchedAsManyAtOnceAs192MiBHold)
	t.Run("of another host are kept, and fetched again when that is asked for", runsOfAnotherHostAreKept)
	t.Run("name no run that the store does not list when they are merged", mergedRunsNameNoRunThatTheStoreDoesNotList)
	t.Run("are read where the state directory cannot keep them", runsAreReadWhereTheStateDirectoryCannotKeepThem)
	t.Run("that are damaged on this machine are fetched again", runsThatAreDamagedAreFetchedAgain)
	t.Run("are not read by a capture that finds all as it was", runsAreNotReadByACaptureThatFindsAllAsItWas)
}

func runsAreFetched16AtOnce(t *testing.T) {
	const n, replaced = 40, 30
	w := newIndexed(t, n+replaced, 16)
	w.publish(1000, slices.Clone(w.runs[:replaced])) // the oldest ones
	// Some may be asked for before the one that replaces them is read, all of them where
	// that reader gets no turn; but not each time.
	for range 20 {
		before := w.store.gets
		x, err := w.Open("").ReadIndex(w.Ctx, enginetest.Host, w.host.Domain, nil)
		w.Check(err)
		x.Close()
		if w.store.most != 16 {
			t.Fatalf("%d runs at once", w.store.most)
		}
		if got := w.store.gets - before; got <= n || got > n+replaced+1 {
			t.Fatalf("%d of %d runs are fetched, of which %d count", got, n+replaced+1, n+1)
		} else if got < n+replaced {
			return
		}
	}
	t.Errorf("of %d runs all are fetched each time, of which %d count", n+replaced+1, n+1)
}

// swollen lists index runs as so many bytes long.
type swollen struct {
	*counted
	size int64
}

func (s *swollen) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for x, err := range s.counted.List(ctx, o) {
			if strings.Contains(x.Key, "/index/") {
				x.Size = s.size
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

func runsAreFetchedAsManyAtOnceAs192MiBHold(t *testing.T) {
	w := newIndexed(t, 12, 4)
	w.World.Store = &swollen{w.store, 48 << 20}
	x, err := w.Open("").ReadIndex(w.Ctx, enginetest.Host, w.host.Domain, nil)
	w.Check(err)
	defer x.Close()
	if w.store.most != 4 || w.store.gets != 12 {
		t.Errorf("%d of %d runs of 48 MiB are fetched at once", w.store.most, w.store.gets)
	}
}

func runsOfAnotherHostAreKept(t *testing.T) {
	const n = 20
	w := newIndexed(t, n, 0)
	other := treetest.TempDir(t)
	w.read(other, n, nil)
	w.expects("at first", n)
	w.read(other, n, nil)
	w.expects("again", 0)
	if ids := w.copies(other, ".ids"); len(ids) != 1 {
		t.Errorf("finders %q", ids)
	}
	w.read(other, n, func(hash [32]byte) bool { return hash == w.runs[3] || hash == w.runs[5] })
	w.expects("two of them on demand", 2)

	w.Check(w.store.Delete(w.Ctx, layout.KeyIndexRun(enginetest.Host, w.host.Domain.ID, 7, w.runs[6])))
	w.read(other, 6, nil)
	w.expects("one that was deleted", 0)
	if runs := w.copies(other, ".run"); len(runs) != n-1 {
		t.Errorf("%d copies of %d runs", len(runs), n-1)
	}
}

func runsAreReadWhereTheStateDirectoryCannotKeepThem(t *testing.T) {
	w := newIndexed(t, 3, 0)
	state := treetest.TempDir(t)
	w.read(state, 3, nil)
	w.expects("at first", 3)
	found, err := filepath.Glob(filepath.Join(state, "repos", "*", "index"))
	w.Check(err)
	if len(found) != 1 {
		t.Fatalf("directories %q", found)
	}
	w.Check(os.RemoveAll(found[0]))
	w.Check(os.WriteFile(found[0], nil, 0o600)) // where a directory should be
	w.read(state, 3, nil)
	w.expects("in a temporary directory", 3)
}

// capture opens the index as a capture does, lets do use it, and publishes.
func (w *indexed) capture(do func(x *objects.Index), v ...objects.Verification) {
	w.T.Helper()
	r := w.Open(w.State)
	x, err := r.OpenIndex(w.Ctx, w.host, append(v, objects.Verification{})[0])
	w.Check(err)
	defer x.Close()
	epoch, err := r.CurrentEpoch(w.Ctx)
	w.Check(err)
	writer, err := r.NewWriter(w.Ctx, w.host, epoch, x, objects.WriterOptions{})
	w.Check(err)
	defer writer.Abort()
	do(x)
	_, err = x.Publish(w.Ctx, writer)
	w.Check(err)
	x.Done()
}

func mergedRunsNameNoRunThatTheStoreDoesNotList(t *testing.T) {
	w := newIndexed(t, 9, 0)
	gone, there := w.runs[0], w.runs[1]
	w.publish(20, [][32]byte{gone, there})
	w.Check(w.store.Delete(w.Ctx, layout.KeyIndexRun(enginetest.Host, w.host.Domain.ID, 1, gone)))
	w.capture(func(*objects.Index) {})
	if len(w.store.put) != 1 {
		t.Fatalf("it publishes %q", w.store.put)
	}
	object, err := storage.Append(w.Ctx, nil, w.store, w.store.put[0], 0, -1)
	w.Check(err)
	merged, err := statement.ParseIndexRun(object)
	w.Check(err)
	if want := slices.SortedFunc(slices.Values(w.runs[1:]), deletion.CompareHashes); !slices.Equal(merged.Replaces, want) {
		t.Errorf("the merged run replaces %x, want %x", merged.Replaces, want)
	}
}

func runsThatAreDamagedAreFetchedAgain(t *testing.T) {
	const n = 5
	w := newIndexed(t, n, 0)
	w.capture(func(*objects.Index) {})
	w.store.reset()
	harm := func() {
		path := w.copies(w.State, ".run")[0]
		b, err := os.ReadFile(path)
		w.Check(err)
		b[len(b)-30] ^= 1 // in the only block
		w.Check(os.WriteFile(path, b, 0o600))
	}
	harm()
	w.read(w.State, n, nil)
	w.expects("for a reader", 1)
	harm()
	w.capture(func(x *objects.Index) {
		for i := range n {
			if _, ok := x.Lookup(chunkOf(uint64(i + 1))); !ok {
				t.Errorf("the chunk of run %d is not found", i+1)
			}
		}
	})
	w.expects("for a capture", 1)
}

func runsAreNotReadByACaptureThatFindsAllAsItWas(t *testing.T) {
	w := newIndexed(t, 0, 0)
	body := &index.Body{Len: 300}
	var entries []index.Entry
	for i := range 300 { // the packs are as long as a block and more
		body.Packs = append(body.Packs, w.pack(uint64(i)))
		body.Frames = append(body.Frames, index.Frame{Pack: uint32(i), Offset: 8, SealedLen: 100, ContentLen: 100})
		entries = append(entries, index.Entry{ID: chunkOf(uint64(i)), Frame: uint32(i), Len: 10})
	}
	slices.SortFunc(entries, func(a, b index.Entry) int { return deletion.CompareHashes(a.ID, b.ID) })
	body.Entries = slices.Values(entries)
	w.put(1, nil, body)
	nothing := func(*objects.Index) {}
	w.capture(nothing)
	w.expects("at first", 1)

	// What is damaged is noticed by whoever reads it, and is fetched by the next one.
	path := w.copies(w.State, ".run")[0]
	b, err := os.ReadFile(path)
	w.Check(err)
	b[20_000] ^= 1 // among the packs
	w.Check(os.WriteFile(path, b, 0o600))
	w.capture(nothing)
	w.expects("when nothing changed", 0)
	w.capture(nothing)
	w.expects("and it was not read", 0)
	w.capture(nothing, objects.Verification{Listing: true})
	w.capture(nothing)
	w.expects("after a listing, with which the packs are compared", 1)
}
