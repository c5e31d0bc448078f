package restore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/storagetest"
)

func TestExact(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	one, two := filepath.Join(src, "one"), filepath.Join(src, "two")
	write(t, filepath.Join(one, "kept"), "first")
	write(t, filepath.Join(one, "cache", "x"), "x")
	write(t, filepath.Join(one, "old.tmp"), "old")
	write(t, filepath.Join(one, "marked", "x"), "x")
	write(t, filepath.Join(two, "x"), "x")
	settle()
	w.MustCapture("e", one, two)

	// The rules leave out what they did not before, and a source is gone.
	write(t, filepath.Join(one, "kept"), "second")
	write(t, filepath.Join(one, "marked", ".nobackup"), "")
	settle()
	rules, err := filter.Compile(one, nil, []string{"*.tmp", "cache"})
	w.Check(err)
	_, err = w.Capture("e", func(o *snapshot.Options) {
		o.Sources = []walk.Source{{Path: one, Rules: rules, ExcludeIfPresent: []string{".nobackup"}}}
	})
	w.Check(err)

	fresh := func(ref string) treetest.Tree {
		out := treetest.TempDir(t)
		w.Restore(ref, restore.Options{Target: out})
		return treetest.Snapshot(t, out)
	}
	want := map[string]treetest.Tree{"e@1": fresh("e@1"), "e@2": fresh("e@2")}
	out := treetest.TempDir(t)
	outside := treetest.TempDir(t)
	for i, ref := range []string{"e@1", "e@2", "e@1", "e@2", "e@1", "e@2"} {
		w.Restore(ref, restore.Options{Target: out, InPlace: true, Delete: true, Exact: true})
		want[ref].Equal(t, out, treetest.Options{IgnoreRoot: true})

		// What somebody did in there in between does not stay.
		write(t, filepath.Join(out, "at-the-top", "x"), "x")
		write(t, filepath.Join(out, one, "new.tmp"), "x")
		write(t, filepath.Join(out, one, "kept"), "other")
		w.Check(os.Chmod(filepath.Join(out, one), 0o500))
		above := filepath.Join(out, strings.Split(src, "/")[1]) // of the source
		switch i {
		case 2:
			w.Check(os.RemoveAll(above))
			write(t, above, "a file")
		case 3:
			w.Check(os.RemoveAll(above))
			w.Check(os.Symlink(outside, above))
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("beside the target there is now %v (%v)", left, err)
	}
}

// A file that could not be read is in no snapshot: what an earlier one had of it must
// not pass for it.
func TestExactRemoves(t *testing.T) {
	t.Parallel()

	t.Run("what is not in the snapshot whole", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		unlisted := folder("unlisted")
		unlisted.Flags = manifest.ListingUnread
		forge(w, []*manifest.Entry{folder(""), unread(file("a")), file("b"), unlisted}, map[string]string{"b": "b"})
		out := treetest.TempDir(t)
		for _, name := range []string{"a", "b", "c", "unlisted/x"} {
			write(t, filepath.Join(out, name), "of another snapshot")
		}
		_, err := w.TryRestore("e", restore.Options{Target: out, InPlace: true, Delete: true, Exact: true})
		w.Check(err)
		for name, want := range map[string]bool{"a": false, "b": true, "c": false, "unlisted": true, "unlisted/x": false} {
			if _, err := os.Lstat(filepath.Join(out, name)); (err == nil) != want {
				t.Errorf("%s is there: %v, want %v", name, err == nil, want)
			}
		}
	})
}
