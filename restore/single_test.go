package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

// singleWorld has a snapshot of a directory with a node of each kind, and of a
// directory around it with a mode of its own.
type singleWorld struct {
	*enginetest.World
	src  string // the tree
	kept string // a copy of it
}

func newSingleWorld(t *testing.T) *singleWorld {
	w := &singleWorld{World: enginetest.New(t, storagetest.NewMemory()), src: filepath.Join(treetest.TempDir(t), "src")}
	writeRandom(t, w.src+"/d/file", 1, 300<<10)
	write(t, w.src+"/d/beside", "beside")
	for _, err := range []error{os.Chmod(w.src, 0o711), os.Chmod(w.src+"/d", 0o751), os.Symlink("file", w.src+"/d/link"), unix.Mkfifo(w.src+"/d/fifo", 0o620)} {
		w.Check(err)
	}
	if os.Geteuid() == 0 {
		w.Check(unix.Mknod(w.src+"/d/device", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	}
	settle()
	w.MustCapture("e", w.src)
	w.kept = filepath.Join(treetest.TempDir(t), "kept")
	w.Restore("e", restore.Options{Under: enginetest.Under(w.src), Target: w.kept})
	return w
}

func (w *singleWorld) names() []string {
	names := []string{"file", "link", "fifo"}
	if os.Geteuid() == 0 {
		names = append(names, "device")
	}
	return names
}

func (w *singleWorld) of(name, target string) restore.Options {
	return restore.Options{Under: enginetest.Under(w.src) + "/d/" + name, Target: target}
}

// same demands that a node is as the snapshot has it.
func (w *singleWorld) same(name, path string) {
	w.T.Helper()
	a, b := treetest.Tree{"x": treetest.Snapshot(w.T, w.kept)["d/"+name]}, treetest.Tree{"x": treetest.Snapshot(w.T, filepath.Dir(path))[filepath.Base(path)]}
	if b["x"] == nil {
		w.T.Errorf("%s is not there", path)
		return
	}
	for _, d := range a.Compare(b, treetest.Options{IgnoreRoot: true}) {
		w.T.Errorf("%s: %v", path, d)
	}
}

// nothingLeft demands that a directory holds only these names.
func nothingLeft(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestSingleNode(t *testing.T) {
	t.Parallel()
	run := func(name string, f func(t *testing.T, w *singleWorld)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newSingleWorld(t))
		})
	}

	run("becomes a target that is missing", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		for _, name := range w.names() {
			at := filepath.Join(dir, "missing", name, "new")
			w.Restore("e", w.of(name, at))
			w.same(name, at)
			nothingLeft(t, filepath.Dir(at), "new")
		}
	})
	run("goes into a directory under its own name", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		write(t, dir+"/mine", "mine")
		w.Check(os.Symlink(dir, dir+"-link"))
		defer os.Remove(dir + "-link")
		for i, name := range w.names() {
			target := []string{dir, dir + "/", dir + "-link"}[i%3]
			w.Restore("e", w.of(name, target))
			w.same(name, filepath.Join(dir, name))
		}
		nothingLeft(t, dir, append(w.names(), "mine")...)
		w.Restore("e", w.of("file", dir+"/new/"))
		w.same("file", dir+"/new/file")
	})
	run("replaces nothing unless in place", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		write(t, dir+"/file", "mine")
		w.Check(os.Symlink("/nowhere", dir+"/dangling"))
		for _, target := range []string{dir + "/file", dir, dir + "/", dir + "/dangling"} {
			for _, dry := range []bool{true, false} {
				o := w.of("file", target)
				o.DryRun = dry
				if _, err := w.TryRestore("e", o); !errors.Is(err, restore.ErrExists) {
					t.Errorf("%s: %v", target, err)
				}
			}
		}
		if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "mine" {
			t.Errorf("%q, %v", b, err)
		}
		for _, target := range []string{dir + "/file", dir + "/dangling"} {
			o := w.of("file", target)
			o.InPlace = true
			if res := w.Restore("e", o); res.Changed != 1 {
				t.Errorf("%s: %+v", target, res)
			}
			w.same("file", target)
		}
		nothingLeft(t, dir, "file", "dangling")
	})
	run("is refused where a directory has its own name", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		write(t, dir+"/file/mine", "mine")
		for _, o := range []restore.Options{{}, {InPlace: true}, {InPlace: true, Delete: true}} {
			o.Under, o.Target = w.of("file", "").Under, dir+"/file"
			if _, err := w.TryRestore("e", o); !errors.Is(err, restore.ErrAmbiguous) {
				t.Errorf("%+v: %v", o, err)
			}
		}
		nothingLeft(t, dir+"/file", "mine")
	})
	run("goes back to its place, whatever is there", func(t *testing.T, w *singleWorld) {
		for _, name := range w.names() {
			at := filepath.Join(w.src, "d", name)
			o := w.of(name, at)
			o.InPlace = true
			if res := w.Restore("e", o); res.Unchanged != 1 {
				t.Errorf("%s as it was: %+v", name, res)
			}
			for _, there := range []func() error{
				func() error { return nil },
				func() error { return os.WriteFile(at, []byte("other"), 0o600) },
				func() error { return os.Symlink("/etc/passwd", at) },
				func() error { return unix.Mkfifo(at, 0o666) },
			} {
				w.Check(os.Remove(at))
				w.Check(there())
				w.Restore("e", o)
				w.same(name, at)
			}
			w.Check(os.Remove(at))
			write(t, at+"/in", "a directory is there")
			if res, err := w.TryRestore("e", o); err != nil || res.Restored != (restore.Counts{}) || len(res.Problems) != 1 {
				t.Errorf("%s over a directory: %+v, %v", name, res, err)
			}
			nothingLeft(t, at, "in")
			o.Delete = true
			w.Restore("e", o)
			w.same(name, at)
		}
		nothingLeft(t, w.src+"/d", append(w.names(), "beside")...)
	})
	run("goes back with the directories above it", func(t *testing.T, w *singleWorld) {
		w.Check(os.RemoveAll(w.src))
		o := w.of("file", w.src+"/d/file")
		o.InPlace = true
		w.Restore("e", o)
		w.same("file", w.src+"/d/file")
		for path, mode := range map[string]uint32{w.src: 0o711, w.src + "/d": 0o751} {
			if st, kept := inode(t, path), inode(t, w.kept+path[len(w.src):]); st.Mode&0o7777 != mode || st.Mtim != kept.Mtim {
				t.Errorf("%s: mode %o, mtime %v instead of %v", path, st.Mode, st.Mtim, kept.Mtim)
			}
		}
	})
	run("leaves what an interrupted run left to the next one", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		store := storagetest.NewFaulty(w.Store, storagetest.Rule{Op: storagetest.Get, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.FailBefore(nil)})
		broken := *w.World
		broken.Store = store
		if _, err := broken.TryRestore("e", w.of("file", dir+"/new")); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("the first run: %v", err)
		}
		nothingLeft(t, dir)
		w.Restore("e", w.of("file", dir+"/new"))
		w.same("file", dir+"/new")
	})
	run("that would be restored is planned only", func(t *testing.T, w *singleWorld) {
		dir := treetest.TempDir(t)
		o := w.of("file", dir+"/a/b/new")
		o.DryRun = true
		if res := w.Restore("e", o); res.Created != 1 || res.Planned.Files != 1 || res.Planned.Bytes != 300<<10 {
			t.Errorf("%+v", res)
		}
		nothingLeft(t, dir)
	})
}

func TestSingleDirectory(t *testing.T) {
	t.Parallel()

	t.Run("goes back with the directories above it", func(t *testing.T) {
		t.Parallel()
		w := newSingleWorld(t)
		w.Check(os.RemoveAll(w.src))
		w.Restore("e", restore.Options{Under: enginetest.Under(w.src) + "/d", Target: w.src + "/d", InPlace: true})
		if st := inode(t, w.src); st.Mode&0o7777 != 0o711 {
			t.Errorf("mode %o", st.Mode)
		}
		treetest.Equal(t, w.kept+"/d", w.src+"/d", treetest.Options{})
	})
}
