package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestDirectory(t *testing.T) {
	t.Run("keeps the contract", testADirectoryKeepsTheContract)
	t.Run("only create makes the directory", testOnlyCreateMakesTheDirectory)
	t.Run("objects are read only and nothing else is left", testObjectsAreReadOnlyAndNothingElseIsLeft)
	t.Run("a failed put leaves nothing", testAFailedPutLeavesNothing)
	t.Run("without hard links rename does not replace either", testWithoutHardLinksRenameDoesNotReplaceEither)
	t.Run("only old leftovers are removed", testOnlyOldLeftoversAreRemoved)
	t.Run("links cannot lead out", testLinksCannotLeadOut)
	t.Run("what is no object is not listed and does not block", testWhatIsNoObjectIsNotListedAndDoesNotBlock)
	t.Run("listing reads only directories it needs", testListingReadsOnlyDirectoriesItNeeds)
	t.Run("errors of the file system have meaning", testErrorsOfTheFileSystemHaveMeaning)
	t.Run("an object is no directory", testAnObjectIsNoDirectory)
	t.Run("a directory that was removed is made again", testADirectoryThatWasRemovedIsMadeAgain)
	t.Run("one that was replaced is used no more", testADirectoryThatWasReplacedIsUsedNoMore)
	t.Run("what root makes in a directory of another is theirs", testWhatRootMakesInADirectoryOfAnotherIsTheirs)
}

func testADirectoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return create(t, t.TempDir()) })
	storagetest.RunForeign(t, func(t *testing.T) (storage.Store, storagetest.Foreign) {
		path, outside := t.TempDir(), filepath.Join(t.TempDir(), "file")
		s := create(t, path)
		return s, storagetest.Foreign{
			Name: func(name string) error {
				if err := os.MkdirAll(filepath.Join(path, filepath.Dir(name)), 0o700); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(path, name), []byte("x"), 0o600)
			},
			Odd: map[string]func(key string) error{
				"a link that leads out": func(key string) error {
					return errors.Join(os.WriteFile(outside, []byte("content"), 0o600), os.Symlink(outside, filepath.Join(path, key)))
				},
				"a link that stays inside":   func(key string) error { return os.Symlink("a", filepath.Join(path, key)) },
				"a link that leads nowhere":  func(key string) error { return os.Symlink("none", filepath.Join(path, key)) },
				"a link to a directory":      func(key string) error { return os.Symlink("../o", filepath.Join(path, key)) },
				"a fifo":                     func(key string) error { return syscall.Mkfifo(filepath.Join(path, key), 0o600) },
				"a directory":                func(key string) error { return os.Mkdir(filepath.Join(path, key), 0o700) },
				"a directory of directories": func(key string) error { return os.MkdirAll(filepath.Join(path, key, "a", "b"), 0o700) },
			},
		}
	})
}

func testOnlyCreateMakesTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	if _, err := Open(path); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("open: %v, want ErrNoStore", err)
	}
	create(t, path)
	create(t, path) // what is there already is taken
	for _, p := range []string{path, filepath.Dir(path)} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, %v; want 0700", p, info.Mode(), err)
		}
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func(string) (*Store, error){Open, Create} {
		if _, err := open(file); !errors.Is(err, storage.ErrNoStore) {
			t.Errorf("open of a file: %v, want ErrNoStore", err)
		}
	}
}

func testObjectsAreReadOnlyAndNothingElseIsLeft(t *testing.T) {
	path := t.TempDir()
	s := create(t, path)
	put(t, s, "a/b/c", "body")
	_ = s.Put(t.Context(), "a/b/c", []byte("other"), storage.PutOptions{})
	info, err := os.Lstat(filepath.Join(path, "a/b/c"))
	if err != nil || info.Mode() != 0o400 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("the object is %v, %v; want one read-only name", info.Mode(), err)
	}
	if rest := names(t, filepath.Join(path, scratch)); len(rest) != 0 {
		t.Errorf("%v are left over", rest)
	}
}

func testAFailedPutLeavesNothing(t *testing.T) {
	path := t.TempDir()
	s := create(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Put(ctx, "a/b", make([]byte, 100_000), storage.PutOptions{Pace: func(context.Context, int) error {
		cancel()
		return nil
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want context.Canceled", err)
	}
	var left []string
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			left = append(left, p)
		}
		return nil
	})
	if len(left) != 0 {
		t.Errorf("%v are left over", left)
	}
}

func testWithoutHardLinksRenameDoesNotReplaceEither(t *testing.T) {
	path := t.TempDir()
	s := create(t, path)
	place := func(body string) error {
		temp, err := s.write(t.Context(), []byte(body), storage.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.rename(temp, "key")
	}
	if err := place("first"); err != nil {
		t.Fatal(err)
	}
	if err := place("second"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename to a name that is taken: %v, want fs.ErrExist", err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "key")); string(b) != "first" || err != nil {
		t.Errorf("the object has %q, %v", b, err)
	}
}

func testOnlyOldLeftoversAreRemoved(t *testing.T) {
	path := t.TempDir()
	temp := filepath.Join(path, scratch)
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour} {
		file := filepath.Join(temp, name)
		if err := os.WriteFile(file, nil, 0o400); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	s := create(t, path)
	if rest := names(t, temp); len(rest) != 2 {
		t.Errorf("opening removed something: %v are left", rest)
	}
	put(t, s, "k", "x")
	if rest := names(t, temp); !slices.Equal(rest, []string{"young"}) {
		t.Errorf("%v are left, want the young one", rest)
	}
}

func testLinksCannotLeadOut(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	for name, target := range map[string]string{"file": secret, "dir": outside, "up": "../" + filepath.Base(outside)} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := create(t, path)
	for _, key := range []string{"file", "dir/secret", "up/secret"} {
		if b, err := storage.Append(t.Context(), nil, s, key, 0, -1); len(b) > 0 || err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("get %s read %q, %v", key, b, err)
		}
		if err := s.Put(t.Context(), key, []byte("secret"), storage.PutOptions{}); err == nil {
			t.Errorf("put %s succeeded", key)
		}
	}
	for _, key := range []string{"dir/new", "up/new/deep"} {
		if err := s.Put(t.Context(), key, []byte("x"), storage.PutOptions{}); err == nil {
			t.Errorf("put %s succeeded", key)
		}
	}
	_ = s.Delete(t.Context(), "dir/secret")
	if rest := names(t, outside); !slices.Equal(rest, []string{"secret"}) {
		t.Errorf("outside there are %v", rest)
	}
	listed := ""
	for o, err := range s.List(t.Context(), storage.ListOptions{}) {
		if err != nil || o.Size > 0 {
			t.Errorf("listed %+v, %v", o, err)
		}
		listed += o.Key + " "
	}
	if listed != "dir file up " { // as objects without content
		t.Errorf("listed %s", listed)
	}
}

func testWhatIsNoObjectIsNotListedAndDoesNotBlock(t *testing.T) {
	path := t.TempDir()
	s := create(t, path)
	put(t, s, "a/key", "x")
	for _, name := range []string{"lost+found", "with space", "a/ü", ".hidden+"} {
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"empty", "dir+/deep"} {
		if err := os.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []storage.ListOptions{{}, {Delimiter: true}} {
		for object, err := range s.List(t.Context(), o) {
			if err != nil || strings.TrimSuffix(object.Key, "key") != "a/" {
				t.Errorf("listed %+v, %v", object, err)
			}
		}
	}
	for _, key := range []string{"a", "empty"} {
		if _, err := s.Get(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("get %s: %v, want ErrNotFound", key, err)
		}
	}
}

func testListingReadsOnlyDirectoriesItNeeds(t *testing.T) {
	for _, c := range []struct {
		o              storage.ListOptions
		reads, ignores []string
	}{
		{storage.ListOptions{}, []string{"a/", "b/c/"}, nil},
		{storage.ListOptions{Prefix: "b/c"}, []string{"b/", "b/c/", "b/cd/", "b/c/d/"}, []string{"a/", "b/d/", "b-/", "bc/"}},
		{storage.ListOptions{Prefix: "b/c/"}, []string{"b/", "b/c/"}, []string{"b/cd/", "b-/"}},
		{storage.ListOptions{After: "b/c/1"}, []string{"b/", "b/c/", "b/d/", "c/"}, []string{"a/", "b/b/", "b-/"}},
		{storage.ListOptions{Prefix: "b/", After: "b/c/1"}, []string{"b/", "b/c/", "b/d/"}, []string{"a/", "b/b/", "c/"}},
	} {
		l := listing{o: c.o}
		for _, dir := range c.reads {
			if !l.reaches(dir) {
				t.Errorf("%+v does not read %s", c.o, dir)
			}
		}
		for _, dir := range c.ignores {
			if l.reaches(dir) {
				t.Errorf("%+v reads %s", c.o, dir)
			}
		}
	}
}

func testErrorsOfTheFileSystemHaveMeaning(t *testing.T) {
	s := &Store{path: "/srv/repo"}
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: storage.ErrFull,
		syscall.EDQUOT: storage.ErrFull,
		syscall.EACCES: storage.ErrDenied,
		syscall.EPERM:  storage.ErrDenied,
		syscall.EROFS:  storage.ErrDenied,
	} {
		err := s.fail("put", "k", &os.PathError{Op: "write", Path: "k", Err: errno})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "file:///srv/repo") {
			t.Errorf("%v becomes %v, want %v", errno, err, want)
		}
	}
}

func testAnObjectIsNoDirectory(t *testing.T) {
	s := create(t, t.TempDir())
	put(t, s, "a", "x")
	if err := s.Put(t.Context(), "a/b", []byte("y"), storage.PutOptions{}); !errors.Is(err, storage.ErrInvalidKey) {
		t.Errorf("put below an object: %v, want ErrInvalidKey", err)
	}
	put(t, s, "c/d", "x")
	if err := s.Put(t.Context(), "c", []byte("y"), storage.PutOptions{}); !errors.Is(err, storage.ErrExists) {
		t.Errorf("put over a directory: %v, want ErrExists", err)
	}
}

func testADirectoryThatWasRemovedIsMadeAgain(t *testing.T) {
	path := t.TempDir()
	s := create(t, path)
	put(t, s, "a/b/c", "x")
	if err := os.RemoveAll(filepath.Join(path, "a")); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a/b/c", "y")
	r, err := s.Get(t.Context(), "a/b/c", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, []byte("y")) {
		t.Errorf("read %q, %v", b, err)
	}
}

func testADirectoryThatWasReplacedIsUsedNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "repo")
	s := create(t, path)
	put(t, s, "a", "x")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	for _, now := range []string{"gone", "replaced"} {
		_, get := s.Get(t.Context(), "a", 0, -1)
		var list error
		for _, list = range s.List(t.Context(), storage.ListOptions{}) {
		}
		for op, err := range map[string]error{
			"get": get, "list": list,
			"put":    s.Put(t.Context(), "b", []byte("y"), storage.PutOptions{}),
			"delete": s.Delete(t.Context(), "a"),
		} {
			if !errors.Is(err, storage.ErrNoStore) {
				t.Errorf("%s while it is %s: %v, want ErrNoStore", op, now, err)
			}
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if left := names(t, path+".away"); !slices.Equal(left, []string{scratch, "a"}) {
		t.Errorf("the directory that was moved away has %v", left)
	}
	if made := names(t, path); len(made) != 0 {
		t.Errorf("the new directory has %v", made)
	}

	// What is moved back is the store again.
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}
	put(t, s, "b", "y")
}

func BenchmarkPut(b *testing.B) {
	s, err := Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 16<<20)
	b.SetBytes(int64(len(body)))
	for i := 0; b.Loop(); i++ {
		key := "packs/" + strings.Repeat("x", i+1)
		if err := s.Put(b.Context(), key, body, storage.PutOptions{}); err != nil {
			b.Fatal(err)
		}
		if err := s.Delete(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}

func create(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(body), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func testWhatRootMakesInADirectoryOfAnotherIsTheirs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes things for others")
	}
	const somebody = 54321
	path := t.TempDir()
	if err := os.Chown(path, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	put(t, create(t, path), "a/b/key", "x")
	seen := 0
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if st := info.Sys().(*syscall.Stat_t); st.Uid != somebody || st.Gid != somebody {
			t.Errorf("%s belongs to %d:%d", p, st.Uid, st.Gid)
		}
		return nil
	})
	if err != nil || seen != 5 {
		t.Errorf("%d of 5 were seen, %v", seen, err)
	}
}
