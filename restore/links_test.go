package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/storage/storagetest"
)

// inode of a path, with its mode and its number of names.
func inode(t treetest.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

// linkWorld has a snapshot of two groups, a1 a2 and b1 b2, and of a file with
// one name, all with equal content. It is restored to out; outside is beside it.
type linkWorld struct {
	*enginetest.World
	src, out, outside string
}

func newLinkWorld(t *testing.T) *linkWorld {
	w := &linkWorld{World: enginetest.New(t, storagetest.NewMemory()), src: treetest.TempDir(t), out: treetest.TempDir(t), outside: treetest.TempDir(t)}
	then := time.Now().Add(-time.Hour)
	for _, name := range []string{"a1", "b1", "one"} {
		write(t, filepath.Join(w.src, name), "content")
		w.Check(os.Chtimes(filepath.Join(w.src, name), then, then))
	}
	for _, err := range []error{os.Link(w.src+"/a1", w.src+"/a2"), os.Link(w.src+"/b1", w.src+"/b2"), os.Chmod(w.src+"/b1", 0o600)} {
		w.Check(err)
	}
	settle()
	w.MustCapture("e", w.src)
	w.Restore("e", restore.Options{Under: enginetest.Under(w.src), Target: w.out})
	return w
}

func (w *linkWorld) options() restore.Options {
	return restore.Options{Under: enginetest.Under(w.src), Target: w.out, InPlace: true}
}

// relink makes a name of out another name of a file.
func (w *linkWorld) relink(old, name string) {
	w.T.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.T.Fatalf("%v", err)
	}
	w.Check(os.Link(old, name))
}

// restored restores in place, and demands the tree of the snapshot, and that
// nothing is left to be done. It returns the first result.
func (w *linkWorld) restored() *restore.Result {
	w.T.Helper()
	dry := w.options()
	dry.DryRun = true
	planned, first := w.Restore("e", dry), w.Restore("e", w.options())
	treetest.Equal(w.T, w.src, w.out, treetest.Options{})
	if planned.Created != first.Created || planned.Changed != first.Changed || planned.Metadata != first.Metadata || planned.Unchanged != first.Unchanged {
		w.T.Errorf("the dry run said %+v, the restore %+v", planned, first)
	}
	again := w.Restore("e", w.options())
	if again.Created+again.Changed+again.Metadata > 0 {
		w.T.Errorf("restored again: %+v", again)
	}
	return first
}

func TestHardLinks(t *testing.T) {
	t.Parallel()
	t.Run("in place", testHardLinksInPlace)
	t.Run("hard links of other nodes in place are those of the snapshot", testHardLinksOfOtherNodesInPlaceAreThoseOfTheSnapshot)
	t.Run("a link that the file system refuses is a file of its own", testALinkThatTheFileSystemRefusesIsAFileOfItsOwn)
	t.Run("a group of links that differ", testAGroupOfLinksThatDiffer)
	t.Run("a check of many hard links is clean", testACheckOfManyHardLinksIsClean)
}

func TestHardLinksSequentially(t *testing.T) {
	t.Run("random hard links in place end as the snapshot has them", testRandomHardLinksInPlaceEndAsTheSnapshotHasThem)
}

func testHardLinksInPlace(t *testing.T) {
	t.Parallel()
	run := func(name string, f func(t *testing.T, w *linkWorld)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newLinkWorld(t))
		})
	}

	run("that were merged are two files again", func(t *testing.T, w *linkWorld) {
		w.relink(w.out+"/a1", w.out+"/b1")
		w.relink(w.out+"/a1", w.out+"/b2")
		w.restored()
		if a, b := inode(t, w.out+"/a1"), inode(t, w.out+"/b2"); a.Ino == b.Ino || a.Mode&0o777 != 0o644 || b.Mode&0o777 != 0o600 {
			t.Errorf("inodes %d %d, modes %o %o", a.Ino, b.Ino, a.Mode, b.Mode)
		}
	})
	run("that were merged with equal metadata are two files again", func(t *testing.T, w *linkWorld) {
		w.relink(w.out+"/a1", w.out+"/one")
		before := inode(t, w.out+"/a1")
		if r := w.restored(); r.Changed != 1 {
			t.Errorf("%+v", r)
		}
		if a := inode(t, w.out+"/a1"); a.Ino != before.Ino {
			t.Error("the first one, in the order of paths, did not keep the inode")
		}
		if a, one := inode(t, w.out+"/a2"), inode(t, w.out+"/one"); a.Ino == one.Ino || a.Nlink != 2 || one.Nlink != 1 {
			t.Errorf("a1 and a2 are inode %d with %d names, one is %d with %d", a.Ino, a.Nlink, one.Ino, one.Nlink)
		}
	})
	run("that were split are one file again", func(t *testing.T, w *linkWorld) {
		w.Check(os.Remove(w.out + "/a2"))
		write(t, w.out+"/a2", "content")
		w.restored()
	})
	run("of a name that is missing are made", func(t *testing.T, w *linkWorld) {
		w.Check(os.Remove(w.out + "/a1"))
		w.restored()
	})
	run("of which all names are there get metadata without being written anew", func(t *testing.T, w *linkWorld) {
		before := inode(t, w.out+"/a1")
		w.Check(os.Chmod(w.out+"/a1", 0o666))
		if r := w.restored(); r.Changed != 0 || r.Metadata != 1 {
			t.Errorf("%+v", r)
		}
		if after := inode(t, w.out+"/a1"); after.Ino != before.Ino {
			t.Error("it was written anew")
		}
	})
	run("with a name outside of the target change nothing there", func(t *testing.T, w *linkWorld) {
		for _, name := range []string{"a1", "one"} {
			w.relink(w.out+"/"+name, w.outside+"/"+name)
			w.Check(os.Chmod(w.outside+"/"+name, 0o666))
		}
		before := treetest.Snapshot(t, w.outside)
		w.restored()
		before.Equal(t, w.outside, treetest.Options{})
		if in, out := inode(t, w.out+"/a2"), inode(t, w.outside+"/a1"); in.Ino == out.Ino || out.Nlink != 1 {
			t.Errorf("inodes %d, outside %d with %d names", in.Ino, out.Ino, out.Nlink)
		}
	})
	run("with a name outside of the target stay when nothing has to change", func(t *testing.T, w *linkWorld) {
		w.relink(w.out+"/a1", w.outside+"/a1")
		w.relink(w.out+"/one", w.outside+"/one")
		if r := w.restored(); r.Changed > 0 {
			t.Errorf("%+v", r)
		}
	})
	run("of which a part is asked for leave the others alone", func(t *testing.T, w *linkWorld) {
		w.Check(os.Chmod(w.out+"/a1", 0o640))
		o := w.options()
		o.Under, o.Target = o.Under+"/a2", w.out+"/a2"
		w.Restore("e", o)
		if one, two := inode(t, w.out+"/a1"), inode(t, w.out+"/a2"); one.Mode&0o777 != 0o640 || two.Mode&0o777 != 0o644 || one.Ino == two.Ino {
			t.Errorf("modes %o %o, inodes %d %d", one.Mode, two.Mode, one.Ino, two.Ino)
		}
	})
	run("of other content are replaced", func(t *testing.T, w *linkWorld) {
		w.Check(os.WriteFile(w.out+"/a1", []byte("changed"), 0o644))
		w.relink(w.out+"/a1", w.outside+"/a")
		w.restored()
		if b, err := os.ReadFile(w.outside + "/a"); err != nil || string(b) != "changed" {
			t.Errorf("outside: %q, %v", b, err)
		}
	})
}

func testHardLinksOfOtherNodesInPlaceAreThoseOfTheSnapshot(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	src, out, outside := treetest.TempDir(t), treetest.TempDir(t), treetest.TempDir(t)
	for _, err := range []error{unix.Mkfifo(src+"/a1", 0o600), os.Link(src+"/a1", src+"/a2"), unix.Mkfifo(src+"/b", 0o640), os.Symlink("x", src+"/c1"), unix.Linkat(unix.AT_FDCWD, src+"/c1", unix.AT_FDCWD, src+"/c2", 0)} {
		w.Check(err)
	}
	settle()
	w.MustCapture("e", src)
	o := restore.Options{Under: enginetest.Under(src), Target: out}
	w.Restore("e", o)
	o.InPlace = true

	for _, err := range []error{os.Remove(out + "/b"), os.Link(out+"/a1", out+"/b"), os.Link(out+"/a1", outside+"/a"), os.Chmod(out+"/a1", 0o622)} {
		w.Check(err)
	}
	before := treetest.Snapshot(t, outside)
	w.Restore("e", o)
	treetest.Equal(t, src, out, treetest.Options{})
	before.Equal(t, outside, treetest.Options{})
	if again := w.Restore("e", o); again.Changed+again.Created > 0 {
		t.Errorf("restored again: %+v", again)
	}
}

// Random files in random groups, linked again at random, with each other and
// with names outside.
func testRandomHardLinksInPlaceEndAsTheSnapshotHasThem(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := enginetest.New(rt, storagetest.NewMemory())
		src, out, outside := treetest.TempDir(rt), treetest.TempDir(rt), treetest.TempDir(rt)
		const names = 12
		name := func(i int) string { return fmt.Sprintf("d%d/f%02d", i%3, i) }
		content := func() []byte { return []byte(rapid.SampledFrom([]string{"", "one", "two"}).Draw(rt, "content")) }
		mode := func() os.FileMode { return rapid.SampledFrom([]os.FileMode{0o600, 0o644}).Draw(rt, "mode") }
		for i := range 3 {
			w.Check(os.Mkdir(fmt.Sprintf("%s/d%d", src, i), 0o755))
		}
		for i := range names {
			if other := rapid.IntRange(0, 2*names).Draw(rt, "group"); other < i {
				w.Check(os.Link(filepath.Join(src, name(other)), filepath.Join(src, name(i))))
				continue
			}
			w.Check(os.WriteFile(filepath.Join(src, name(i)), content(), mode()))
		}
		settle()
		w.MustCapture("e", src)
		o := restore.Options{Under: enginetest.Under(src), Target: out}
		w.Restore("e", o)

		o.InPlace = true
		for range rapid.IntRange(1, 10).Draw(rt, "changes") {
			at := filepath.Join(out, name(rapid.IntRange(0, names-1).Draw(rt, "name")))
			switch rapid.IntRange(0, 4).Draw(rt, "change") {
			case 0:
				os.Remove(at)
			case 1:
				other := filepath.Join(out, name(rapid.IntRange(0, names-1).Draw(rt, "other")))
				if _, err := os.Lstat(other); err == nil && other != at {
					os.Remove(at)
					w.Check(os.Link(other, at))
				}
			case 2:
				os.Link(at, filepath.Join(outside, fmt.Sprint(rapid.IntRange(0, 5).Draw(rt, "outside"))))
			case 3:
				os.Chmod(at, mode())
			case 4:
				w.Check(os.WriteFile(at, content(), 0o644))
			}
		}
		before := treetest.Snapshot(rt, outside)
		dry := o
		dry.DryRun = true
		w.Restore("e", dry)
		w.Restore("e", o)
		treetest.Equal(rt, src, out, treetest.Options{})
		before.Equal(rt, outside, treetest.Options{})
		if again := w.Restore("e", o); again.Created+again.Changed+again.Metadata > 0 {
			rt.Errorf("restored again: %+v", again)
		}
	})
}

func testALinkThatTheFileSystemRefusesIsAFileOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newLinkWorld(t)
	disk := treetest.Disk(t, 32<<20, "mkfs.ext4", "-q") // in memory there is no limit
	w.out, w.outside = disk+"/out", disk+"/outside"
	w.Check(os.Mkdir(w.outside, 0o755))
	w.Restore("e", w.options())
	w.Check(os.Remove(w.out + "/a2"))
	full := false
	for i := 0; i < 70_000 && !full; i++ {
		err := os.Link(w.out+"/a1", filepath.Join(w.outside, fmt.Sprint(i)))
		if full = errors.Is(err, unix.EMLINK); !full {
			w.Check(err)
		}
	}
	if !full {
		t.Fatal("ext4 allows more names than are tried here")
	}

	created := uint64(1)
	for range 2 { // the second time there is nothing to do
		res, err := w.TryRestore("e", w.options())
		w.Check(err)
		if len(res.Problems) != 1 || res.Problems[0].Path != enginetest.Under(w.src)+"/a2" || !strings.Contains(res.Problems[0].Err.Error(), "too many links") || !errors.Is(res.Problems[0].Err, unix.EMLINK) {
			t.Errorf("the problems are %v", res.Problems)
		}
		if !res.Complete() || res.Unfinished || res.Created != created || res.Changed+res.Metadata > 0 {
			t.Errorf("the result says %+v", res)
		}
		created = 0
		if a1, a2, one := inode(t, w.out+"/a1"), inode(t, w.out+"/a2"), inode(t, w.out+"/one"); a1.Ino == a2.Ino || a2.Nlink != 1 || a2.Mode != a1.Mode || a2.Mtim != one.Mtim {
			t.Errorf("a1 is %+v, a2 %+v", a1, a2)
		}
		if b, err := os.ReadFile(w.out + "/a2"); err != nil || string(b) != "content" {
			t.Errorf("a2 holds %q, %v", b, err)
		}
	}
}

func testAGroupOfLinksThatDiffer(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	contents := map[string]string{"a": "one", "b": "one", "c": "two", "d": "two", "e": "longer"}
	entries := []*manifest.Entry{folder("")}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		entries = append(entries, linked(file(name), 7))
	}
	entries = append(entries, linked(symlink("f", "x"), 9), linked(symlink("g", "y"), 9), linked(file("h"), 11), linked(file("i"), 11), linked(file("j"), 11), linked(file("k"), 13), linked(file("l"), 13))
	entries[len(entries)-3].Mode = 0o600
	entries[len(entries)-1].Xattrs = []manifest.Xattr{{Name: "user.of", Value: []byte("l")}}
	for _, name := range []string{"h", "i", "j", "k", "l"} {
		contents[name] = "same"
	}
	forge(w, entries, contents)

	for _, how := range []string{"a new directory", "in place"} {
		t.Run("is restored as files of their own, and named, to "+how, func(t *testing.T) {
			w := on(t, w)
			out := treetest.TempDir(t)
			if how == "in place" {
				for _, name := range []string{"a", "b", "c"} {
					write(t, filepath.Join(out, name), "other")
				}
			}
			res, err := w.TryRestore("e", restore.Options{Target: out, InPlace: how == "in place"})
			w.Check(err)
			for name, want := range contents {
				if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != want {
					t.Errorf("%s: %q, %v", name, b, err)
				}
			}
			for name, target := range map[string]string{"f": "x", "g": "y"} {
				if got, err := os.Readlink(filepath.Join(out, name)); err != nil || got != target {
					t.Errorf("%s leads to %q, %v", name, got, err)
				}
			}
			var named []string
			for _, p := range res.Problems {
				named = append(named, p.Path)
			}
			if slices.Sort(named); !slices.Equal(named, []string{"a", "c", "d", "e", "f", "g", "h", "j", "k", "l"}) {
				t.Errorf("named are %q", named)
			}
			if inode(t, out+"/a").Ino != inode(t, out+"/b").Ino || inode(t, out+"/h").Ino != inode(t, out+"/i").Ino {
				t.Error("what is equal is not linked")
			}
			if i, j := inode(t, out+"/i"), inode(t, out+"/j"); i.Mode&0o777 != 0o644 || j.Mode&0o777 != 0o600 {
				t.Errorf("the modes are %o and %o", i.Mode, j.Mode)
			}
			if res.Damaged || res.Unfinished || !res.Complete() || res.Restored.Files != 10 || res.Restored.Others != 2 {
				t.Errorf("the result says %+v", res)
			}
		})
	}

	t.Run("is a note of a check, with its names", func(t *testing.T) {
		w := on(t, w)
		report, err := check.Run(w.Ctx, w.Bare(), check.Options{})
		w.Check(err)
		if len(report.Damage) > 0 || len(report.Notes) != 1 {
			t.Fatalf("check: %+v, notes %q", report.Damage, report.Notes)
		}
		if want := "hard links of e@1: 10 entries differ in content or metadata, though its list has them as names of one file: a restore writes each of them as a file of its own (/a, /c, /d, /e, /f, /g, /h, /j, /k, /l)"; report.Notes[0] != want {
			t.Errorf("the note is %q", report.Notes[0])
		}
	})
}

// Groups of a real tree, in many segments, of several snapshots, are as they
// should be.
func testACheckOfManyHardLinksIsClean(t *testing.T) {
	t.Parallel()
	src := wide(t)
	w := enginetest.New(t, storagetest.NewMemory())
	for i := range 50 {
		w.Check(os.Link(filepath.Join(src, fmt.Sprintf("directory-%02d/file-001", i)), filepath.Join(src, fmt.Sprintf("directory-%02d/other", (i+7)%60))))
	}
	for i := range 3 {
		write(t, filepath.Join(src, "directory-30", "file-060"), fmt.Sprint(i))
		w.MustCapture("e", src)
	}
	w.Clean()
}
