package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// replaced is a case of a node that is replaced at one stage of a capture.
type replaced struct {
	name string
	make func(t *testing.T, src string)
	at   call // before the first such call, paths relative to src
	nth  int  // before the nth, instead
	do   func(t *testing.T, src string)
	// kept are files that nobody touched, and what they hold.
	kept map[string]string
	// partial means that the snapshot cannot be complete.
	partial bool
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	t.Run("an inode that is used again while a capture runs", testAnInodeThatIsUsedAgainWhileACaptureRuns)
}

func TestReplacedSequentially(t *testing.T) {
	t.Run("nodes that are replaced while they are captured", testNodesThatAreReplacedWhileTheyAreCaptured)
}

func testNodesThatAreReplacedWhileTheyAreCaptured(t *testing.T) {
	needSupervision(t)
	twoNames := func(t *testing.T, src string) {
		writeFile(t, filepath.Join(src, "a", "f"), "old content")
		link(t, filepath.Join(src, "a", "f"), filepath.Join(src, "z", "stable"))
	}
	directory := func(t *testing.T, src string) {
		makeDir(t, filepath.Join(src, "d"))
		writeFile(t, filepath.Join(src, "d", "f"), "precious")
		link(t, filepath.Join(src, "d", "f"), filepath.Join(src, "z", "stable"))
		writeFile(t, filepath.Join(src, "d", "g"), "also")
	}
	moveDirectory := func(t *testing.T, src string) { rename(t, filepath.Join(src, "d"), filepath.Join(src, "moved")) }
	symlink := func(t *testing.T, src string) {
		if err := os.Symlink("target", filepath.Join(src, "a", "link")); err != nil {
			t.Fatal(err)
		}
	}
	cases := []replaced{
		{name: "a name that a new file takes leaves the other name its content", make: twoNames, at: call{"openat", "a/f"},
			do: func(t *testing.T, src string) {
				writeFile(t, filepath.Join(src, "new"), "quite different")
				rename(t, filepath.Join(src, "new"), filepath.Join(src, "a", "f"))
			}, kept: map[string]string{"z/stable": "old content"}},
		{name: "a name that is removed leaves the other name its content", make: twoNames, at: call{"openat", "a/f"},
			do:   func(t *testing.T, src string) { remove(t, filepath.Join(src, "a", "f")) },
			kept: map[string]string{"z/stable": "old content"}},
		{name: "a name that a fifo takes leaves the other name its content", make: twoNames, at: call{"openat", "a/f"},
			do: func(t *testing.T, src string) {
				remove(t, filepath.Join(src, "a", "f"))
				makeFifo(t, filepath.Join(src, "a", "f"))
			}, kept: map[string]string{"z/stable": "old content"}, partial: true},
		{name: "a directory that is renamed before its attributes are read costs no other name its content", make: directory, at: call{"openat", "d"}, nth: 2,
			do: moveDirectory, kept: map[string]string{"z/stable": "precious"}},
		{name: "a directory that is renamed before its files are read costs no other name its content", make: directory, at: call{"openat", "d/f"},
			do: moveDirectory, kept: map[string]string{"z/stable": "precious"}},
		{name: "a link that a file takes before it is read costs no other name its content", make: symlink, at: call{"openat", "a/link"},
			do: func(t *testing.T, src string) {
				remove(t, filepath.Join(src, "a", "link"))
				writeFile(t, filepath.Join(src, "a", "link"), "a file now")
			}, partial: true},
		{name: "a file that a link takes before its attributes are read passes nothing on to it", make: twoNames, at: call{"openat", "a/f"},
			do: func(t *testing.T, src string) {
				remove(t, filepath.Join(src, "a", "f"))
				if err := os.Symlink("target", filepath.Join(src, "a", "f")); err != nil {
					t.Fatal(err)
				}
			}, kept: map[string]string{"z/stable": "old content"}, partial: true},
		{name: "a fifo that a file with attributes takes gets none of them", make: func(t *testing.T, src string) { makeFifo(t, filepath.Join(src, "a", "fifo")) },
			at: call{"openat", "a/fifo"},
			do: func(t *testing.T, src string) {
				remove(t, filepath.Join(src, "a", "fifo"))
				writeFile(t, filepath.Join(src, "a", "fifo"), "a file now")
				if err := unix.Setxattr(filepath.Join(src, "a", "fifo"), "user.of.the.file", []byte("x"), 0); err != nil {
					t.Skipf("no user attributes on this file system: %v", err)
				}
			}, partial: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

func (c *replaced) run(t *testing.T) {
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := treetest.TempDir(t)
	makeDir(t, filepath.Join(src, "a"))
	makeDir(t, filepath.Join(src, "z"))
	writeFile(t, filepath.Join(src, "z", "alone"), "alone")
	c.make(t, src)

	h, calls := states{treetest.Snapshot(t, src)}, 0
	o := m.supervise(t, src, func(now call) bool {
		if now.name != c.at.name || now.path != filepath.Join(src, c.at.path) {
			return true
		}
		if calls++; calls == max(1, c.nth) {
			c.do(t, src)
			h = append(h, treetest.Snapshot(t, src))
		}
		return true
	}, "snapshot", "--env", "e", src)
	if len(h) == 1 {
		t.Fatalf("the capture made %d calls %v", calls, c.at)
	}
	if o.code != exit.Incomplete {
		o.exits(t, exit.Done)
	}
	if c.partial && o.code == exit.Done {
		t.Errorf("the snapshot is said to be complete")
	}
	m.must(t, "check", "--read-data")
	got, named := m.restoreChanged(t, "e@1", src)
	if o.code == exit.Done && len(named) > 0 {
		t.Errorf("the snapshot is said to be complete, and %q named", named)
	}
	h.captured(t, got, named)
	for path, content := range c.kept {
		if !sameNode(h[0][path], got[path]) {
			t.Errorf("%s, which nobody touched: %s", path, h.describe(path, got))
		}
		if text := strings.TrimSpace(m.must(t, "cat", "e@1:"+filepath.Join(src, path))); text != content {
			t.Errorf("%s holds %q, want %q", path, text, content)
		}
	}

	m.must(t, "snapshot", "--env", "e", src)
	m.restoresTo(t, "e@2", src, treetest.Snapshot(t, src))
	for path := range c.kept {
		remove(t, filepath.Join(src, path))
	}
	if o := m.run(t, "restore", "e@1:"+src, "--in-place"); o.code != exit.Incomplete {
		o.exits(t, exit.Done)
	}
	for path, content := range c.kept {
		if b, err := os.ReadFile(filepath.Join(src, path)); err != nil || string(b) != content {
			t.Errorf("restored in place, %s holds %q (%v), want %q", path, b, err, content)
		}
	}
}

// An inode is free again when its last name is gone, and the next file takes
// its number. On ext4 that is at once.
func testAnInodeThatIsUsedAgainWhileACaptureRuns(t *testing.T) {
	t.Parallel()
	needSupervision(t)
	ownDisks(t)
	m, src, disk := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir(), newImage(t)
	disk.mount(t, src)
	t.Cleanup(func() { _ = unix.Unmount(src, unix.MNT_DETACH) })
	makeDir(t, filepath.Join(src, "0"))
	makeDir(t, filepath.Join(src, "9"))
	writeFile(t, filepath.Join(src, "0", "a"), "old content of a")
	link(t, filepath.Join(src, "0", "a"), filepath.Join(src, "0", "b"))
	// Large enough that its directory is read before the next one is reached.
	writeFile(t, filepath.Join(src, "0", "large"), strings.Repeat("large", 1<<19))
	inode := stat(t, filepath.Join(src, "0", "a")).Ino

	// Nobody gets to list the last directory before a is read.
	used := false
	m.supervise(t, src, func(c call) bool {
		if c.name == "openat" && c.path == filepath.Join(src, "0", "large") && !used {
			used = true
			remove(t, filepath.Join(src, "0", "a"))
			remove(t, filepath.Join(src, "0", "b"))
			writeFile(t, filepath.Join(src, "9", "z"), "new and quite different content of z")
			link(t, filepath.Join(src, "9", "z"), filepath.Join(src, "9", "y"))
		}
		return used || c.name != "openat" || c.path != filepath.Join(src, "9")
	}, "snapshot", "--env", "e", src)
	if now := stat(t, filepath.Join(src, "9", "z")).Ino; now != inode {
		t.Skipf("this file system gives a new file the inode number %d, and not %d, which is free", now, inode)
	}
	for _, name := range []string{"z", "y"} {
		path := filepath.Join(src, "9", name)
		if got := m.must(t, "cat", "e@1:"+path); got != "new and quite different content of z" {
			t.Errorf("captured of %s: %q", path, got)
		}
	}
	m.must(t, "check", "--read-data")
}

func makeDir(t treetest.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
}

func makeFifo(t treetest.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o644); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func rename(t treetest.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatalf("%v", err)
	}
}

func remove(t treetest.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatalf("%v", err)
	}
}
