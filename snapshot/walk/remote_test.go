package walk_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"knowngood/internal/fusetest"
	"knowngood/snapshot/walk"
)

// sizes walks a source and returns the size of each file by its name.
func sizes(t testing.TB, s walk.Source) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{s}}, func(n *walk.Node) error {
		if n.Err != nil {
			t.Errorf("%q: %v", n.Path, n.Err)
		}
		out[n.Path[strings.LastIndexByte(n.Path, '/')+1:]] = n.Stat.Size
		n.Dir.Release()
		return nil
	}))
	return out
}

func TestRemote(t *testing.T) {
	t.Run("asks for current attributes, whatever the kernel remembers", func(t *testing.T) {
		back := tempDir(t)
		build(t, back, "f", "d/g")
		m := fusetest.Mount(t, back, fusetest.Options{Remembered: time.Hour})
		for _, path := range []string{m.Dir, m.Dir + "/f"} {
			sizes(t, walk.Source{Path: path})
			must(t, os.WriteFile(back+"/f", []byte("as long as it is now"), 0o644))
			if got := sizes(t, walk.Source{Path: path, CachedAttributes: true})["f"]; got != 1 {
				t.Fatalf("%s: with cached attributes the size is %d: the kernel remembers nothing, and this test shows nothing", path, got)
			}
			if got := sizes(t, walk.Source{Path: path})["f"]; got != 20 {
				t.Errorf("%s: the size is %d", path, got)
			}
			must(t, os.WriteFile(back+"/f", []byte("f"), 0o644))
		}
	})

	t.Run("sees what came and went in a directory", func(t *testing.T) {
		back := tempDir(t)
		build(t, back, "d/old")
		m := fusetest.Mount(t, back, fusetest.Options{Remembered: time.Hour})
		sizes(t, walk.Source{Path: m.Dir})
		must(t, os.Rename(back+"/d/old", back+"/d/new"))
		got := sizes(t, walk.Source{Path: m.Dir})
		if _, ok := got["new"]; !ok || len(got) != strings.Count(m.Dir, "/")+3 {
			t.Errorf("got %v", got)
		}
	})

	t.Run("a file mounted into a local directory", func(t *testing.T) {
		back := tempDir(t)
		build(t, back, "f")
		m := fusetest.Mount(t, back, fusetest.Options{Remembered: time.Hour})
		local := tempDir(t)
		build(t, local, "a", "f", "z")
		bind(t, m.Dir+"/f", local+"/f")
		sizes(t, walk.Source{Path: local})
		must(t, os.WriteFile(back+"/f", []byte("as long as it is now"), 0o644))
		if got := sizes(t, walk.Source{Path: local})["f"]; got != 20 {
			t.Errorf("the size is %d", got)
		}
	})

	for name, shape := range map[string]struct{ dirs, files int }{"one large directory": {1, 2000}, "many small directories": {400, 4}} {
		t.Run("keeps 32 requests under way in "+name, func(t *testing.T) {
			back := tempDir(t)
			for d := range shape.dirs {
				for f := range shape.files {
					build(t, back, fmt.Sprintf("%d/%d", d, f))
				}
			}
			m := fusetest.Mount(t, back, fusetest.Options{Remembered: time.Hour, Delay: time.Millisecond})
			sizes(t, walk.Source{Path: m.Dir})
			m.Reset()
			sizes(t, walk.Source{Path: m.Dir})
			if n := m.Attributes(); n < int64(shape.dirs*shape.files) {
				t.Errorf("%d requests for attributes", n)
			}
			if n := m.Most(); n < 32 {
				t.Errorf("at most %d requests were under way", n)
			}
		})
	}
}

// BenchmarkRemote walks 10,000 files of a file system that takes a millisecond
// to answer, and remembers nothing wrong.
func BenchmarkRemote(b *testing.B) {
	back := tempDir(b)
	for i := range 100 {
		for j := range 100 {
			build(b, back, fmt.Sprintf("%02d/%02d", i, j))
		}
	}
	m := fusetest.Mount(b, back, fusetest.Options{Remembered: time.Hour, Delay: time.Millisecond})
	sizes(b, walk.Source{Path: m.Dir})
	for _, cached := range []bool{false, true} {
		b.Run(fmt.Sprintf("cached=%v", cached), func(b *testing.B) {
			m.Reset()
			for b.Loop() {
				sizes(b, walk.Source{Path: m.Dir, CachedAttributes: cached})
			}
			b.ReportMetric(float64(m.Attributes())/float64(b.N), "requests")
			b.ReportMetric(float64(m.Most()), "in-flight")
		})
	}
}
