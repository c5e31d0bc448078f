package walk_test

import (
	"fmt"
	"os"
	"testing"

	"knowngood/snapshot/walk"
)

// The tree of the comparison with find; KNOWNGOOD_BENCH_TREE names another.
func benchTree(b *testing.B) string {
	if dir := os.Getenv("KNOWNGOOD_BENCH_TREE"); dir != "" {
		return dir
	}
	dir := tempDir(b)
	for i := range 1000 {
		sub := fmt.Sprintf("%s/dir%03d", dir, i)
		must(b, os.Mkdir(sub, 0o755))
		for j := range 100 {
			must(b, os.WriteFile(fmt.Sprintf("%s/file-%05d.txt", sub, j), nil, 0o644))
		}
	}
	return dir
}

// BenchmarkWalk walks 100,000 empty files in 1,000 directories, to be compared
// with: find DIR -printf '%p %s %T@ %C@ %i\n' >/dev/null
func BenchmarkWalk(b *testing.B) {
	dir := benchTree(b)
	for _, workers := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.ReportAllocs()
			nodes := 0
			for b.Loop() {
				must(b, walk.Walk(b.Context(), walk.Options{Workers: workers, Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
					nodes++
					n.Dir.Release()
					return nil
				}))
			}
			b.ReportMetric(float64(nodes)/b.Elapsed().Seconds(), "nodes/s")
		})
	}
}
