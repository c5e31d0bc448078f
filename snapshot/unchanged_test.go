package snapshot_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/fusetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/storage/storagetest"
)

// captured is the content of a file in the newest snapshot of e.
func captured(w *enginetest.World, path string) string {
	w.T.Helper()
	out := treetest.TempDir(w.T)
	w.Restore("e", restore.Options{Under: enginetest.Under(filepath.Dir(path)), Target: out})
	b, err := os.ReadFile(filepath.Join(out, filepath.Base(path)))
	w.Check(err)
	return string(b)
}

func stat(w *enginetest.World, path string) posix.Stat {
	w.T.Helper()
	st, err := posix.StatAt(unix.AT_FDCWD, path)
	w.Check(err)
	return st
}

func kernelWindow(o *snapshot.Options) { o.WritebackWindow = 0 }

func TestChangeDetection(t *testing.T) {
	t.Parallel()
	t.Run("reads a young file again, and stores nothing new", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		src := treetest.TempDir(t)
		write(t, filepath.Join(src, "d", "young"), random(1, 100<<10))
		settle()
		w.MustCapture("e", src)
		again, err := w.Capture("e", kernelWindow, src)
		w.Check(err)
		if again.Read != 1 || again.NewBytes != 0 || again.Partial() {
			t.Errorf("read %d files, %d new bytes", again.Read, again.NewBytes)
		}
		if old := w.MustCapture("e", src); old.Read != 0 {
			t.Errorf("read %d files that are old enough", old.Read)
		}
		w.Clean()
	})

	t.Run("sees a write through a mapping, which moves no time", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		path := filepath.Join(treetest.Disk(t, 16<<20, "mkfs.ext4", "-q"), "db")
		write(t, path, string(make([]byte, 4096)))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		w.Check(err)
		defer f.Close()
		w.Check(f.Sync())
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		w.Check(err)
		defer unix.Munmap(m)
		copy(m, "AAAA")
		settle()
		_, err = w.Capture("e", kernelWindow, path)
		w.Check(err)
		before := stat(w, path)
		copy(m, "BBBB")
		if stat(w, path) != before {
			t.Skip("this kernel stamps every write through a mapping")
		}
		_, err = w.Capture("e", kernelWindow, path)
		w.Check(err)
		if got := captured(w, path)[:4]; got != "BBBB" {
			t.Errorf("captured %q", got)
		}
	})

	t.Run("sees a change within a second that the file system cannot tell apart", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		path := filepath.Join(treetest.Disk(t, 16<<20, "mkfs.ext4", "-q", "-I", "128"), "f")
		for range 20 {
			write(t, path, "AAAA")
			settle()
			w.MustCapture("e", path)
			before := stat(w, path)
			if before.Ctime.Nsec != 0 {
				t.Skipf("the file system has fractions of seconds: %v", before.Ctime)
			}
			write(t, path, "BBBB")
			if stat(w, path) != before {
				continue // the second was over
			}
			w.MustCapture("e", path)
			if got := captured(w, path); got != "BBBB" {
				t.Errorf("captured %q", got)
			}
			return
		}
		t.Error("no two writes came within one second")
	})

	t.Run("sees what the kernel does not know of a remote file", func(t *testing.T) {
		w := enginetest.New(t, storagetest.NewMemory())
		back := treetest.TempDir(t)
		write(t, filepath.Join(back, "f"), "short")
		m := fusetest.Mount(t, back, fusetest.Options{Remembered: time.Hour})
		settle()
		w.MustCapture("e", m.Dir)
		write(t, filepath.Join(back, "f"), "much longer now")
		settle()
		w.MustCapture("e", m.Dir)
		if got := captured(w, m.Dir+"/f"); got != "much longer now" {
			t.Errorf("captured %q", got)
		}
		if res := w.MustCapture("e", m.Dir); res.Read != 0 {
			t.Errorf("an unchanged remote file is read again")
		}
	})

	t.Run("reads every file again within the time that is configured", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		src := treetest.TempDir(t)
		for i := range 40 {
			write(t, filepath.Join(src, "d", string(rune('A'+i))), random(uint64(i), 1000))
		}
		settle()
		w.MustCapture("e", src)
		for every, want := range map[time.Duration]uint64{1: 40, 100 * 365 * 24 * time.Hour: 0} {
			res, err := w.Capture("e", func(o *snapshot.Options) { o.RereadEvery = every }, src)
			w.Check(err)
			if res.Read != want || res.NewBytes != 0 {
				t.Errorf("every %v: read %d files, %d new bytes", every, res.Read, res.NewBytes)
			}
		}
	})

	t.Run("finds a change that left no trace when its turn comes", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		src := treetest.TempDir(t)
		path := filepath.Join(src, "f")
		write(t, path, "AAAA")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		w.Check(err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		w.Check(err)
		defer unix.Munmap(m)
		copy(m, "AAAA")
		settle()
		w.MustCapture("e", src)
		before := stat(w, path)
		copy(m, "BBBB")
		if stat(w, path) != before {
			t.Skip("this kernel stamps every write through a mapping")
		}
		w.MustCapture("e", src)
		if got := captured(w, path); got != "AAAA" {
			t.Fatalf("captured %q: this test shows nothing", got)
		}
		_, err = w.Capture("e", func(o *snapshot.Options) { o.RereadEvery = 1 }, src)
		w.Check(err)
		if got := captured(w, path); got != "BBBB" {
			t.Errorf("captured %q", got)
		}
	})
}
