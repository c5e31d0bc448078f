package walk_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/walk"
)

// bind mounts a node onto another one until the test ends.
func bind(t testing.TB, from, to string) {
	t.Helper()
	mount(t, from, to, "", unix.MS_BIND, "")
}

func mount(t testing.TB, what, at, kind string, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount(what, at, kind, flags, options); err == unix.EPERM || err == unix.ENODEV {
		t.Skipf("mount %s %s: %v", kind, what, err)
	} else {
		must(t, err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
}

func TestKernelFileSystems(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a", "proc/", "data/", "z")
	mount(t, "proc", dir+"/proc", "proc", 0, "")
	mount(t, "tmpfs", dir+"/data", "tmpfs", 0, "")
	build(t, dir, "data/f")
	must(t, os.Mkdir(dir+"/data/sys", 0o755))
	mount(t, "sysfs", dir+"/data/sys", "sysfs", 0, "")

	t.Run("are captured as empty directories, and named", func(t *testing.T) {
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir}}}),
			"a", "data/", "data/f", "data/sys/", "- data/sys (a file system of the kernel)", "proc/", "- proc (a file system of the kernel)", "z")
	})
	t.Run("are walked where a source lies in them", func(t *testing.T) {
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir}, {Path: dir + "/proc/sys/kernel/ostype"}}}),
			"a", "data/", "data/f", "data/sys/", "- data/sys (a file system of the kernel)",
			"proc/", "- proc (a file system of the kernel)", "i proc/sys/", "i proc/sys/kernel/", "proc/sys/kernel/ostype", "z")
	})
	t.Run("are walked where they are a source", func(t *testing.T) {
		got := collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir + "/data/sys/fs"}}})
		if len(got) < 4 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("are other file systems to a source that keeps to its own", func(t *testing.T) {
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir, OneFileSystem: true}}}),
			"a", "data/", "- data (on another file system)", "proc/", "- proc (on another file system)", "z")
	})
}
