package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/internal/treetest"
)

// twoDisks are two images with equal inode numbers, mounted in one tree.
type twoDisks struct {
	src    string
	images [2]*image
	swaps  int
}

func newTwoDisks(t *testing.T) *twoDisks {
	t.Helper()
	d := &twoDisks{src: t.TempDir()}
	for i := range d.images {
		d.images[i] = newImage(t)
		if err := os.Mkdir(d.dir(i), 0o755); err != nil {
			t.Fatal(err)
		}
		d.images[i].mount(t, d.dir(i))
		t.Cleanup(func() { _ = unix.Unmount(d.dir(i), unix.MNT_DETACH) }) // a test that fails may have left it unmounted
	}
	return d
}

func (d *twoDisks) dir(i int) string { return filepath.Join(d.src, string(rune('A'+i))) }

// at is where an image is mounted: what lies on it keeps its place when the
// devices swap.
func (d *twoDisks) at(image int) string { return d.dir((image + d.swaps) % 2) }

// later is an hour later, and after a boot when the devices swap.
func (d *twoDisks) later(t treetest.T, swap bool) {
	t.Helper()
	for i, image := range d.images {
		image.settle(t, d.at(i))
	}
	if swap {
		exchange(t, d.images[0], d.images[1])
		d.swaps++
	}
	for i, image := range d.images {
		image.mount(t, d.at(i))
	}
}

func TestHardLinks(t *testing.T) {
	t.Run("of two file systems whose devices swapped stay apart", func(t *testing.T) {
		t.Parallel()
		ownDisks(t)
		m, d := newMachine(t, filepath.Join(t.TempDir(), "repo")), newTwoDisks(t)
		for i := range d.images {
			writeFile(t, filepath.Join(d.dir(i), "one"), fmt.Sprint("content of ", i))
			link(t, filepath.Join(d.dir(i), "one"), filepath.Join(d.dir(i), "two"))
		}
		d.later(t, false)
		before := [2]unix.Stat_t{stat(t, filepath.Join(d.dir(0), "one")), stat(t, filepath.Join(d.dir(1), "one"))}
		m.must(t, "snapshot", "--env", "e", d.src)

		writeFile(t, filepath.Join(d.dir(1), "one"), "content of 1, changed")
		d.later(t, true)
		after := [2]unix.Stat_t{stat(t, filepath.Join(d.dir(0), "one")), stat(t, filepath.Join(d.dir(1), "one"))}
		if before[0].Ino != after[1].Ino || before[0].Dev != after[1].Dev || before[1].Ino != after[0].Ino {
			t.Fatalf("the devices did not swap: %v, %v", before, after)
		}
		m.must(t, "snapshot", "--env", "e", d.src)
		m.restoresTo(t, "e@2", d.src, treetest.Snapshot(t, d.src))
		m.must(t, "check", "--read-data")
	})

	t.Run("in random groups on two file systems with equal inode numbers come back as they are", func(t *testing.T) {
		t.Parallel()
		ownDisks(t)
		m, d := newMachine(t, filepath.Join(t.TempDir(), "repo")), newTwoDisks(t)
		runs := 0
		rapid.Check(t, func(rt *rapid.T) {
			runs++
			env := fmt.Sprint("e", runs)
			for i := range d.images {
				must(rt, "find", d.dir(i), "-mindepth", "1", "-delete")
			}
			for round := range rapid.IntRange(1, 3).Draw(rt, "rounds") {
				for range rapid.IntRange(1, 8).Draw(rt, "steps") {
					d.step(rt)
				}
				d.later(rt, rapid.Bool().Draw(rt, "swap"))
				m.must(rt, "snapshot", "--env", env, d.src)
				m.restoresTo(rt, fmt.Sprintf("%s@%d", env, round+1), d.src, treetest.Snapshot(rt, d.src))
			}
		})
		m.must(t, "check", "--read-data")
	})
}

// step does something to a name, on both file systems, so that inode numbers
// stay equal, or on one of them.
func (d *twoDisks) step(t *rapid.T) {
	t.Helper()
	name := func(label string) string { return fmt.Sprint("f", rapid.IntRange(0, 5).Draw(t, label)) }
	what, at, other := rapid.SampledFrom([]string{"write", "link", "replace", "remove"}).Draw(t, "what"), name("name"), name("other")
	where := rapid.SampledFrom([][]int{{0, 1}, {0}, {1}}).Draw(t, "where")
	content := rapid.SampledFrom([]string{"short", "of equal size 1", "of equal size 2"}).Draw(t, "content")
	for _, i := range where {
		path, from := filepath.Join(d.dir(i), at), filepath.Join(d.dir(i), other)
		switch what {
		case "write":
			writeFile(t, path, fmt.Sprint(content, i))
		case "link":
			if _, err := os.Lstat(path); err == nil {
				continue
			}
			if _, err := os.Lstat(from); err != nil {
				writeFile(t, from, fmt.Sprint(content, i))
			}
			if at != other {
				link(t, from, path)
			}
		case "replace":
			writeFile(t, path+".new", fmt.Sprint(content, i))
			must(t, "mv", path+".new", path)
		case "remove":
			if err := os.RemoveAll(path); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
}

// restoresTo demands that the tree at src of a snapshot restores to what it was.
func (m *machine) restoresTo(t treetest.T, ref, src string, want treetest.Tree) {
	t.Helper()
	out := filepath.Join(treetest.TempDir(t), "out")
	m.must(t, "restore", ref+":"+src, "--target", out)
	want.Equal(t, out, compareOptions())
}

func writeFile(t treetest.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatalf("%v", err)
	}
}

func link(t treetest.T, from, to string) {
	t.Helper()
	if err := os.Link(from, to); err != nil {
		t.Fatalf("%v", err)
	}
}

func stat(t treetest.T, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}
