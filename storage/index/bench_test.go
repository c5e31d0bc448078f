package index

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

func heapInUse() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("memory does not grow with the index", memoryDoesNotGrowWithTheIndex)
	t.Run("a lookup allocates nothing", aLookupAllocatesNothing)
}

func memoryDoesNotGrowWithTheIndex(t *testing.T) {
	table := NewTable(openCache(t))
	defer table.Close()
	before := heapInUse()
	fill(t, table, 600_000) // 26 MB of mapped entries
	u, err := table.Unsaved()
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(heapInUse() - before); grown > 8<<20 {
		t.Errorf("%d bytes of heap for 600,000 chunks", grown)
	}
	sizes := []int{}
	for x := range u.Bodies() {
		sizes = append(sizes, x.Len)
		if grown := int64(heapInUse() - before); grown > 24<<20 {
			t.Errorf("%d bytes of heap while saving", grown)
		}
	}
	if want := []int{300_000, 300_000}; !slices.Equal(sizes, want) {
		t.Errorf("bodies of %v chunks, want %v", sizes, want)
	}
}

func aLookupAllocatesNothing(t *testing.T) {
	table := NewTable(openCache(t))
	defer table.Close()
	table.spill = 1000
	ids := fill(t, table, 5500)
	for name, id := range map[string][32]byte{"spilled": ids[0], "fresh": ids[len(ids)-1], "missing": {1}} {
		if n := testing.AllocsPerRun(100, func() { table.Lookup(id) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// scales are how many chunks benchmarks of lookups have; KNOWNGOOD_SLOW adds 100 million,
// which takes 8 GB of disk. -short shows only that they run.
func scales() []int {
	if testing.Short() {
		return []int{1e5}
	}
	if os.Getenv("KNOWNGOOD_SLOW") != "" {
		return []int{1e6, 1e7, 1e8}
	}
	return []int{1e6, 1e7}
}

// randomRuns writes runs of n chunks together, each over the whole range of IDs, as
// captures of different days leave them, and returns some IDs.
func randomRuns(b *testing.B, c *Cache, n int) (ids [][32]byte) {
	const inFrame, inPack = 16, 256
	r := rand.NewChaCha8([32]byte{2})
	every := max(1, n/200_000)
	for run := 0; n > 0; run++ {
		all := make([][32]byte, min(n, MaxEntries*3/4))
		n -= len(all)
		for i := range all {
			r.Read(all[i][:])
			if i%every == 0 {
				ids = append(ids, all[i])
			}
		}
		x := &Body{Len: len(all)}
		for i := 0; i < len(all); i += inFrame {
			if i%inPack == 0 {
				p := pack.Ref{Kind: wire.KindPack, Size: 1 << 24}
				r.Read(p.Hash[:])
				x.Packs = append(x.Packs, p)
			}
			x.Frames = append(x.Frames, Frame{uint32(len(x.Packs) - 1), uint32(8 + i%inPack<<16), 1 << 19, inFrame << 16})
		}
		frames := rand.New(r).Perm(len(all))
		slices.SortFunc(all, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
		x.Entries = func(yield func(Entry) bool) {
			for i, id := range all {
				at := uint32(frames[i])
				if !yield(Entry{ID: id, Frame: at / inFrame, Offset: at % inFrame << 16, Len: 1 << 16}) {
					return
				}
			}
		}
		adopt(b, c, Info{Hash: all[0], Generation: uint64(run + 1)}, x).Close()
	}
	rand.New(r).Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}

// openAll opens every run of a cache.
func openAll(b *testing.B, c *Cache) *Table {
	t := tableOf(c, reopened(b, c)...)
	if err := t.Cover(); err != nil {
		b.Fatal(err)
	}
	return t
}

// cpu is the time that the process has computed.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIndex opens an index as a start does, and looks chunks up in it. cpu-ns/op
// counts on a machine that does other work, too.
func BenchmarkIndex(b *testing.B) {
	for _, n := range scales() {
		c := openCache(b)
		ids := randomRuns(b, c, n)
		began := cpu()
		table := openAll(b, c) // makes the finder
		b.Logf("%d chunks in %d runs: finder in %v", n, len(table.runs), cpu()-began)
		table.Close()
		measure := func(name string, do func(b *testing.B, i int)) {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				before := cpu()
				for i := 0; b.Loop(); i++ {
					do(b, i)
				}
				b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			})
		}
		read := 0
		measure("open", func(b *testing.B, i int) {
			table = openAll(b, c)
			read = 0
			for _, f := range table.runs {
				read += f.used()
			}
			for _, d := range table.finders {
				read += d.used()
			}
			table.Close()
		})
		b.Logf("%d chunks: %d bytes read to open", n, read)
		table = openAll(b, c)
		for _, f := range table.runs {
			f.Whole()
		}
		for _, d := range table.finders {
			d.Whole()
		}
		measure("hit", func(b *testing.B, i int) {
			if _, ok := table.Lookup(ids[i%len(ids)]); !ok {
				b.Fatal("not found")
			}
		})
		r := rand.NewChaCha8([32]byte{3})
		var id [32]byte
		measure("miss", func(b *testing.B, i int) {
			r.Read(id[:])
			if _, ok := table.Lookup(id); ok {
				b.Fatal("found")
			}
		})
		b.Logf("%d chunks: %d places asked", n, table.asks())
		table.Close()
	}
}

// BenchmarkGrowth adds chunks as a first capture does, which looks for each first, and
// finds them again as a check does. Linear is what costs each chunk the same.
func BenchmarkGrowth(b *testing.B) {
	sizes := []int{250_000, 1_000_000, 4_000_000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var added, found time.Duration
			for b.Loop() {
				table := NewTable(openCache(b))
				packs := func(do func(pack.Frame, pack.Ref)) time.Duration {
					began, r := cpu(), rand.NewChaCha8([32]byte{4})
					for range n / 250 {
						info := pack.Ref{Kind: wire.KindPack, Size: 1 << 24}
						r.Read(info.Hash[:])
						f := pack.Frame{Offset: 8, SealedLen: 1 << 19, ContentLen: 250 << 12, Chunks: make([]pack.Chunk, 250)}
						for i := range f.Chunks {
							f.Chunks[i].Len = 1 << 12
							r.Read(f.Chunks[i].ID[:])
						}
						do(f, info)
					}
					return cpu() - began
				}
				look := func(f pack.Frame, want bool) {
					for i := range f.Chunks {
						if _, ok := table.Lookup(f.Chunks[i].ID); ok != want {
							b.Fatalf("found: %v", ok)
						}
					}
				}
				added += packs(func(f pack.Frame, info pack.Ref) {
					look(f, false)
					if err := table.Add(info, []pack.Frame{f}); err != nil {
						b.Fatal(err)
					}
				})
				found += packs(func(f pack.Frame, _ pack.Ref) { look(f, true) })
				table.Close()
			}
			b.ReportMetric(float64(added)/float64(b.N*n), "cpu-ns/chunk-added")
			b.ReportMetric(float64(found)/float64(b.N*n), "cpu-ns/chunk-found")
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	c := openCache(b)
	table := NewTable(c)
	defer table.Close()
	fill(b, table, MaxEntries)
	u, err := table.Unsaved()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for x := range u.Bodies() {
			if _, err := x.Append(nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(MaxEntries), "entries/op")
}
