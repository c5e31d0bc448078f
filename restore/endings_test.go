package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// noParts demands that no temporary file lies below a directory.
func noParts(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".part") {
			t.Errorf("%s was left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// failsInFile is a store that fails to read a pack, once something is written
// below a directory.
type failsInFile struct {
	storage.Store
	pack, dir string
}

func (s failsInFile) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key != s.pack {
		return s.Store.Get(ctx, key, offset, length)
	}
	for {
		parts, err := filepath.Glob(filepath.Join(s.dir, ".knowngood-*.part"))
		if err == nil && len(parts) > 0 {
			return nil, storagetest.ErrInjected
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
}

func TestEnding(t *testing.T) {
	t.Parallel()
	t.Run("no temporary file is left", testNoTemporaryFileIsLeft)
}

// However a restore in place ends, nothing lies beside the files, what is
// counted is there, and the same command goes on.
func testNoTemporaryFileIsLeft(t *testing.T) {
	t.Parallel()

	t.Run("by a restore that the store ends", func(t *testing.T) {
		t.Parallel()
		h := newHistory(t)
		h.MustCapture("e", h.src)
		for n := 6; n <= 24; n += 3 {
			store := storagetest.NewFaulty(h.memory)
			w := h.With(t, store)
			o := restore.Options{Under: enginetest.Under(h.src), Target: treetest.TempDir(t)}
			w.Restore("e@2", o)
			o.InPlace, o.Delete = true, true
			store.Clear()
			store.StopAt(n, false)
			if _, err := w.TryRestore("e@1", o); err != nil && !errors.Is(err, storagetest.ErrStopped) {
				t.Errorf("operation %d: %v", n, err)
			}
			store.Clear()
			noParts(t, o.Target)
			h.unmixed(t, o.Target)
			w.Restore("e@1", o)
			h.before.Equal(t, o.Target, treetest.Options{})
		}
	})

	t.Run("by a restore that is cancelled", func(t *testing.T) {
		t.Parallel()
		const files = 300
		src := manyFiles(t, files)
		w := enginetest.New(t, storagetest.NewMemory())
		w.MustCapture("e", src)
		o := restore.Options{Under: enginetest.Under(src), Target: treetest.TempDir(t), InPlace: true}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cancelled := *w
		cancelled.Ctx = ctx
		cancelled.Store = cancelAtGet{w.Store, cancel, "hosts/h/packs/", new(counter), 5}
		if _, err := cancelled.TryRestore("e", o); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
		noParts(t, o.Target)
		have := 0
		for range treetest.Snapshot(t, o.Target) {
			have++
		}
		if res := w.Restore("e", o); have > 1 && res.Unchanged == 0 {
			t.Errorf("%d nodes were there: %+v", have, res)
		}
		treetest.Equal(t, src, o.Target, treetest.Options{})
	})

	t.Run("by a restore that ends in the midst of a file", func(t *testing.T) {
		t.Parallel()
		src := treetest.TempDir(t)
		writeRandom(t, filepath.Join(src, "large"), 1, 12<<20)
		memory := storagetest.NewMemory()
		w := enginetest.New(t, memory)
		w.MustCapture("e", src)
		o := restore.Options{Under: enginetest.Under(src), Target: treetest.TempDir(t), InPlace: true}
		broken := on(t, w)
		broken.Store = failsInFile{memory, packs(t, memory)[0], o.Target}
		if _, err := broken.TryRestore("e", o); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("the restore ends with %v", err)
		}
		nothingLeft(t, o.Target)
		w.Restore("e", o)
		treetest.Equal(t, src, o.Target, treetest.Options{})
	})

	t.Run("by files that cannot take their places", func(t *testing.T) {
		t.Parallel()
		w := newLinkWorld(t)
		for _, name := range []string{"a1", "b1", "one"} {
			w.Check(os.WriteFile(filepath.Join(w.out, name), []byte("changed"), 0o644))
		}
		w.Check(os.Remove(w.out + "/one"))
		write(t, w.out+"/one/mine", "a directory is there")
		held := hold(t, w.out+"/a1")

		res, err := w.TryRestore("e", w.options())
		w.Check(err)
		noParts(t, w.out)
		want := map[string]bool{"one": true, "a1": held, "a2": held}
		for _, name := range []string{"a1", "a2", "b1", "b2", "one"} {
			path := enginetest.Under(w.src) + "/" + name
			if named := slices.ContainsFunc(res.Problems, func(p restore.Problem) bool { return p.Path == path }); named != want[name] {
				t.Errorf("%s: named %v, problems %v", name, named, res.Problems)
			}
		}
		left := uint64(1)
		if held {
			left = 3
		}
		if res.Planned.Files != 5 || res.Restored.Files != 5-left || res.Restored.Bytes != 7*(5-left) || res.Complete() {
			t.Errorf("%+v", res)
		}
		if b, err := os.ReadFile(w.out + "/b2"); err != nil || string(b) != "content" {
			t.Errorf("b2: %q, %v", b, err)
		}
	})

	t.Run("by a restore in place that finds damage", func(t *testing.T) {
		t.Parallel()
		src := treetest.TempDir(t)
		const files = 20
		for i := range files {
			writeRandom(t, filepath.Join(src, fmt.Sprint(i)), uint64(i), 400<<10)
		}
		memory := storagetest.NewMemory()
		w := enginetest.New(t, memory)
		w.MustCapture("e", src)
		memory.Edit(packs(t, memory)[0], flip(func(n int) int { return n / 3 }))
		out := treetest.TempDir(t)
		write(t, out+"/0", "mine")
		res, err := w.TryRestore("e", restore.Options{Under: enginetest.Under(src), Target: out, InPlace: true})
		w.Check(err)
		noParts(t, out)
		there := uint64(0)
		for i := range files {
			name := fmt.Sprint(i)
			want, err := os.ReadFile(filepath.Join(src, name))
			w.Check(err)
			got, err := os.ReadFile(filepath.Join(out, name))
			if err == nil && string(got) == string(want) {
				there++
			} else if err == nil && name != "0" {
				t.Errorf("%s has wrong content", name)
			}
		}
		if !res.Damaged || res.Restored.Files != there || res.Planned.Files != files || there == files || there == 0 {
			t.Errorf("%d files are there: %+v", there, res)
		}
	})
}

// hold makes a file one that nothing can replace, by mounting it onto itself,
// where that is possible, and reports whether it is so.
func hold(t *testing.T, path string) bool {
	t.Helper()
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		t.Logf("no mounts here: %v", err)
		return false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return true
}
