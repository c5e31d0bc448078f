package restore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

// benchWorld holds a snapshot of small files and of a large one.
func benchWorld(b *testing.B) (w *enginetest.World, under string, bytes int64) {
	src := treetest.TempDir(b)
	random := rand.NewChaCha8([32]byte{1})
	write := func(name string, n int) {
		content := make([]byte, n)
		random.Read(content[:n/2])
		if err := os.WriteFile(filepath.Join(src, name), content, 0o644); err != nil {
			b.Fatal(err)
		}
		bytes += int64(n)
	}
	for i := range 2000 {
		write(fmt.Sprintf("f%04d", i), 8<<10)
	}
	write("large", 64<<20)
	w = enginetest.New(b, storagetest.NewMemory())
	w.MustCapture("e", src)
	return w, enginetest.Under(src), bytes
}

// BenchmarkRestore writes all to a new directory; what it costs depends much
// on the file system.
func BenchmarkRestore(b *testing.B) {
	w, under, bytes := benchWorld(b)
	dir := treetest.TempDir(b)
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		out := filepath.Join(dir, "out")
		w.Restore("e", restore.Options{Under: under, Target: out})
		b.StopTimer()
		w.Check(os.RemoveAll(out))
		b.StartTimer()
	}
}

// BenchmarkInPlace compares what is there, which is as it should be.
func BenchmarkInPlace(b *testing.B) {
	w, under, bytes := benchWorld(b)
	out := treetest.TempDir(b)
	w.Restore("e", restore.Options{Under: under, Target: out})
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		if r := w.Restore("e", restore.Options{Under: under, Target: out, InPlace: true}); r.Changed != 0 {
			b.Fatalf("%d files changed", r.Changed)
		}
	}
}

// BenchmarkCheck reads every byte of the repository.
func BenchmarkCheck(b *testing.B) {
	w, _, bytes := benchWorld(b)
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		w.Clean()
	}
}
