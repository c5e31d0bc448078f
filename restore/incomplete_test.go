package restore_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/manifest"
	"knowngood/storage/storagetest"
)

func unread(e *manifest.Entry) *manifest.Entry { e.Flags = manifest.ContentUnread; return e }

func TestIncomplete(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 127)
	taken := map[string]string{"d/a": "a in part", "d/a.incomplete": "captured", "d/b": "b in part", "d/" + long: "long in part", "d/" + long[2:] + "x": "other"}
	w := enginetest.New(t, storagetest.NewMemory())
	forge(w, []*manifest.Entry{folder(""), folder("d"), unread(file("d/a")), file("d/a.incomplete"), unread(file("d/b")), unread(file("d/" + long[2:] + "x")), unread(file("d/" + long))}, taken)

	// restored restores, and demands that what was read is in these files, and
	// that a dry run named them, too.
	restored := func(t *testing.T, o restore.Options, want map[string]string) {
		t.Helper()
		w := on(t, w)
		dry := o
		dry.DryRun, dry.WithIncomplete, o.WithIncomplete = true, true, true
		planned, err := w.TryRestore("e", dry)
		w.Check(err)
		res, err := w.TryRestore("e", o)
		w.Check(err)
		named := map[string]string{}
		for _, p := range res.Parts {
			named[p.File] = p.Path
			b, err := os.ReadFile(p.File)
			if w.Check(err); string(b) != taken[p.Path] {
				t.Errorf("%s holds %q, want what was read of %s", p.File, b, p.Path)
			}
		}
		if len(named) != len(want) || res.PartCount != uint64(len(want)) {
			t.Errorf("named are %v, want %v", res.Parts, want)
		}
		for file, path := range want {
			if named[file] != path {
				t.Errorf("%s is named as %q, want %q", file, named[file], path)
			}
		}
		byFile := func(a, b restore.Part) int { return strings.Compare(a.File, b.File) }
		if slices.SortFunc(res.Parts, byFile); !slices.Equal(slices.SortedFunc(slices.Values(planned.Parts), byFile), res.Parts) {
			t.Errorf("the dry run named %v, the restore %v", planned.Parts, res.Parts)
		}
		for _, r := range []*restore.Result{planned, res} {
			if r.Incomplete != uint64(len(want)) || r.Count != r.Incomplete || r.Restored.Files != r.Planned.Files-r.Incomplete {
				t.Errorf("the result says %+v", r)
			}
		}
	}
	all := func(out string) map[string]string {
		return map[string]string{
			out + "/a.incomplete-2": "d/a", out + "/b.incomplete": "d/b",
			out + "/" + long[:2*122] + ".incomplete": "d/" + long[2:] + "x", out + "/" + long[:2*121] + ".incomplete-2": "d/" + long,
		}
	}

	t.Run("is written under a name that nothing has, and again", func(t *testing.T) {
		out := treetest.TempDir(t)
		o := restore.Options{Under: "d", Target: out}
		restored(t, o, all(out))
		before := treetest.Snapshot(t, out)
		o.InPlace, o.Delete = true, true
		restored(t, o, all(out))
		before.Equal(t, out, treetest.Options{})
		noParts(t, out)
	})
	t.Run("is written beside what somebody else has there", func(t *testing.T) {
		out := treetest.TempDir(t)
		write(t, out+"/b.incomplete", "b in parT")
		on(t, w).Check(os.Symlink("/nowhere", out+"/b.incomplete-2"))
		on(t, w).Check(os.Mkdir(out+"/b.incomplete-3", 0o755))
		want := all(out)
		delete(want, out+"/b.incomplete")
		want[out+"/b.incomplete-4"] = "d/b"
		for range 2 {
			restored(t, restore.Options{Under: "d", Target: out, InPlace: true}, want)
		}
		if b, err := os.ReadFile(out + "/b.incomplete"); err != nil || string(b) != "b in parT" {
			t.Errorf("b.incomplete: %q, %v", b, err)
		}
	})
	t.Run("of a single file is written beside it", func(t *testing.T) {
		dir := treetest.TempDir(t)
		write(t, dir+"/mine", "mine")
		restored(t, restore.Options{Under: "d/b", Target: dir + "/new"}, map[string]string{dir + "/new.incomplete": "d/b"})
		restored(t, restore.Options{Under: "d/b", Target: dir}, map[string]string{dir + "/b.incomplete": "d/b"})
		restored(t, restore.Options{Under: "d/b", Target: dir + "/mine", InPlace: true}, map[string]string{dir + "/mine.incomplete": "d/b"})
		nothingLeft(t, dir, "new.incomplete", "b.incomplete", "mine", "mine.incomplete")
		if b, err := os.ReadFile(filepath.Join(dir, "mine")); err != nil || string(b) != "mine" {
			t.Errorf("mine: %q, %v", b, err)
		}
	})
}
