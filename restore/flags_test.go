package restore_test

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/internal/enginetest"
	"knowngood/internal/fusetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

const (
	immutable    = 0x10
	appendOnly   = 0x20
	noDump       = 0x40
	noAccessTime = 0x80
)

// setFlags gives files and directories inode flags.
func setFlags(t treetest.T, dir string, flags map[string]uint32) {
	t.Helper()
	for path, f := range flags {
		if err := withFlags(filepath.Join(dir, path), func(fd int) error { return posix.SetInodeFlags(fd, f) }); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

func withFlags(path string, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// getFlags returns the flags of all files and directories that have some.
func getFlags(t treetest.T, dir string) map[string]uint32 {
	t.Helper()
	out := map[string]uint32{}
	eachWithFlags(t, dir, func(path string, fd int) error {
		flags, _, err := posix.InodeFlags(fd)
		if flags != 0 {
			out[path] = flags
		}
		return err
	})
	return out
}

func eachWithFlags(t treetest.T, dir string, do func(path string, fd int) error) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		return withFlags(path, func(fd int) error { return do(rel, fd) })
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// flagDir is a temporary directory whose flags are taken away when the test
// ends, so that it can be removed.
func flagDir(t treetest.T) string {
	t.Helper()
	dir := treetest.TempDir(t)
	t.Cleanup(func() {
		eachWithFlags(t, dir, func(_ string, fd int) error { _, err := posix.Unlock(fd); return err })
	})
	return dir
}

// needFlags skips a test where inode flags cannot be set.
func needFlags(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("immutable files take root")
	}
	err := withFlags(treetest.TempDir(t), func(fd int) error {
		if _, ok, err := posix.InodeFlags(fd); !ok {
			return errors.Join(errors.New("the file system of the temporary directory has no inode flags"), err)
		}
		if err := posix.SetInodeFlags(fd, immutable); err != nil {
			return err
		}
		return posix.SetInodeFlags(fd, 0)
	})
	if err != nil {
		t.Skip(err)
	}
}

func put(t treetest.T, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func TestInodeFlags(t *testing.T) {
	t.Parallel()
	needFlags(t)
	flags := map[string]uint32{".": immutable, "locked": immutable | noDump, "d": immutable, "d/log": appendOnly, "d/deep": appendOnly, "d/deep/x": noAccessTime, "one": immutable}
	source := func(t *testing.T) (w *enginetest.World, src string) {
		src = flagDir(t)
		for _, path := range []string{"plain", "locked", "d/log", "d/deep/x", "one"} {
			put(t, filepath.Join(src, path), path)
		}
		if err := os.Link(filepath.Join(src, "one"), filepath.Join(src, "d", "other")); err != nil {
			t.Fatal(err)
		}
		setFlags(t, src, flags)
		w = enginetest.New(t, storagetest.NewMemory())
		w.MustCapture("e", src)
		return w, src
	}
	want := maps.Clone(flags)
	want["d/other"] = immutable
	restored := func(t *testing.T, dir string) {
		t.Helper()
		if got := getFlags(t, dir); !maps.Equal(got, want) {
			t.Errorf("flags %v, not %v", got, want)
		}
	}

	t.Run("are restored after all else, to a new directory", func(t *testing.T) {
		t.Parallel()
		w, src := source(t)
		out := flagDir(t)
		o := restore.Options{Under: enginetest.Under(src), Target: out}
		w.Restore("e", o)
		restored(t, out)
		treetest.Equal(t, src, out, treetest.Options{})

		o.InPlace, o.Delete = true, true
		if again := w.Restore("e", o); again.Created+again.Changed+again.Metadata+again.Deleted > 0 {
			t.Errorf("restored again: %+v", again)
		}
		restored(t, out)
	})

	t.Run("forbid no restore in place what it has to change", func(t *testing.T) {
		t.Parallel()
		w, src := source(t)
		setFlags(t, src, map[string]uint32{".": 0, "locked": 0, "d": 0, "d/log": 0, "d/deep": 0, "one": 0})
		for path, content := range map[string]string{"locked": "changed", "d/log": "changed", "extra": "new", "d/deep/extra": "new", "extras/file": "new", "plain": "plain"} {
			put(t, filepath.Join(src, path), content)
		}
		for _, path := range []string{"d/deep/x", "d/other"} {
			if err := os.Remove(filepath.Join(src, path)); err != nil {
				t.Fatal(err)
			}
		}
		setFlags(t, src, map[string]uint32{"locked": immutable, "d/log": appendOnly, "d/deep/extra": immutable, "d/deep": immutable, "d": immutable | appendOnly,
			"extra": appendOnly, "extras/file": immutable, "extras": immutable, "plain": immutable, "one": immutable, ".": appendOnly})
		o := restore.Options{Under: enginetest.Under(src), Target: src, InPlace: true, Delete: true}
		dry := o
		dry.DryRun = true
		plan := w.Restore("e", dry)
		res := w.Restore("e", o)
		if plan.Created != res.Created || plan.Changed != res.Changed || plan.Deleted != res.Deleted || plan.Metadata != res.Metadata {
			t.Errorf("the plan was %+v, done is %+v", plan, res)
		}
		restored(t, src)
		for _, path := range []string{"plain", "locked", "d/log", "d/deep/x", "one"} {
			if b, err := os.ReadFile(filepath.Join(src, path)); err != nil || string(b) != path {
				t.Errorf("%s: %q, %v", path, b, err)
			}
		}
		for _, path := range []string{"extra", "extras", "d/deep/extra"} {
			if _, err := os.Lstat(filepath.Join(src, path)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", path, err)
			}
		}
	})

	t.Run("of directories that are not restored come back", func(t *testing.T) {
		t.Parallel()
		w, src := source(t)
		setFlags(t, src, map[string]uint32{"locked": 0})
		put(t, filepath.Join(src, "locked"), "changed")
		top := filepath.Join(src, "..", filepath.Base(src))
		setFlags(t, src, map[string]uint32{".": immutable | noAccessTime})
		w.Restore("e", restore.Options{Under: enginetest.Under(filepath.Join(src, "locked")), Target: filepath.Join(src, "locked"), InPlace: true})
		if b, err := os.ReadFile(filepath.Join(top, "locked")); err != nil || string(b) != "locked" {
			t.Errorf("%q, %v", b, err)
		}
		got := getFlags(t, src)
		if got["."] != immutable|noAccessTime || got["locked"] != immutable|noDump {
			t.Errorf("flags %v", got)
		}
	})

	t.Run("that the target cannot have are named, and cost nothing else", func(t *testing.T) {
		t.Parallel()
		w, src := source(t)
		out := fusetest.Mount(t, treetest.TempDir(t), fusetest.Options{NoFlags: true}).Dir
		res, err := w.TryRestore("e", restore.Options{Under: enginetest.Under(src), Target: out})
		w.Check(err)
		named := map[string]bool{}
		for _, p := range res.Problems {
			if !strings.Contains(p.Err.Error(), "flags") {
				t.Errorf("%s: %v", p.Path, p.Err)
			}
			named[strings.TrimPrefix(strings.TrimPrefix(p.Path, enginetest.Under(src)), "/")] = true
		}
		for path := range flags {
			if path == "one" {
				path = "d/other" // its first name
			}
			if path = strings.TrimPrefix(path, "."); !named[path] {
				t.Errorf("%q is not named: %v", path, named)
			}
		}
		if b, err := os.ReadFile(filepath.Join(out, "locked")); err != nil || string(b) != "locked" || res.Damaged {
			t.Errorf("%q, %v, %+v", b, err, res)
		}
	})

	t.Run("are many without taking memory for each", func(t *testing.T) {
		t.Parallel()
		src := flagDir(t)
		const files = 3000
		for i := range files {
			put(t, filepath.Join(src, string(rune('a'+i%26)), strings.Repeat("x", i%60)+string(rune('a'+i/26%26))+string(rune('a'+i/676))), "x")
		}
		eachWithFlags(t, src, func(path string, fd int) error { return posix.SetInodeFlags(fd, appendOnly) })
		w := enginetest.New(t, storagetest.NewMemory())
		w.MustCapture("e", src)
		out := flagDir(t)
		w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: out})
		if want, got := getFlags(t, src), getFlags(t, out); !maps.Equal(want, got) || len(got) < files {
			t.Errorf("%d nodes have flags, %d were to", len(got), len(want))
		}
	})
}

func TestInodeFlagsInPlace(t *testing.T) {
	t.Parallel()
	needFlags(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := enginetest.New(rt, storagetest.NewMemory())
		src := flagDir(rt)
		c := treetest.Rapid(rt)
		shape := treetest.Shape{Nodes: 25, MaxFile: 100 << 10, Without: []treetest.Part{treetest.DeepPaths}}
		treetest.Generate(rt, src, c, shape)
		unlock := func(dir string) {
			eachWithFlags(rt, dir, func(_ string, fd int) error { _, err := posix.Unlock(fd); return err })
		}
		rt.Cleanup(func() { unlock(src) })
		random := func(dir string) {
			r := rand.New(rand.NewPCG(c.Uint64(), 0))
			eachWithFlags(rt, dir, func(_ string, fd int) error {
				if r.IntN(3) > 0 {
					return nil
				}
				return posix.SetInodeFlags(fd, []uint32{immutable, appendOnly, noDump, noAccessTime | appendOnly, 0}[r.IntN(5)])
			})
		}
		random(src)
		w.MustCapture("e", src)
		want := getFlags(rt, src)

		out := flagDir(rt)
		o := restore.Options{Under: enginetest.Under(src), Target: out}
		w.Restore("e", o)
		unlock(out)
		treetest.Mutate(rt, out, c, 15, shape)
		random(out)
		o.InPlace, o.Delete = true, true
		w.Restore("e", o)
		treetest.Equal(rt, src, out, treetest.Options{})
		if got := getFlags(rt, out); !maps.Equal(got, want) {
			rt.Errorf("flags %v, not %v", got, want)
		}
	})
}
