package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

func TestRights(t *testing.T) {
	t.Run("a user restores into directories that refuse him", testAUserRestoresIntoDirectoriesThatRefuseHim)
}

// A user who restores into directories of his own gets into those that refuse
// him, and they have the right modes afterwards, whatever the end.
func testAUserRestoresIntoDirectoriesThatRefuseHim(t *testing.T) {
	if !enginetest.AsNobody(t) {
		return
	}
	w := enginetest.New(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	for _, name := range []string{"read-only/file", "read-only/sub/file", "read-only/lost", "closed/in/file", "closed/same", "unreadable"} {
		write(t, filepath.Join(src, name), "as it was: "+name)
	}
	w.Check(os.Link(src+"/read-only/file", src+"/read-only/link"))
	w.Check(os.Symlink("target", src+"/read-only/symlink"))
	w.Check(os.Chmod(src+"/read-only", 0o555))
	settle()
	w.MustCapture("e", src)
	out := treetest.TempDir(t)
	o := restore.Options{Under: enginetest.Under(src), Target: out}
	w.Restore("e", o)
	o.InPlace = true

	spoil := func(t *testing.T) {
		for _, err := range []error{
			os.Chmod(out+"/read-only", 0o755),
			os.WriteFile(out+"/read-only/file", []byte("changed"), 0o600),
			os.RemoveAll(out + "/read-only/lost"),
			os.RemoveAll(out + "/read-only/symlink"),
			os.MkdirAll(out+"/read-only/new/deep", 0o755),
			os.WriteFile(out+"/read-only/new/deep/file", nil, 0o600),
			os.WriteFile(out+"/closed/in/file", []byte("changed"), 0o600),
			os.WriteFile(out+"/unreadable", []byte("changed"), 0o600),
			os.Chmod(out+"/unreadable", 0),
			os.Chmod(out+"/read-only/new/deep", 0o111),
			os.Chmod(out+"/read-only/new", 0),
			os.Chmod(out+"/closed/in", 0o400),
			os.Chmod(out+"/closed", 0),
			os.Chmod(out+"/read-only/sub", 0o500),
			os.Chmod(out+"/read-only", 0o555),
			os.Chmod(out, 0o555),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}

	t.Run("and ends with the tree of the snapshot", func(t *testing.T) {
		w := on(t, w)
		spoil(t)
		o.Delete = true
		w.Restore("e", o)
		treetest.Equal(t, src, out, treetest.Options{})
		if again := w.Restore("e", o); again.Created+again.Changed+again.Deleted+again.Metadata > 0 {
			t.Errorf("restored again: %+v", again)
		}
	})

	t.Run("and a dry run changes no mode", func(t *testing.T) {
		spoil(t)
		dry := o
		dry.DryRun = true
		if _, err := on(t, w).TryRestore("e", dry); err != nil {
			t.Fatal(err)
		}
		for name, mode := range map[string]uint32{"closed": 0, "read-only": 0o555, "": 0o555} {
			if st := inode(t, filepath.Join(out, name)); st.Mode&0o7777 != mode {
				t.Errorf("%s: mode %o", name, st.Mode)
			}
		}
	})

	t.Run("and modes are given back when the restore fails", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		broken := on(t, w)
		broken.Ctx = ctx
		o := o
		o.Progress = &restore.Progress{Change: func(action, path string) {
			if filepath.Base(path) == "sub" { // of what comes before it, something was written
				cancel()
			}
		}}
		o.Progress.Problem = func(string, error) {}
		if _, err := broken.TryRestore("e", o); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
		for name, mode := range map[string]uint32{"closed": 0, "read-only": 0o555, "read-only/sub": 0o500, "": 0o555} {
			if st := inode(t, filepath.Join(out, name)); st.Mode&0o7777 != mode {
				t.Errorf("%s: mode %o", name, st.Mode)
			}
		}
		noParts(t, out+"/read-only/sub")
		w.Restore("e", o)
		treetest.Equal(t, src, out, treetest.Options{})
	})

	t.Run("and a target that refuses him is one of them", func(t *testing.T) {
		w := on(t, w)
		w.Check(os.Chmod(out+"/closed/in", 0o700))
		w.Check(os.WriteFile(out+"/closed/in/file", []byte("changed"), 0o600))
		w.Check(os.Chmod(out+"/closed", 0))
		o := restore.Options{Under: o.Under + "/closed", Target: out + "/closed", InPlace: true}
		w.Restore("e", o)
		treetest.Equal(t, src, out, treetest.Options{})
	})
}
