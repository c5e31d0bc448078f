package userdir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

const somebody = 54321

// world is a directory of somebody, and a file and a directory of root's beside
// it.
type world struct {
	top, file, dir string
	userdir.Dir
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	base := t.TempDir()
	w := &world{top: filepath.Join(base, "top"), file: filepath.Join(base, "file"), dir: filepath.Join(base, "dir")}
	w.Dir = userdir.At(w.top).In("a")
	for _, err := range []error{
		os.MkdirAll(w.String(), 0o700), os.Mkdir(w.dir, 0o700), os.WriteFile(w.file, []byte("root's"), 0o600), os.WriteFile(filepath.Join(w.dir, "name"), []byte("root's"), 0o600),
		os.Chown(w.top, somebody, somebody), os.Chown(w.String(), somebody, somebody),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// untouched demands that what is root's is as it was.
func (w *world) untouched(t *testing.T) {
	t.Helper()
	for path, mode := range map[string]fs.FileMode{w.file: 0o600, w.dir: 0o700 | fs.ModeDir, filepath.Join(w.dir, "name"): 0o600} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != 0 || info.Mode() != mode {
			t.Errorf("%s is now %v of %d:%d", path, info.Mode(), st.Uid, st.Gid)
		}
		if info.IsDir() {
			names, err := os.ReadDir(path)
			if err != nil || len(names) != 1 {
				t.Errorf("%s now holds %v, %v", path, names, err)
			}
			continue
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "root's" {
			t.Errorf("%s now says %q, %v", path, b, err)
		}
	}
}

func TestUserDir(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"what root makes belongs to the owner from the first moment":    whatRootMakesIsTheOwnersFromTheFirstMoment,
		"nothing in the directory of another user leads root out of it": nothingInAnothersDirectoryLeadsRootOut,
		"root in its own directory is root":                             rootInItsOwnDirectoryIsRoot,
	} {
		t.Run(name, test)
	}
}

func whatRootMakesIsTheOwnersFromTheFirstMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.In("b", "c")
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	f, err := d.CreateTemp("temp-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.Replace("name", []byte("content")); err != nil {
		t.Fatal(err)
	}
	if b, err := d.ReadFile("name"); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if err := d.ReplaceUnsynced("name", []byte("newer")); err != nil {
		t.Fatal(err)
	}
	if b, err := d.ReadFile("name"); err != nil || string(b) != "newer" {
		t.Errorf("%q, %v", b, err)
	}
	names, err := d.Names()
	if err != nil || len(names) != 2 {
		t.Errorf("names %v, %v", names, err)
	}
	for _, path := range []string{w.Path("b"), d.String(), d.Path("name"), f.Name()} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != somebody || st.Gid != somebody || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v of %d:%d", path, info.Mode(), st.Uid, st.Gid)
		}
	}
	// Nothing of that stays with the process.
	for range 50 {
		if err := os.WriteFile(w.file, []byte("root's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func nothingInAnothersDirectoryLeadsRootOut(t *testing.T) {
	t.Parallel()
	plants := map[string]func(w *world, at string) error{
		"a link to a file":       func(w *world, at string) error { return os.Symlink(w.file, at) },
		"a link to a directory":  func(w *world, at string) error { return os.Symlink(w.dir, at) },
		"a link to a free name":  func(w *world, at string) error { return os.Symlink(filepath.Join(w.dir, "new"), at) },
		"another name of a file": func(w *world, at string) error { return os.Link(w.file, at) },
		"a named pipe": func(w *world, at string) error {
			return errors.Join(unix.Mkfifo(at, 0o600), os.Chown(at, somebody, somebody))
		},
		"a directory": func(w *world, at string) error {
			return errors.Join(os.Mkdir(at, 0o700), os.Chown(at, somebody, somebody))
		},
		"a directory of root's":    func(w *world, at string) error { return os.Mkdir(at, 0o700) },
		"a file without any right": func(w *world, at string) error { return os.WriteFile(at, nil, 0) },
	}
	uses := map[string]func(d userdir.Dir) error{
		"read":   func(d userdir.Dir) error { _, err := d.ReadFile("name"); return err },
		"write":  func(d userdir.Dir) error { return opened(d.OpenFile("name", os.O_RDWR|os.O_CREATE)) },
		"append": func(d userdir.Dir) error { return opened(d.OpenFile("name", os.O_WRONLY|os.O_CREATE|os.O_APPEND)) },
		"below":  func(d userdir.Dir) error { return errors.Join(d.In("name").Make(), d.In("name").Replace("name", nil)) },
		"times":  func(d userdir.Dir) error { return d.Chtimes("name", time.Now(), time.Now()) },
		"delete": func(d userdir.Dir) error { return d.In("name", "name").RemoveAll() },
	}
	for plant, make := range plants {
		for use, try := range uses {
			t.Run(use+" "+plant, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if err := make(w, w.Path("name")); err != nil {
					t.Fatal(err)
				}

				// What is the owner's own may be used.
				fine := plant == "a directory" && (use == "below" || use == "times" || use == "delete") || plant == "a named pipe" && use == "times"
				err := try(w.Dir)
				if fine != (err == nil) {
					t.Errorf("error %v", err)
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !(strings.Contains(err.Error(), w.Path("name")) && strings.Contains(err.Error(), "ls -la")) {
					t.Errorf("the error does not name the place and a way: %v", err)
				}
				w.untouched(t)

				// A file that is written again takes the place of what is there.
				if err := w.Replace("name", []byte("new")); err != nil && !strings.Contains(plant, "a directory") {
					t.Errorf("replace: %v", err)
				}
				w.untouched(t)
				if err := w.ReplaceUnsynced("name", []byte("newer")); err != nil && !strings.Contains(plant, "a directory") {
					t.Errorf("replace without a sync: %v", err)
				}
				w.untouched(t)
			})
		}
	}
}

func opened(f *os.File, err error) error {
	if err != nil {
		return err
	}
	_, err = f.WriteString("overwritten")
	return errors.Join(err, f.Close())
}

func rootInItsOwnDirectoryIsRoot(t *testing.T) {
	t.Parallel()
	d := userdir.At(filepath.Join(t.TempDir(), "new")).In("a")
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	if err := d.Replace("name", []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat("name")
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		t.Errorf("%v, %v", info, err)
	}
	if err := errors.Join(d.RemoveAll(), d.RemoveAll()); err != nil {
		t.Error(err)
	}
	if _, err := d.ReadFile("name"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := userdir.At("").In("a").ReadFile("name"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
