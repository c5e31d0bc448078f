package snapshot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/check"
	"knowngood/storage/storagetest"
)

// TestATreeOfLongPathsIsCutIntoSegmentsThatReadBack captures paths that are much
// longer together than a segment may hold.
func TestBudget(t *testing.T) {
	t.Run("a tree of long paths is cut into segments that read back", func(t *testing.T) {
		src := filepath.Join(t.TempDir(), "src")
		mustDo(t, os.Mkdir(src, 0o755))
		fd, err := unix.Open(src, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		mustDo(t, err)
		const depth = 300
		name := strings.Repeat("n", 250)
		for range depth {
			mustDo(t, unix.Mkdirat(fd, name, 0o755))
			next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			mustDo(t, err)
			mustDo(t, unix.Close(fd))
			fd = next
		}
		mustDo(t, unix.Close(fd))

		w := enginetest.New(t, storagetest.NewMemory())
		res := w.MustCapture("e", src)
		if res.Directories < depth {
			t.Errorf("%+v", res)
		}
		tree := w.Tree("e")
		bytes, entries := 0, 0
		for e, err := range tree.Entries(w.Ctx, "") {
			w.Check(err)
			bytes, entries = bytes+len(e.Path), entries+1
		}
		if segments := len(tree.Table.Segments); entries < depth || bytes < 10<<20 || segments < 8 {
			t.Errorf("%d paths of %d bytes in %d segments", entries, bytes, segments)
		}
		report, err := check.Run(w.Ctx, w.Bare(), check.Options{})
		w.Check(err)
		if len(report.Damage) > 0 {
			t.Errorf("check finds %+v", report.Damage)
		}
	})
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
