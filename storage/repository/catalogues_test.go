package repository_test

import (
	"bytes"
	"context"

	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// requests counts what a server would be asked for: it lists 1,000 keys at once.
type requests struct {
	storage.Store
	count, roots atomic.Int64
}

func (s *requests) Unwrap() storage.Store { return s.Store }

func (s *requests) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.count.Add(1)
	if _, _, _, ok := layout.ParseRootKey(key); ok {
		s.roots.Add(1)
	}
	return s.Store.Get(ctx, key, offset, length)
}

func (s *requests) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	s.count.Add(1)
	return s.Store.Put(ctx, key, body, o)
}

func (s *requests) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		s.count.Add(1)
		n := 0
		for x, err := range s.Store.List(ctx, o) {
			if n++; n%1000 == 0 {
				s.count.Add(1)
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

// during is how many requests f takes.
func (s *requests) during(f func()) int64 {
	before := s.count.Load()
	f()
	return s.count.Load() - before
}

// listIDs are the snapshots of an environment by number, none of which may be damaged.
func listIDs(t *testing.T, r *repository.Repository) map[uint64][32]byte {
	t.Helper()
	ids := map[uint64][32]byte{}
	for s, err := range r.Snapshots(t.Context(), "web-1", "web") {
		if err != nil {
			t.Fatal(err)
		}
		ids[s.Number] = s.ID
	}
	return ids
}

// listed demands that the history consists of what was committed.
func listed(t *testing.T, r *repository.Repository, want []*history.Snapshot) {
	t.Helper()
	ids := listIDs(t, r)
	if len(ids) != len(want) {
		t.Errorf("%d snapshots, want %d", len(ids), len(want))
	}
	for _, s := range want {
		if ids[s.Number] != s.ID {
			t.Errorf("%s is %x, want %x", s.Ref(), ids[s.Number], s.ID)
		}
	}
}

// fullBody is as large as one of a host with a source and a version.
func fullBody(n uint64) *statement.RootBody {
	b := body(n)
	b.Manifest = statement.ManifestRef{Kind: wire.KindPack, Hash: [32]byte{byte(n), byte(n >> 8)}, Size: 20_000 + n, Offset: 100, Length: 9_000}
	b.Objects, b.Content = [32]byte{1, byte(n), byte(n >> 8)}, [32]byte{2, byte(n), byte(n >> 8)}
	b.Counts = statement.Counts{Entries: 212, Files: 200, Directories: 12, ContentBytes: 2 << 20, NewContentBytes: 12 << 10, StoredBytes: 8 << 10}
	b.Sources = []statement.SourceCounts{{Tag: [8]byte{7}, Files: 200, Directories: 12, Bytes: 2 << 20}}
	b.Version = "1.0.0-rc.1"
	return b
}

// longWorld is a world with so many snapshots.
func longWorld(t *testing.T, snapshots int) (*world, []*history.Snapshot) {
	t.Helper()
	w := newWorld(t)
	return w, commitMany(t, w.m.host(t, w.store), snapshots)
}

func commitMany(t *testing.T, h host, snapshots int) (all []*history.Snapshot) {
	t.Helper()
	for range snapshots {
		s, err := h.Commit(t.Context(), "web", fullBody, now)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestLongHistory(t *testing.T) {
	t.Run("takes few requests to list", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		const captured, snapshots = 450, 3000
		w, all := longWorld(t, captured)
		h := w.m.host(t, w.store)

		t.Run("its catalogues are small", func(t *testing.T) {
			objects, size := 0, 0
			for _, key := range w.store.Keys() {
				if _, _, _, ok := layout.ParseCatalogueKey(key); ok {
					b, err := storage.Append(t.Context(), nil, w.store, key, 0, -1)
					if err != nil {
						t.Fatal(err)
					}
					objects, size = objects+1, size+len(b)
				}
			}
			t.Logf("%d catalogues, %d bytes a root of %d", objects, size/captured, all[1].Size)
			if size > 800*captured || objects*10 > captured {
				t.Errorf("%d catalogues of %d bytes for %d roots", objects, size, captured)
			}
		})

		// What the host would write, without waiting for its disk.
		root := *all[captured-1].Root
		for root.Number < snapshots-100 {
			root.Previous, root.Number, root.Salt = root.Hash(), root.Number+1, seal.NewSalt()
			b := fullBody(root.Number)
			b.Finished = now
			record, err := b.AppendRecord(nil)
			if err != nil {
				t.Fatal(err)
			}
			root.SealedBody, root.IndexRuns = seal.Once(h.Domain.RootKey(root.Salt), record, nil), someRuns(root.Number)
			object, err := root.Encode(h.SigningKey())
			if err == nil {
				err = w.store.Put(t.Context(), rootKey(root.Number), object, storage.PutOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := statement.ParseRoot(object)
			if err != nil {
				t.Fatal(err)
			}
			root = *parsed
			all = append(all, &history.Snapshot{Host: "web-1", Environment: "web", Number: root.Number, ID: root.Hash(), Root: parsed})
		}
		all = append(all, commitMany(t, h, 100)...) // which writes the catalogues that are missing
		if len(all) != snapshots {
			t.Fatalf("%d snapshots", len(all))
		}

		store, m := &requests{Store: w.store}, newMachine(t)
		t.Run("a walk through it does not hold its roots", func(t *testing.T) {
			r := newMachine(t).open(t, store)
			heap := func() int64 {
				var s runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&s)
				return int64(s.HeapAlloc)
			}
			before, roots, held := heap(), int64(0), int64(0)
			for s, err := range r.Snapshots(t.Context(), "web-1", "web") {
				if err != nil {
					t.Fatal(err)
				}
				if roots += s.Size; s.Number == 1 {
					held = heap() - before
				}
			}
			t.Logf("%d bytes at the end, of roots of %d", held, roots)
			if held > roots {
				t.Errorf("%d bytes are held at the end, of roots of %d", held, roots)
			}
		})
		for _, c := range []struct {
			name  string
			m     machine
			limit int64
		}{{"without memory", m, 40}, {"once more", m, 10}, {"on the host itself", w.m, 10}} {
			t.Run(c.name, func(t *testing.T) {
				took := store.during(func() { listed(t, c.m.open(t, store), all) })
				t.Logf("%d requests", took)
				if took > c.limit {
					t.Errorf("%d requests, want at most %d", took, c.limit)
				}
			})
		}
	})
}

func TestCatalogues(t *testing.T) {
	catalogues := []string{layout.KeyCatalogue("web-1", "web", 15), layout.KeyCatalogue("web-1", "web", 30)}

	t.Run("cost requests only when they are due", func(t *testing.T) {
		w := newWorld(t)
		store := &requests{Store: w.store}
		h := w.m.host(t, store)
		commitMany(t, h, 13)
		ordinary := store.during(func() { commitMany(t, h, 1) })
		if due := store.during(func() { commitMany(t, h, 1) }); due > ordinary+4 { // two listings of their own, one of certificates, and a put
			t.Errorf("%d requests, others take %d", due, ordinary)
		}
		if after := store.during(func() { commitMany(t, h, 1) }); after != ordinary {
			t.Errorf("%d requests after it, before %d", after, ordinary)
		}
	})
	t.Run("do not fail a run, and are written later", func(t *testing.T) {
		w := newWorld(t)
		store := storagetest.NewFaulty(w.store, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/web-1/catalogues/", Fault: storagetest.FailBefore(nil)})
		h := w.m.host(t, store)
		want := commitMany(t, h, 15)
		wantWarning(t, h.repo, "web@15 is committed, but")
		listed(t, newMachine(t).open(t, w.store), want)
		store.Clear()
		commitMany(t, h, 15)
		for _, key := range catalogues {
			if _, err := storage.Append(t.Context(), nil, w.store, key, 0, -1); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("of a host that lost its memory are those that it would have written", func(t *testing.T) {
		w, want := longWorld(t, 29)
		if err := w.m.open(t, w.store).State.Remove(w.m.open(t, w.store).State.OfStore("copies/web-1/web")); err != nil {
			t.Fatal(err)
		}
		w.store.Forget(catalogues[0])
		want = append(want, commitMany(t, w.m.host(t, w.store), 1)...)
		store := &requests{Store: w.store}
		listed(t, newMachine(t).open(t, store), want)
		if store.roots.Load() != 0 {
			t.Errorf("%d roots are read one by one", store.roots.Load())
		}
	})
	t.Run("are passed over where they are damaged", func(t *testing.T) {
		w, want := longWorld(t, 31)
		w.store.Edit(catalogues[0], func(b []byte) []byte { return b[:len(b)/2] })
		r := newMachine(t).open(t, w.store)
		listed(t, r, want)
		wantWarning(t, r, "catalogue")
	})
	t.Run("are not read for the newest alone", func(t *testing.T) {
		w, _ := longWorld(t, 30)
		store := storagetest.NewFaulty(w.store, storagetest.Rule{Op: storagetest.Get, Prefix: "hosts/web-1/catalogues/", Fault: storagetest.FailBefore(nil)})
		if _, err := newMachine(t).open(t, store).Head(t.Context(), "web-1", "web"); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(store.Log(), func(o storagetest.Operation) bool { return strings.Contains(o.Key, "catalogues") }) {
			t.Error("a catalogue is read")
		}
	})
	t.Run("do not hide what lies under the key of a root", func(t *testing.T) {
		for name, spoil := range map[string]func(*world, host, []*history.Snapshot){
			"hidden": func(w *world, _ host, _ []*history.Snapshot) { remove(t, w.store, rootKey(7)) },
			"put over": func(w *world, h host, s []*history.Snapshot) {
				forgeRoot(t, w, h, "web", 7, s[5].ID)
			},
			"missing":  func(w *world, _ host, _ []*history.Snapshot) { w.store.Forget(rootKey(7)) },
			"replaced": func(w *world, _ host, _ []*history.Snapshot) { w.store.Edit(rootKey(7), bytes.ToUpper) },
		} {
			t.Run(name, func(t *testing.T) {
				w, all := longWorld(t, 31)
				warm := newMachine(t)
				listed(t, warm.open(t, w.store), all)
				spoil(w, w.m.host(t, w.store), all)
				for _, m := range []machine{newMachine(t), warm} {
					r := m.open(t, w.store)
					refs, errs := list(t.Context(), r, "web-1", "web")
					found := append(errs, warnings(r)...)
					if len(refs)+len(errs) != 31 || !slices.ContainsFunc(found, func(err error) bool { return strings.Contains(err.Error(), rootKey(7)) }) {
						t.Errorf("listed %d, found %v", len(refs), found)
					}
				}
			})
		}
	})
	t.Run("do not hide from a check that the store gives out other bytes", func(t *testing.T) {
		w, all := longWorld(t, 31)
		store := storagetest.NewFaulty(w.store)
		store.Add(storagetest.Rule{Op: storagetest.Get, Prefix: rootKey(7), Fault: storagetest.FlippedBit(100)})
		m := newMachine(t)
		listed(t, m.open(t, store), all)
		var found []error
		for _, err := range m.open(t, store).Reread(t.Context(), "web-1", "web") {
			if err != nil {
				found = append(found, err)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0].Error(), rootKey(7)) {
			t.Errorf("found %v", found)
		}
	})
}

func TestFalseCatalogue(t *testing.T) {
	t.Run("changes nothing", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		const snapshots = 31
		// What the host's key signs for each number instead.
		forged := func(t *testing.T, w *world, h host) (roots [][]byte) {
			var previous [32]byte
			epoch, err := h.repo.CurrentEpoch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for n := uint64(1); n <= snapshots+15; n++ {
				root := signRoot(t, h.Host, epoch, h.repo.ID(), "web", n, previous)
				parsed, err := statement.ParseRoot(root)
				if err != nil {
					t.Fatal(err)
				}
				previous, roots = parsed.Hash(), append(roots, root)
			}
			return roots
		}
		trueRoots := func(all []*history.Snapshot) (roots [][]byte) {
			for _, s := range all {
				roots = append(roots, s.Root.Bytes())
			}
			return roots
		}
		reversed := func(roots [][]byte) [][]byte {
			roots = slices.Clone(roots)
			slices.Reverse(roots)
			return roots
		}
		catalogue := func(t *testing.T, roots [][]byte) []byte {
			object, err := statement.EncodeCatalogue(roots)
			if err != nil {
				t.Fatal(err)
			}
			return object
		}

		for name, forge := range map[string]func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte{
			"of a history that the host's key signed anew": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, forged(t, w, h)[:30])
			},
			"of forged roots before true ones": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, append(forged(t, w, h)[:15], trueRoots(all)...))
			},
			"of roots that nobody committed": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, forged(t, w, h)[snapshots:])
			},
			"of one root again and again": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, slices.Repeat(trueRoots(all)[3:4], 15))
			},
			"in another order": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, reversed(trueRoots(all)))
			},
			"that lacks roots": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, trueRoots(all)[10:20])
			},
			"under a key that ended": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				roots := forged(t, w, h)
				r := machine{t.TempDir(), "reinstalled"}.open(t, w.store)
				r.Unlock(w.id)
				if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
					t.Fatal(err)
				}
				return catalogue(t, roots)
			},
			"of rubbish": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return catalogue(t, [][]byte{bytes.Repeat([]byte("rubbish "), 1000)})
			},
			"that is a root": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return trueRoots(all)[0]
			},
			"that is huge": func(t *testing.T, w *world, h host, all []*history.Snapshot) []byte {
				return bytes.Repeat([]byte{0}, statement.MaxCatalogue+1)
			},
		} {
			t.Run(name, func(t *testing.T) {
				for how, put := range map[string]func(w *world, key string, object []byte){
					"in the place of a true one": func(w *world, key string, object []byte) { w.store.Edit(key, func([]byte) []byte { return object }) },
					"over a true one":            func(w *world, key string, object []byte) { w.store.Overwrite(key, object) },
				} {
					w, all := longWorld(t, snapshots)
					object := forge(t, w, w.m.host(t, w.store), all)
					for _, last := range []uint64{15, 30} {
						put(w, layout.KeyCatalogue("web-1", "web", last), object)
					}
					r := newMachine(t).open(t, w.store)
					t.Run(how, func(t *testing.T) { listed(t, r, all) })
					if s, err := r.Resolve(t.Context(), ref(t, "web@20"), "web-1"); err != nil || s.ID != all[19].ID {
						t.Errorf("%s: web@20 is %v, %v", how, s, err)
					}
				}
			})
		}
	})
}

// otherTags is a store that shows, as one that encrypts does, tags of its own in
// place of hashes of contents.
type otherTags struct{ *requests }

func (s otherTags) Unwrap() storage.Store { return s.requests }

func (s otherTags) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for x, err := range s.requests.List(ctx, o) {
			x.MD5[0]++
			if !yield(x, err) {
				return
			}
		}
	}
}

func TestKeptRoots(t *testing.T) {
	t.Run("are read again on a store whose listing proves nothing, unless it is as it was", func(t *testing.T) {
		w, all := longWorld(t, 31)
		store, m := otherTags{&requests{Store: w.store}}, newMachine(t)
		listed(t, m.open(t, store), all)
		if n := store.roots.Load(); n != 31 {
			t.Errorf("%d roots were read, want all", n)
		}
		listed(t, m.open(t, store), all)
		if n := store.roots.Load(); n != 31 {
			t.Errorf("%d roots were read again", n-31)
		}
		w.store.Overwrite(rootKey(7), all[6].Root.Bytes())
		listed(t, m.open(t, store), all)
		if n := store.roots.Load(); n == 31 {
			t.Error("one that was put over is not read")
		}
	})
	t.Run("do not hide that a root was replaced where there are no versions", func(t *testing.T) {
		w, plain := plainWorld(t, 3)
		m := newMachine(t)
		if refs, errs := list(t.Context(), m.open(t, plain), "web-1", "web"); len(refs) != 3 || errs != nil {
			t.Fatal(refs, errs)
		}
		h := w.m.host(t, plain)
		epoch, err := h.repo.CurrentEpoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		remove(t, plain, rootKey(1))
		if err := plain.Put(t.Context(), rootKey(1), signRoot(t, h.Host, epoch, h.repo.ID(), "web", 1, [32]byte{}), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, errs := list(t.Context(), m.open(t, plain), "web-1", "web"); len(errs) != 1 || !asTampered(errs[0]) {
			t.Errorf("found %v", errs)
		}
	})
}

// crowd is a store that answers no request for a root before so many wait.
type crowd struct {
	storage.Store
	need    int
	mu      sync.Mutex
	waiting int
	full    chan struct{}
}

func (s *crowd) Unwrap() storage.Store { return s.Store }

func (s *crowd) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if _, _, _, ok := layout.ParseRootKey(key); ok {
		s.mu.Lock()
		if s.waiting++; s.waiting == s.need {
			close(s.full)
		}
		s.mu.Unlock()
		select {
		case <-s.full:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Store.Get(ctx, key, offset, length)
}

func TestRootsWithoutCatalogue(t *testing.T) {
	t.Run("are read many at once", func(t *testing.T) {
		w, all := longWorld(t, 40)
		for _, last := range []uint64{15, 30} {
			w.store.Forget(layout.KeyCatalogue("web-1", "web", last))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n := 0
		for _, err := range newMachine(t).open(t, &crowd{Store: w.store, need: 16, full: make(chan struct{})}).Snapshots(ctx, "web-1", "web") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != len(all) {
			t.Errorf("%d snapshots", n)
		}
	})
}

func TestSealedDomain(t *testing.T) {
	w := newWorld(t)
	sealed := func() []byte { return commit(t, w.m.host(t, w.store), "web").Root.SealedDomain }
	first := sealed()
	t.Run("is the same in each root", func(t *testing.T) {
		if !bytes.Equal(sealed(), first) {
			t.Error("it is another")
		}
	})
	state := w.m.open(t, w.store).State
	t.Run("is made anew when what was kept is damaged", func(t *testing.T) {
		b, err := state.Read("sealed-domain")
		if err != nil || len(b) == 0 {
			t.Fatal(b, err)
		}
		b[len(b)-1] ^= 1
		if err := state.Write("sealed-domain", b); err != nil {
			t.Fatal(err)
		}
		if got := sealed(); bytes.Equal(got, first) || bytes.Equal(got, b[32:]) {
			t.Error("a damaged one is used")
		}
	})
	t.Run("is made anew for another epoch", func(t *testing.T) {
		h := w.m.host(t, w.store)
		secret, err := seal.NewEpochSecret()
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.repo.SealedDomain(h.Host, secret.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := secret.OpenDomain(h.repo.ID(), h.Domain.ID, h.Name, got); err != nil || d.ID != h.Domain.ID {
			t.Errorf("opened %v, %v", d, err)
		}
	})
	t.Run("opens every root to an identity", func(t *testing.T) {
		n := 0
		for s, err := range w.operator(t).Snapshots(t.Context(), "web-1", "web") {
			if err != nil || s.Body == nil {
				t.Errorf("%v, %v", s, err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%d snapshots", n)
		}
	})
}

// Whoever took over a host can write catalogues that are long when they are unpacked.
func TestCataloguesOfATakenHost(t *testing.T) {
	t.Run("take bounded memory, however many there are", func(t *testing.T) {
		const catalogues, each = 40, 7 << 20
		w := newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		for n := range uint64(catalogues * 15) {
			w.store.Overwrite(rootKey(n+2), []byte("x"))
		}
		for i := range uint64(catalogues) {
			root := make([]byte, each)
			root[0] = byte(i)
			object, err := statement.EncodeCatalogue([][]byte{root})
			if err != nil {
				t.Fatal(err)
			}
			if last := 15 * (i + 1); last%225 != 0 { // else it would be in the place of 15
				w.store.Overwrite(layout.KeyCatalogue("web-1", "web", last), object)
			}
		}

		r := newMachine(t).open(t, w.store)
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, most, listed := heap(), uint64(0), 0
		for range r.Snapshots(t.Context(), "web-1", "web") {
			if listed++; listed%100 == 0 {
				most = max(most, heap())
			}
		}
		if listed < catalogues*15 || most > before+catalogues*each*2/3 {
			t.Errorf("%d MiB more are held, after %d roots", (most-before)>>20, listed)
		}
	})
}
