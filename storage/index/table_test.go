package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// publish does what a writer does with a body: encode it, name it, adopt it.
func publish(t testing.TB, c *Cache, generation uint64, replaces [][32]byte, x *Body) *File {
	t.Helper()
	b, err := x.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if x, err = Parse(b); err != nil {
		t.Fatal(err)
	}
	return adopt(t, c, Info{Hash: sha256.Sum256(fmt.Append(b, generation)), Generation: generation, Replaces: replaces}, x)
}

type tableModel struct {
	t      testing.TB
	cache  *Cache
	table  *Table
	chunks map[[32]byte]Location // Pack is the model's own copy
	packs  uint64
}

// add puts one pack of frames of chunks with the given numbers.
func (m *tableModel) add(numbers [][]uint64) {
	m.packs++
	info := pack.Ref{Kind: wire.KindPack, Hash: idOf(m.packs), Size: 1 << 20}
	at := uint32(pack.FirstOffset)
	var frames []pack.Frame
	for _, chunks := range numbers {
		f := pack.Frame{Offset: at, SealedLen: 10}
		for _, n := range chunks {
			id := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n))
			m.chunks[id] = Location{&info, f.Offset, f.SealedLen, f.ContentLen, 5}
			f.Chunks = append(f.Chunks, pack.Chunk{ID: id, Len: 5})
			f.ContentLen += 5
		}
		frames = append(frames, f)
		at += f.SealedLen
	}
	if err := m.table.Add(info, frames); err != nil {
		m.t.Fatal(err)
	}
}

// forget adopts a run in which a chunk is gone.
func (m *tableModel) forget(n uint64) {
	m.save()
	id := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n))
	delete(m.chunks, id)
	m.table.Adopt(publish(m.t, m.cache, m.table.Generation()+1, nil, bodyOf(nil, nil, Entry{ID: id, Gone: true})))
}

// pending is how many entries were added and not yet saved.
func (m *tableModel) pending() int {
	n := len(m.table.mem.chunks)
	for _, t := range m.table.frozen {
		n += len(t.chunks)
	}
	for _, f := range m.table.layers {
		n += f.len()
	}
	return n
}

func (m *tableModel) save() {
	u, err := m.table.Unsaved()
	if err != nil {
		m.t.Fatal(err)
	}
	var runs []*File
	generation := m.table.Generation() + 1
	for x := range u.Bodies() {
		runs = append(runs, publish(m.t, m.cache, generation, nil, x))
	}
	u.Saved(runs...)
	if n := m.pending(); n != 0 {
		m.t.Fatalf("%d chunks pending after all were saved", n)
	}
	m.cover()
}

func (m *tableModel) cover() {
	if err := m.table.Cover(); err != nil {
		m.t.Fatal(err)
	}
}

// merge replaces the newest n runs, which is always right.
func (m *tableModel) merge(n int) {
	some := m.table.Runs()
	some = some[:min(n, len(some))]
	var runs []*File
	bodies, err := m.table.Merge(some)
	if err != nil {
		m.t.Fatal(err)
	}
	for x := range bodies {
		runs = append(runs, publish(m.t, m.cache, m.table.Generation()+1, Replaced(some), x))
	}
	m.table.Adopt(runs...)
	if err := m.cache.Keep(m.table.Runs()); err != nil {
		m.t.Fatal(err)
	}
}

// reopen loses what was not saved, as a new process does.
func (m *tableModel) reopen() {
	m.save()
	if err := m.table.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.open(reopened(m.t, m.cache)...)
	m.cover()
}

func (m *tableModel) open(runs ...*File) {
	m.table = tableOf(m.cache, runs...)
	m.table.spill = 7
}

func (m *tableModel) check(numbers uint64) {
	shared := map[[32]byte]*pack.Ref{}
	for n := range numbers {
		id := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n))
		want, there := m.chunks[id]
		got, found := m.table.Lookup(id)
		if found != there {
			m.t.Fatalf("chunk %d found: %v, want %v", n, found, there)
		}
		if !found {
			continue
		}
		if *got.Pack != *want.Pack {
			m.t.Fatalf("chunk %d in pack %x, want %x", n, got.Pack.Hash, want.Pack.Hash)
		}
		if p := shared[got.Pack.Hash]; p != nil && p != got.Pack {
			m.t.Fatalf("two copies of pack %x", p.Hash)
		}
		shared[got.Pack.Hash] = got.Pack
		want.Pack = got.Pack
		if got != want {
			m.t.Fatalf("chunk %d at %+v, want %+v", n, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Run("a table answers as a map would", aTableAnswersAsAMapWould)
	t.Run("what is added during a save belongs to the next", whatIsAddedDuringASaveBelongsToTheNext)
	t.Run("a run that is replaced does not count", aRunThatIsReplacedDoesNotCount)
	t.Run("of runs that disagree the newer holds", ofRunsThatDisagreeTheNewerHolds)
	t.Run("add refuses a pack that cannot be", addRefusesAPackThatCannotBe)
	t.Run("lookups go on while chunks are added saved and merged", lookupsGoOnWhileChunksAreAddedSavedAndMerged)
	t.Run("a lookup asks few places however many files there are", aLookupAsksFewPlacesHoweverManyFilesThereAre)
	t.Run("files of uneven IDs are asked themselves", filesOfUnevenIDsAreAskedThemselves)
	t.Run("a damaged finder hides nothing", aDamagedFinderHidesNothing)
	t.Run("the table lists its packs and chunks", theTableListsItsPacksAndChunks)
}

func aTableAnswersAsAMapWould(t *testing.T) {
	const numbers = 60
	cache := openCache(t)
	rapid.Check(t, func(rt *rapid.T) {
		if err := cache.Keep(nil); err != nil {
			t.Fatal(err)
		}
		m := &tableModel{t: t, cache: cache, chunks: map[[32]byte]Location{}}
		m.open()
		defer func() { m.table.Close() }()
		chunk := rapid.Uint64Range(0, numbers-1)
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				m.add(rapid.SliceOfN(rapid.SliceOfNDistinct(chunk, 1, 6, rapid.ID), 1, 3).Draw(rt, "pack"))
			},
			"forget": func(rt *rapid.T) { m.forget(chunk.Draw(rt, "chunk")) },
			"save":   func(rt *rapid.T) { m.save() },
			"merge":  func(rt *rapid.T) { m.merge(rapid.IntRange(1, 5).Draw(rt, "runs")) },
			"reopen": func(rt *rapid.T) { m.reopen() },
			"":       func(rt *rapid.T) { m.check(numbers) },
		})
	})
}

func whatIsAddedDuringASaveBelongsToTheNext(t *testing.T) {
	m := &tableModel{t: t, cache: openCache(t), chunks: map[[32]byte]Location{}}
	m.open()
	defer func() { m.table.Close() }()
	m.add([][]uint64{{1, 2, 3}})
	u, err := m.table.Unsaved()
	if err != nil {
		t.Fatal(err)
	}
	m.add([][]uint64{{2, 4}})
	var runs []*File
	for x := range u.Bodies() {
		if x.Len != 3 {
			t.Fatalf("%d chunks, want those of before", x.Len)
		}
		runs = append(runs, publish(t, m.cache, 1, nil, x))
	}
	u.Saved(runs...)
	if n := m.pending(); n != 2 {
		t.Fatalf("%d pending, want 2", n)
	}
	m.check(10)
	m.reopen()
	m.check(10)
}

func aRunThatIsReplacedDoesNotCount(t *testing.T) {
	c := openCache(t)
	body := func(p byte) *Body {
		return bodyOf([]pack.Ref{packOf(p)}, []Frame{{0, 8, 100, 300}}, Entry{ID: idOf(uint64(p)), Len: 1})
	}
	old := adopt(t, c, Info{Hash: [32]byte{1}, Generation: 5}, body(1))
	table := tableOf(c, old)
	defer table.Close()
	if _, ok := table.Lookup(idOf(1)); !ok {
		t.Fatal("not found")
	}
	table.Adopt(adopt(t, c, Info{Hash: [32]byte{2}, Generation: 6, Replaces: [][32]byte{{1}, {3}}}, body(2)))
	table.Adopt(adopt(t, c, Info{Hash: [32]byte{3}, Generation: 4}, body(3))) // late
	for id, want := range map[uint64]bool{1: false, 2: true, 3: false} {
		if _, ok := table.Lookup(idOf(id)); ok != want {
			t.Errorf("chunk of run %d found: %v", id, ok)
		}
	}
	if runs := table.Runs(); len(runs) != 1 || table.Generation() != 6 {
		t.Errorf("runs %+v, generation %d", runs, table.Generation())
	}
}

func ofRunsThatDisagreeTheNewerHolds(t *testing.T) {
	c := openCache(t)
	id := idOf(9)
	run := func(hash byte, generation uint64, p byte) *File {
		e := Entry{ID: id, Len: 1}
		if p == 0 {
			e = Entry{ID: id, Gone: true}
		}
		return adopt(t, c, Info{Hash: [32]byte{hash}, Generation: generation}, bodyOf([]pack.Ref{packOf(p)}, []Frame{{0, 8, 100, 300}}, e))
	}
	table := tableOf(c, run(9, 1, 1), run(1, 3, 3), run(5, 2, 2))
	defer table.Close()
	want := func(p byte) {
		t.Helper()
		loc, ok := table.Lookup(id)
		if ok != (p != 0) || ok && *loc.Pack != packOf(p) {
			t.Fatalf("found %v in %+v, want pack %d", ok, loc.Pack, p)
		}
	}
	want(3)
	table.Adopt(run(7, 3, 7)) // the same generation, a greater hash
	want(7)
	table.Adopt(run(6, 3, 6)) // a hash between
	want(7)
	table.Adopt(run(2, 4, 0))
	want(0)
}

func addRefusesAPackThatCannotBe(t *testing.T) {
	table := NewTable(openCache(t))
	defer table.Close()
	chunk := func(n uint32) []pack.Chunk { return []pack.Chunk{{ID: idOf(1), Len: n}} }
	for name, f := range map[string][]pack.Frame{
		"a frame beyond its end":  {{Offset: 8, SealedLen: 1 << 20, ContentLen: 10, Chunks: chunk(10)}},
		"an empty chunk":          {{Offset: 8, SealedLen: 10, ContentLen: 10, Chunks: chunk(0)}},
		"a chunk over the limit":  {{Offset: 8, SealedLen: 10, ContentLen: 16 << 20, Chunks: chunk(pack.MaxChunk + 1)}},
		"chunks beyond the frame": {{Offset: 8, SealedLen: 10, ContentLen: 10, Chunks: chunk(11)}},
		"frames that overlap":     {{Offset: 8, SealedLen: 10, ContentLen: 10, Chunks: chunk(10)}, {Offset: 17, SealedLen: 10}},
	} {
		if err := table.Add(packOf(1), f); err == nil || !strings.Contains(err.Error(), "pack 01") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, ok := table.Lookup(idOf(1)); ok {
		t.Error("a chunk of a refused pack is found")
	}
}

// fill adds n random chunks, in packs of 16 frames of 16, and returns some IDs.
func fill(t testing.TB, table *Table, n int) [][32]byte {
	t.Helper()
	r := rand.NewChaCha8([32]byte{1})
	var ids [][32]byte
	for n > 0 {
		info := pack.Ref{Kind: wire.KindPack, Size: 1 << 24}
		r.Read(info.Hash[:])
		var frames []pack.Frame
		for i := 0; i < 16 && n > 0; i++ {
			f := pack.Frame{Offset: uint32(8 + i<<20), SealedLen: 1 << 19, ContentLen: 1 << 20}
			for j := 0; j < 16 && n > 0; j++ {
				var id [32]byte
				r.Read(id[:])
				f.Chunks = append(f.Chunks, pack.Chunk{ID: id, Len: 1 << 16})
				if j == 0 {
					ids = append(ids, id)
				}
				n--
			}
			frames = append(frames, f)
		}
		if err := table.Add(info, frames); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func lookupsGoOnWhileChunksAreAddedSavedAndMerged(t *testing.T) {
	c := openCache(t)
	table := NewTable(c)
	defer table.Close()
	table.spill = 500
	known := fill(t, table, 1000)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				for _, id := range known {
					if _, ok := table.Lookup(id); !ok {
						t.Error("a known chunk is not found")
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	var adders sync.WaitGroup
	for w := range 2 {
		adders.Go(func() {
			for i := range 200 {
				id := sha256.Sum256([]byte{byte(w), byte(i)})
				info := pack.Ref{Kind: wire.KindPack, Hash: id, Size: 1 << 20}
				if err := table.Add(info, []pack.Frame{{Offset: 8, SealedLen: 9, ContentLen: 9, Chunks: []pack.Chunk{{ID: id, Len: 9}}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 10 {
		u, err := table.Unsaved()
		if err != nil {
			t.Fatal(err)
		}
		var runs []*File
		for x := range u.Bodies() {
			runs = append(runs, publish(t, c, table.Generation()+1, nil, x))
		}
		u.Saved(runs...)
		all := table.Runs()
		runs = nil
		bodies, err := table.Merge(all)
		if err != nil {
			t.Fatal(err)
		}
		for x := range bodies {
			runs = append(runs, publish(t, c, table.Generation()+1, Replaced(all), x))
		}
		table.Adopt(runs...)
	}
	adders.Wait()
	close(stop)
	wg.Wait()
	for w := range 2 {
		for i := range 200 {
			if _, ok := table.Lookup(sha256.Sum256([]byte{byte(w), byte(i)})); !ok {
				t.Fatal("an added chunk is not found")
			}
		}
	}
}

// asks is how many places a lookup asks.
func (x *files) asks() int { return len(x.bare) + len(x.finders) }

func aLookupAsksFewPlacesHoweverManyFilesThereAre(t *testing.T) {
	m := &tableModel{t: t, cache: openCache(t), chunks: map[[32]byte]Location{}}
	m.open()
	defer func() { m.table.Close() }()
	for n := range uint64(1400) {
		m.add([][]uint64{{n % 1300}}) // some are stored twice
	}
	if _, err := m.table.Unsaved(); err != nil { // given up by its caller
		t.Fatal(err)
	}
	if files, asks := len(m.table.layers), m.table.asks(); files != 200 || asks > 8 {
		t.Errorf("%d places are asked for %d files", asks, files)
	}
	m.check(1400)
	m.save()
	if n := m.table.asks(); n != 1 {
		t.Errorf("%d places are asked for what was saved at once", n)
	}
	for n := range uint64(100) {
		m.add([][]uint64{{2000 + n, n}})
		m.save()
	}
	if files, asks := len(m.table.runs), m.table.asks(); files != 101 || asks > 7 {
		t.Errorf("%d places are asked for %d runs", asks, files)
	}
	m.check(2100)
	m.reopen()
	if files, asks := len(m.table.runs), m.table.asks(); files != 101 || asks > 7 {
		t.Errorf("%d places are asked for %d runs, opened again", asks, files)
	}
	m.check(2100)
}

// step is between the IDs of runOf.
const step = 1 << 50

// runOf stores a run of chunks with IDs from a first one on: even ones, or such that
// begin with the same 8 bytes.
func runOf(t *testing.T, c *Cache, hash byte, first uint64, uneven bool) *File {
	var entries []Entry
	for n := range uint64(8000) {
		e := Entry{ID: idOf(first + n*step), Len: 1}
		if uneven {
			e.ID = unevenID(first, n)
		}
		entries = append(entries, e)
	}
	return adopt(t, c, Info{Hash: [32]byte{hash}, Generation: uint64(hash)}, bodyOf([]pack.Ref{packOf(hash)}, []Frame{{0, 8, 100, 300}}, entries...))
}

func unevenID(first, n uint64) [32]byte {
	id := idOf(first)
	binary.BigEndian.PutUint64(id[8:], n<<48)
	return id
}

func filesOfUnevenIDsAreAskedThemselves(t *testing.T) {
	c := openCache(t)
	table := tableOf(c, runOf(t, c, 1, 0, false), runOf(t, c, 2, 5, true), runOf(t, c, 3, 7, false))
	for range 2 { // the finder is made, and taken again
		if err := table.Cover(); err != nil {
			t.Fatal(err)
		}
		if len(table.finders) != 1 || len(table.bare) != 2 { // it took the slots of the one after it
			t.Fatalf("%d finders, %d files are asked themselves", len(table.finders), len(table.bare))
		}
		for id, want := range map[[32]byte]byte{idOf(step): 1, idOf(9 * step): 1, unevenID(5, 1): 2, unevenID(5, 7999): 2, idOf(7 + step): 3, unevenID(5, 9000): 0, idOf(1 + step): 0} {
			if loc, ok := table.Lookup(id); ok != (want != 0) || ok && *loc.Pack != packOf(want) {
				t.Errorf("chunk %x found: %v, want run %d", id, ok, want)
			}
		}
		table.Close()
		table = tableOf(c, reopened(t, c)...)
	}
	table.Close()
}

// reopened opens every run that is in a cache.
func reopened(t testing.TB, c *Cache) (runs []*File) {
	hashes, err := c.Runs()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hashes {
		f, err := c.Open(h)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, f)
	}
	return runs
}

func aDamagedFinderHidesNothing(t *testing.T) {
	c := openCache(t)
	table := tableOf(c, runOf(t, c, 1, 0, false), runOf(t, c, 2, 5, false))
	if err := table.Cover(); err != nil {
		t.Fatal(err)
	}
	path := c.dir.Path(table.finders[0].name)
	table.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[blockLen : 2*blockLen])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}

	table = tableOf(c, reopened(t, c)...)
	defer func() { table.Close() }()
	if err := table.Cover(); err != nil || len(table.finders) != 1 {
		t.Fatalf("%d finders, %v", len(table.finders), err)
	}
	for n := range uint64(8000) {
		for _, id := range []uint64{n * step, n*step + 5} {
			if _, ok := table.Lookup(idOf(id)); !ok {
				t.Fatalf("chunk %x is not found", id)
			}
		}
	}
	if err := table.DropDamaged(); err != nil || len(table.finders) != 0 || len(table.bare) != 2 {
		t.Errorf("%d finders and %d files are left, %v", len(table.finders), len(table.bare), err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func theTableListsItsPacksAndChunks(t *testing.T) {
	m := &tableModel{t: t, cache: openCache(t), chunks: map[[32]byte]Location{}}
	m.open()
	defer func() { m.table.Close() }()
	m.add([][]uint64{{1, 2}, {3}})
	m.add([][]uint64{{4}})
	for _, saved := range []bool{false, true} {
		if saved {
			m.save()
		}
		sizes := m.table.PackSizes()
		if len(sizes) != 2 || sizes[idOf(1)] == 0 || sizes[idOf(2)] == 0 {
			t.Errorf("saved %v: the packs are not those that were added: %v", saved, sizes)
		}
	}
	m.forget(2)
	m.merge(2)
	n := 0
	m.table.All(func(id [32]byte, loc Location) bool {
		n++
		if want := m.chunks[id]; *want.Pack != *loc.Pack || want.FrameOffset != loc.FrameOffset {
			t.Errorf("chunk %x at %+v", id, loc)
		}
		return true
	})
	if n != 3 {
		t.Errorf("%d chunks, want 3", n)
	}
}

// tableOf makes a table of runs.
func tableOf(cache *Cache, runs ...*File) *Table {
	table := NewTable(cache)
	table.Adopt(runs...)
	return table
}
