package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

// BenchmarkUnchanged is a capture that finds nothing new: walk, merge with the
// last manifest, and a commit.
func BenchmarkUnchanged(b *testing.B) {
	src := treetest.TempDir(b)
	const files = 10_000
	for i := range files {
		path := filepath.Join(src, fmt.Sprintf("d%02d", i/200), fmt.Sprintf("f%03d", i%200))
		if i%200 == 0 {
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(path, []byte(path), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	w := enginetest.New(b, storagetest.NewMemory())
	w.MustCapture("e", src)
	w.MustCapture("e", src) // files that were made a moment ago are read twice
	b.ReportAllocs()
	for b.Loop() {
		if r := w.MustCapture("e", src); r.NewBytes != 0 {
			b.Fatalf("%d new bytes", r.NewBytes)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
