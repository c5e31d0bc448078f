package posix_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

func newDirs(t *testing.T, dir string, limit int) *posix.Dirs {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	ds, err := posix.NewDirs(fd, limit)
	must(t, err)
	return ds
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestDirs(t *testing.T) {
	t.Run("dirs never leave their root", dirsNeverLeaveTheirRoot)
	t.Run("dirs hold few descriptors and close all", dirsHoldFewDescriptorsAndCloseAll)
	t.Run("forget makes dirs see what was replaced", forgetMakesDirsSeeWhatWasReplaced)
	t.Run("dirs reach beyond path max", dirsReachBeyondPathMax)
}

func dirsNeverLeaveTheirRoot(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	must(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must(t, os.Mkdir(filepath.Join(top, "outside"), 0o755))
	must(t, os.Symlink("../outside", filepath.Join(root, "out")))
	must(t, os.Symlink("b", filepath.Join(root, "a/link")))
	must(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o644))
	ds := newDirs(t, root, 4)
	defer ds.Close()

	d, err := ds.Get("a/b")
	must(t, err)
	want, err := posix.StatAt(unix.AT_FDCWD, filepath.Join(root, "a/b"))
	must(t, err)
	if d.Stat.ID() != want.ID() || !d.Readable || d.Path != "a/b" {
		t.Errorf("a/b: %+v", d)
	}
	d.Release()

	for path, symlink := range map[string]bool{"out": true, "out/x": true, "a/link": true, "a/link/x": true, "file": false, "file/x": false} {
		_, err := ds.Get(path)
		var nd *posix.NotDirError
		if !errors.As(err, &nd) || nd.Symlink != symlink || !strings.HasPrefix(path, nd.Path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"..", ".", "a/..", "a/../..", "/", "/a", "a/", "a//b", "a\x00", "../outside"} {
		if d, err := ds.Get(path); err == nil {
			t.Errorf("%q opens %+v", path, d)
		}
	}
	if _, err := ds.Get("a/nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func dirsHoldFewDescriptorsAndCloseAll(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		must(t, os.MkdirAll(filepath.Join(dir, fmt.Sprintf("%d/sub", i)), 0o755))
	}
	before := openFDs(t)
	ds := newDirs(t, dir, 10)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 300 {
				path := fmt.Sprintf("%d/sub", (i*7+w)%100)
				d, err := ds.Get(path)
				if err != nil {
					t.Error(err)
					return
				}
				if st, err := posix.StatFd(d.FD()); err != nil || st.ID() != d.Stat.ID() || d.Path != path {
					t.Errorf("%s: another directory, or %v", path, err)
				}
				d.Release()
			}
		})
	}
	wg.Wait()
	if n := openFDs(t) - before; n > 11 {
		t.Errorf("%d descriptors with a limit of 10", n)
	}
	held, err := ds.Get("5/sub")
	must(t, err)
	must(t, ds.Close())
	if _, err := ds.Get("6"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := posix.StatFd(held.FD()); err != nil {
		t.Errorf("held across Close: %v", err)
	}
	held.Release()
	if n := openFDs(t) - before; n > 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

func forgetMakesDirsSeeWhatWasReplaced(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	ds := newDirs(t, dir, 10)
	defer ds.Close()
	old, err := ds.Get("a/b")
	must(t, err)
	must(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "x")))
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	ds.Forget("a")
	d, err := ds.Get("a/b")
	must(t, err)
	if d.Stat.ID() == old.Stat.ID() {
		t.Error("the old directory is still found")
	}
	d.Release()
	old.Release()
}

func dirsReachBeyondPathMax(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "posix")
	if err != nil {
		dir = t.TempDir()
	}
	ds := newDirs(t, dir, 16)
	t.Cleanup(func() {
		fd := dirFD(t, dir)
		for { // lift what is below the top directory's child to the top
			err := unix.Renameat2(fd, "d/d", fd, "next", unix.RENAME_NOREPLACE)
			unix.Unlinkat(fd, "d", unix.AT_REMOVEDIR)
			if err != nil || unix.Renameat(fd, "next", fd, "d") != nil {
				break
			}
		}
		os.RemoveAll(dir)
	})
	path := ""
	for range 3000 {
		d, err := ds.Get(path)
		must(t, err)
		must(t, unix.Mkdirat(d.FD(), "d", 0o755))
		d.Release()
		path = strings.TrimPrefix(path+"/d", "/")
	}
	must(t, ds.Close())
	ds = newDirs(t, dir, 16)
	defer ds.Close()
	d, err := ds.Get(path)
	must(t, err)
	d.Release()
}
