package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot"
	"knowngood/snapshot/diff"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// reenrol makes the host another one of the same name, with keys of its own.
func reenrol(w *enginetest.World) {
	w.T.Helper()
	r := w.Open(w.State)
	r.Unlock(w.ID)
	_, err := r.Join(w.Ctx, trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
	w.Check(err)
}

// sparse makes a file of 4 MiB with data only at its start and end.
func sparse(t *testing.T, path string) {
	t.Helper()
	write(t, path, random(1, 4096))
	err := os.Truncate(path, 4<<20)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			_, err = f.WriteAt([]byte(random(2, 4096)), 4<<20-4096)
			f.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, path string, at int64, b string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(b), at)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDiff(t *testing.T) {
	t.Run("diff over a reenrolment", diffOverAReenrolment)
	t.Run("content", testContent)
}

func diffOverAReenrolment(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "empty"), "")
	write(t, filepath.Join(src, "large"), random(3, 3<<20))
	write(t, filepath.Join(src, "large-edited"), random(4, 3<<20))
	write(t, filepath.Join(src, "longer"), "short")
	write(t, filepath.Join(src, "moded"), "mode")
	write(t, filepath.Join(src, "removed"), "removed")
	for i := range 40 {
		write(t, filepath.Join(src, "small", fmt.Sprint(i)), random(uint64(10+i), 3000))
	}
	for _, name := range []string{"sparse", "sparse-edited", "sparse-filled"} {
		sparse(t, filepath.Join(src, name))
	}
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	w.MustCapture("e", src)
	reenrol(w)

	edit(t, filepath.Join(src, "large-edited"), 2<<20, "x")
	edit(t, filepath.Join(src, "sparse-edited"), 2<<20, "x")
	edit(t, filepath.Join(src, "sparse-filled"), 1<<20, strings.Repeat("\x00", 64<<10)) // which reads as before
	edit(t, filepath.Join(src, "small/7"), 0, "changed")
	write(t, filepath.Join(src, "longer"), "longer")
	write(t, filepath.Join(src, "added"), "added")
	for _, err := range []error{os.Remove(filepath.Join(src, "removed")), os.Chmod(filepath.Join(src, "moded"), 0o600)} {
		w.Check(err)
	}
	w.MustCapture("e", src)
	a, b := w.Tree("e@1"), w.Tree("e@2")
	if a.Reader.Domain().ID == b.Reader.Domain().ID {
		t.Fatal("both snapshots have the same keys")
	}

	t.Run("compares content, not chunk IDs", func(t *testing.T) {
		var got []string
		for d, err := range diff.Between(w.Ctx, a, b, enginetest.Under(src)) {
			if err != nil {
				t.Fatal(err)
			}
			if rel, ok := strings.CutPrefix(d.Path, enginetest.Under(src)+"/"); ok && d.To != nil && d.To.Type == manifest.File || d.From != nil && d.From.Type == manifest.File {
				got = append(got, fmt.Sprintf("%s %s", d.Change, rel))
			}
		}
		want := []string{"added added", "modified large-edited", "modified longer", "metadata moded", "removed removed", "modified small/7", "modified sparse-edited", "metadata sparse-filled"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})

	t.Run("fails where content cannot be read", func(t *testing.T) {
		lists := map[string]bool{} // what the lists of files lie in
		for _, tree := range []*snapshot.Tree{a, b} {
			for i := range tree.Table.Segments {
				lists[deletion.Key(enginetest.Host, tree.Reader.Domain().ID, tree.Container(i))] = true
			}
		}
		for _, key := range memory.Keys() {
			if strings.Contains(key, "/packs/") && !lists[key] {
				memory.Forget(key)
			}
		}
		a, b := w.Tree("e@1"), w.Tree("e@2")
		var failed error
		for _, err := range diff.Between(w.Ctx, a, b, enginetest.Under(src)) {
			if err != nil {
				failed = err
			}
		}
		if !authentic.Damaged(failed) {
			t.Errorf("the diff ends with %v", failed)
		}
	})
}

// countingWriter only counts.
type countingWriter struct{ n int }

func (c *countingWriter) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

func testContent(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	for i := range 200 {
		write(t, filepath.Join(src, fmt.Sprintf("%03d", i)), random(uint64(i), 2000))
	}
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	w.MustCapture("e", src)

	t.Run("of neighbouring files reads each frame once", func(t *testing.T) {
		store := storagetest.NewFaulty(memory)
		w := *w
		w.Store = store
		tree := w.Tree("e")
		store.Clear()
		var out countingWriter
		for e, err := range tree.Entries(w.Ctx, enginetest.Under(src)) {
			w.Check(err)
			if e.Type == manifest.File {
				w.Check(tree.Content(w.Ctx, e, &out))
			}
		}
		reads := 0
		for _, op := range store.Log() {
			if op.Op == storagetest.Get && strings.Contains(op.Key, "/packs/") {
				reads++
			}
		}
		if out.n != 200*2000 || reads == 0 || reads > 16 {
			t.Errorf("%d bytes in %d reads", out.n, reads)
		}
	})
}
