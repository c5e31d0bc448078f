package index

import (
	"io"
	"runtime"
	"testing"

	"knowngood/internal/treetest"
)

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("of what is not spilled is 13 MB", func(t *testing.T) {
		table := NewTable(openCache(t))
		defer table.Close()
		before := treetest.Heap()
		fill(t, table, 3*spillEntries-1)
		if len(table.layers) != 2 || len(table.mem.chunks) != spillEntries-1 {
			t.Fatalf("%d layers, and %d chunks in memory", len(table.layers), len(table.mem.chunks))
		}
		used := treetest.Heap() - before
		t.Logf("%d bytes", used)
		if used > 14e6 {
			t.Errorf("%d bytes for %d chunks that are not spilled", used, spillEntries-1)
		}
	})
	t.Run("of a finder that is being made is 4 MB", func(t *testing.T) {
		table := NewTable(openCache(t))
		defer table.Close()
		fill(t, table, 12*spillEntries) // with 2.4 million slots, which take 9 MB
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := writeFinder(io.Discard, append([]*File{}, table.layers...)); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%d bytes", used)
		if used > 5<<20 {
			t.Errorf("%d bytes are allocated", used)
		}
	})
}
