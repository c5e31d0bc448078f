package treetest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// specimen fills a directory with a fixed tree, with fixed times.
func specimen(t *testing.T) string {
	t.Helper()
	dir := TempDir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	must(os.MkdirAll(in("dir/sub"), 0o755))
	must(os.WriteFile(in("dir/sub/leaf"), []byte("leaf"), 0o644))
	must(os.WriteFile(in("file"), randomBytes(1, 200_000), 0o644))
	must(os.WriteFile(in("other"), []byte("other"), 0o644))
	must(os.Link(in("file"), in("dir/link")))
	must(os.Symlink("nowhere", in("symlink")))
	must(unix.Mkfifo(in("fifo"), 0o644))
	must(os.WriteFile(in("sparse"), nil, 0o644))
	must(os.Truncate(in("sparse"), 1<<20))
	must(unix.Lsetxattr(in("file"), "user.kept", []byte("value"), 0))
	settle(t, dir)
	return dir
}

// settle sets all times to one moment.
func settle(t *testing.T, dir string) {
	t.Helper()
	r, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	err = r.walk(func(_ string, dirfd int, name string, _ *unix.Stat_t) error {
		moment := unix.Timespec{Sec: 1_700_000_000, Nsec: 5}
		return unix.UtimesNanoAt(dirfd, name, []unix.Timespec{moment, moment}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCompare(t *testing.T) {
	t.Run("names exactly what differs", testCompareNamesExactlyWhatDiffers)
	t.Run("names a time", testCompareNamesATime)
	t.Run("names a device", testCompareNamesADevice)
	t.Run("options ignore only what they name", testOptionsIgnoreOnlyWhatTheySay)
	t.Run("a snapshot outlives what it shows", testASnapshotOutlivesWhatItShows)
}

func testCompareNamesExactlyWhatDiffers(t *testing.T) {
	type found struct {
		path string
		kind Kind
	}
	rewrite := func(path string, at int64) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		b[0]++
		_, err = f.WriteAt(b, at)
		return err
	}
	retype := func(path string, make func(string) error) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return make(path)
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o700) }
	for _, c := range []struct {
		name   string
		change func(in func(string) string) error
		want   []found
		root   bool
	}{
		{"nothing", func(func(string) string) error { return nil }, nil, false},
		{"a file is missing", func(in func(string) string) error { return os.Remove(in("other")) }, []found{{"other", Missing}}, false},
		{"one name of two is missing", func(in func(string) string) error { return os.Remove(in("file")) }, []found{{"file", Missing}}, false},
		{"a directory is missing with all in it", func(in func(string) string) error { return os.RemoveAll(in("dir")) }, []found{{"dir", Missing}}, false},
		{"a file is extra", func(in func(string) string) error { return os.WriteFile(in("dir/new"), nil, 0o600) }, []found{{"dir/new", Extra}}, false},
		{"a directory is extra with all in it", func(in func(string) string) error { return os.MkdirAll(in("new/er"), 0o700) }, []found{{"new", Extra}}, false},
		{"a name has another case", func(in func(string) string) error { return os.Rename(in("other"), in("Other")) }, []found{{"Other", Extra}, {"other", Missing}}, false},
		{"a file is a directory", func(in func(string) string) error { return retype(in("other"), mkdir) }, []found{{"other", TypeKind}}, false},
		{"a directory is a symlink", func(in func(string) string) error {
			return retype(in("dir/sub"), func(p string) error { return os.Symlink("x", p) })
		}, []found{{"dir/sub", TypeKind}, {"dir/sub/leaf", Missing}}, false},
		{"a fifo is a file", func(in func(string) string) error {
			return retype(in("fifo"), func(p string) error { return os.WriteFile(p, nil, 0o644) })
		}, []found{{"fifo", TypeKind}}, false},
		{"a mode", func(in func(string) string) error { return os.Chmod(in("other"), 0o640) }, []found{{"other", Mode}}, false},
		{"setuid", func(in func(string) string) error { return unix.Chmod(in("other"), 0o4644) }, []found{{"other", Mode}}, false},
		{"the mode of a directory", func(in func(string) string) error { return os.Chmod(in("dir"), 0o700) }, []found{{"dir", Mode}}, false},
		{"the mode of the root", func(in func(string) string) error { return os.Chmod(in(""), 0o711) }, []found{{"", Mode}}, false},
		{"an owner", func(in func(string) string) error { return os.Lchown(in("symlink"), 1234, -1) }, []found{{"symlink", Owner}}, true},
		{"a group", func(in func(string) string) error { return os.Lchown(in("fifo"), -1, 1234) }, []found{{"fifo", Owner}}, true},
		{"a byte", func(in func(string) string) error { return rewrite(in("other"), 2) }, []found{{"other", Content}}, false},
		{"the last byte of a file with two names", func(in func(string) string) error { return rewrite(in("file"), 199_999) },
			[]found{{"dir/link", Content}, {"file", Content}}, false},
		{"a size", func(in func(string) string) error { return os.Truncate(in("other"), 3) }, []found{{"other", Size}}, false},
		{"a target", func(in func(string) string) error {
			return retype(in("symlink"), func(p string) error { return os.Symlink("elsewhere", p) })
		}, []found{{"symlink", Target}}, false},
		{"the value of an xattr", func(in func(string) string) error { return unix.Lsetxattr(in("file"), "user.kept", []byte("Value"), 0) },
			[]found{{"dir/link", Xattr}, {"file", Xattr}}, false},
		{"an xattr of a directory is extra", func(in func(string) string) error { return unix.Lsetxattr(in("dir"), "user.new", nil, 0) }, []found{{"dir", Xattr}}, false},
		{"a capability", func(in func(string) string) error {
			return unix.Lsetxattr(in("other"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		}, []found{{"other", Xattr}}, true},
		{"an ACL", func(in func(string) string) error {
			b := &builder{choices: Seed(1)}
			return unix.Lsetxattr(in("dir"), "system.posix_acl_default", []byte(b.acl()), 0)
		}, []found{{"dir", Xattr}}, false},
		{"a hard link is a copy", func(in func(string) string) error {
			return retype(in("dir/link"), func(p string) error {
				if err := os.WriteFile(p, randomBytes(1, 200_000), 0o644); err != nil {
					return err
				}
				return unix.Lsetxattr(p, "user.kept", []byte("value"), 0)
			})
		}, []found{{"file", Links}}, false},
		{"two files are one", func(in func(string) string) error {
			if err := os.WriteFile(in("dir/sub/leaf"), []byte("other"), 0o644); err != nil {
				return err
			}
			return retype(in("other"), func(p string) error { return os.Link(in("dir/sub/leaf"), p) })
		}, []found{{"dir/sub/leaf", Size}, {"other", Links}}, false},
		{"a hole is filled", func(in func(string) string) error {
			f, err := os.OpenFile(in("sparse"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(make([]byte, 64<<10), 0)
			return err
		}, []found{{"sparse", HolesLost}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			a, b := specimen(t), specimen(t)
			if err := c.change(func(name string) string { return filepath.Join(b, name) }); err != nil {
				t.Fatal(err)
			}
			settle(t, b)
			got := Compare(t, a, b, Options{Holes: true})
			same := len(got) == len(c.want)
			for i := range min(len(got), len(c.want)) {
				same = same && got[i].Path == c.want[i].path && got[i].Kind == c.want[i].kind
			}
			if !same {
				t.Errorf("found %v, want %v", got, c.want)
			}
		})
	}
}

func testCompareNamesATime(t *testing.T) {
	for _, path := range []string{"", "dir", "file", "symlink", "fifo"} {
		a, b := specimen(t), specimen(t)
		moment := unix.Timespec{Sec: 1_700_000_000, Nsec: 6}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(b, path), []unix.Timespec{moment, moment}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		for _, d := range Compare(t, a, b, Options{}) {
			if d.Kind != Mtime || d.Path != path && d.Path != "dir/link" {
				t.Errorf("a nanosecond at %q: %v", path, d)
			}
		}
		if len(Compare(t, a, b, Options{})) == 0 {
			t.Errorf("a nanosecond at %q was not seen", path)
		}
	}
}

func testCompareNamesADevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	a, b := specimen(t), specimen(t)
	for i, dir := range []string{a, b} {
		err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(3+i))))
		if err != nil {
			t.Skipf("making a device: %v", err)
		}
		settle(t, dir)
	}
	if got := Compare(t, a, b, Options{}); len(got) != 1 || got[0].Kind != Device || got[0].Path != "null" {
		t.Errorf("found %v", got)
	}
}

func testOptionsIgnoreOnlyWhatTheySay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	a, b := specimen(t), specimen(t)
	for _, path := range []string{"", "other"} {
		if err := os.Lchown(filepath.Join(b, path), 1234, 5678); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(b, 0o711); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options Options
		want    int
	}{
		{Options{}, 3},
		{Options{IgnoreRoot: true}, 1},
		{Options{IgnoreOwners: true}, 1},
		{Options{IgnoreOwners: true, IgnoreRoot: true}, 0},
	} {
		if got := Compare(t, a, b, c.options); len(got) != c.want {
			t.Errorf("%+v: found %v, want %d differences", c.options, got, c.want)
		}
	}
}

func testASnapshotOutlivesWhatItShows(t *testing.T) {
	dir := specimen(t)
	before := Snapshot(t, dir)
	if err := Empty(dir); err != nil {
		t.Fatal(err)
	}
	got := before.Compare(Snapshot(t, dir), Options{IgnoreRoot: true})
	if len(got) != 6 {
		t.Errorf("found %v, want the 6 entries of the root missing", got)
	}
}
