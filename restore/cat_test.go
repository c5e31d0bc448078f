package restore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/manifest"
	"knowngood/storage/storagetest"
)

func TestCatRestored(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	file := filepath.Join(src, "dump")
	content := bytes.Repeat([]byte("0123456789abcde\n"), 100_000) // several chunks
	for i := range content {
		content[i] ^= byte(i >> 12)
	}
	w.Check(os.WriteFile(file, content, 0o600))
	w.Check(os.WriteFile(filepath.Join(src, "empty"), nil, 0o600))
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	w.Check(err)
	_, err = sparse.WriteAt([]byte("data"), 1<<20)
	w.Check(err)
	w.Check(sparse.Truncate(3 << 20))
	w.Check(sparse.Close())
	w.MustCapture("e", src)

	tree := w.Tree("e")
	t.Cleanup(tree.Reader.Close)
	find := func(t *testing.T, path string) *manifest.Entry {
		t.Helper()
		e, err := tree.Find(w.Ctx, enginetest.Under(path))
		if err != nil || e == nil {
			t.Fatalf("%s: %v, %v", path, e, err)
		}
		return e
	}

	t.Run("writes what the snapshot has", func(t *testing.T) {
		for _, name := range []string{"dump", "empty", "sparse"} {
			path := filepath.Join(src, name)
			want, err := os.ReadFile(path)
			w.Check(err)
			var got bytes.Buffer
			if err := restore.CatRestored(w.Ctx, tree, find(t, path), path, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: %d bytes, want %d: %v", name, got.Len(), len(want), err)
			}
		}
	})
	t.Run("ends when the file is another", func(t *testing.T) {
		changed := bytes.Clone(content)
		changed[len(changed)-10] ^= 1
		for name, other := range map[string][]byte{"changed": changed, "shorter": content[:len(content)-1], "longer": append(bytes.Clone(content), 0), "empty": nil} {
			path := filepath.Join(treetest.TempDir(t), "dump")
			w.Check(os.WriteFile(path, other, 0o600))
			var got bytes.Buffer
			if err := restore.CatRestored(w.Ctx, tree, find(t, file), path, &got); !errors.Is(err, restore.ErrNotAsCaptured) {
				t.Errorf("%s: %v, want %v", name, err, restore.ErrNotAsCaptured)
			}
			if !bytes.HasPrefix(content, got.Bytes()) {
				t.Errorf("%s: wrote what the snapshot does not have", name)
			}
		}
	})
	t.Run("ends when there is no such file, and hangs on nothing", func(t *testing.T) {
		dir := treetest.TempDir(t)
		w.Check(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		w.Check(os.Symlink(file, filepath.Join(dir, "link")))
		for name, want := range map[string]error{"none": unix.ENOENT, "fifo": posix.ErrNotRegular, "link": posix.ErrNotRegular, ".": posix.ErrNotRegular} {
			if err := restore.CatRestored(w.Ctx, tree, find(t, file), filepath.Join(dir, name), io.Discard); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	})
	t.Run("ends when its taker does", func(t *testing.T) {
		full := errors.New("full")
		pr, pw := io.Pipe()
		pr.CloseWithError(full)
		if err := restore.CatRestored(w.Ctx, tree, find(t, file), file, pw); !errors.Is(err, full) {
			t.Errorf("%v, want %v", err, full)
		}
	})
	t.Run("refuses what was not read whole, and what is no file", func(t *testing.T) {
		e := *find(t, file)
		e.Flags |= manifest.ContentUnread
		if err := restore.CatRestored(w.Ctx, tree, &e, file, io.Discard); !errors.Is(err, restore.ErrIncomplete) {
			t.Errorf("%v, want %v", err, restore.ErrIncomplete)
		}
		if err := restore.CatRestored(w.Ctx, tree, find(t, src), src, io.Discard); err == nil {
			t.Error("a directory is written")
		}
	})
}
