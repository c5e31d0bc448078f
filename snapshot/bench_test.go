package snapshot_test

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot"
	"knowngood/snapshot/diff"
	"knowngood/snapshot/manifest"
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

// BenchmarkBrowse opens and reads manifests of two million files in 1,000 directories.
func BenchmarkBrowse(b *testing.B) {
	const dirs, files = 1000, 2000
	w := enginetest.New(b, storagetest.NewMemory())
	m := newManifests(w)
	trees := map[string]*snapshot.Tree{}
	for name, changed := range map[string]string{"first": "", "second": "d00500/f001000"} {
		tree, err := m.write(largeTree(dirs, files, changed), nil, cutAsWritersDo())
		w.Check(err)
		trees[name] = tree
	}
	open := func(name string) *snapshot.Tree {
		tree, err := snapshot.OpenTree(w.Ctx, m.repo, trees[name].Snapshot)
		w.Check(err)
		return tree
	}
	list := func(entries iter.Seq2[*manifest.Entry, error]) (n int) {
		for _, err := range entries {
			w.Check(err)
			n++
		}
		return n
	}

	b.Run("diff of one changed file", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range diff.Between(w.Ctx, open("first"), open("second"), "") {
				w.Check(err)
				n++
			}
			if n != 1 {
				b.Fatalf("%d differences", n)
			}
		}
	})
	b.Run("list one directory", func(b *testing.B) {
		for b.Loop() {
			if n := list(open("first").Children(w.Ctx, "d00500")); n != files+1 {
				b.Fatalf("%d entries", n)
			}
		}
	})
	b.Run("list the root, of 1000 directories", func(b *testing.B) {
		for b.Loop() {
			if n := list(open("first").Children(w.Ctx, "")); n != dirs {
				b.Fatalf("%d entries", n)
			}
		}
	})
	b.Run("list everything", func(b *testing.B) {
		for b.Loop() {
			if n := list(open("first").Entries(w.Ctx, "")); n != dirs*(files+1) {
				b.Fatalf("%d entries", n)
			}
		}
	})
}
