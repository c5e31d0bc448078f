package index

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

func heapInUse() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func TestBench(t *testing.T) {
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
	if want := []int{200_000, 200_000, 200_000}; !slices.Equal(sizes, want) {
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

func BenchmarkLookup(b *testing.B) {
	c := openCache(b)
	table := NewTable(c)
	defer table.Close()
	ids := fill(b, table, 1_000_000)
	u, err := table.Unsaved()
	if err != nil {
		b.Fatal(err)
	}
	var runs []*File
	for x := range u.Bodies() {
		runs = append(runs, publish(b, c, 1, nil, x))
	}
	layers := len(u.layers)
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	missing := slices.Clone(ids)
	for i := range missing {
		missing[i][7] ^= 1
	}
	bench := func(name string, ids [][32]byte, want bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := table.Lookup(ids[i%len(ids)]); ok != want {
					b.Fatal("wrong answer")
				}
			}
		})
	}
	bench(fmt.Sprintf("hit-%d-spills", layers), ids, true)
	bench(fmt.Sprintf("miss-%d-spills", layers), missing, false)
	u.Saved(runs...)
	bench(fmt.Sprintf("hit-%d-runs", len(runs)), ids, true)
	bench(fmt.Sprintf("miss-%d-runs", len(runs)), missing, false)
	b.Run("hit-parallel", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				table.Lookup(ids[i%len(ids)])
			}
		})
	})
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

func BenchmarkOpen(b *testing.B) {
	c := openCache(b)
	table := NewTable(c)
	defer table.Close()
	fill(b, table, MaxEntries)
	u, err := table.Unsaved()
	if err != nil {
		b.Fatal(err)
	}
	var hash [32]byte
	for x := range Merge(u.layers, MaxEntries, MergeOptions{}) {
		f := publish(b, c, 1, nil, x)
		hash = f.info.Hash
		f.Close()
	}
	for b.Loop() {
		f, err := c.Open(hash)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
