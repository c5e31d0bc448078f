package posix_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

// asUser calls do as a user whom the modes of files concern: on a thread of its
// own, which ends afterwards.
func asUser(uid int, do func() error) error {
	done := make(chan error)
	go func() {
		if os.Geteuid() == 0 { // else it is a user's already
			runtime.LockOSThread()
			if err := unix.Setfsuid(uid); err != nil {
				done <- err
				return
			}
		}
		done <- do()
	}()
	return <-done
}

func TestRemove(t *testing.T) {
	t.Run("remove all", removeAll)
	t.Run("chmod dir", chmodDir)
	t.Run("set mtime", testSetMtime)
}

func removeAll(t *testing.T) {
	const nobody = 65534
	t.Run("removes directories of the user that refuse him", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"closed/in", "read-only/in", "plain/read-only/in"} {
			must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, name, "file"), nil, 0o600))
		}
		for name, mode := range map[string]os.FileMode{"closed": 0, "read-only": 0o555, "plain/read-only": 0o500} {
			must(t, os.Chmod(filepath.Join(dir, name), mode))
		}
		if os.Geteuid() == 0 {
			must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, nobody, nobody))
			}))
		}

		fd := dirFD(t, dir)
		must(t, asUser(nobody, func() error {
			return errors.Join(posix.RemoveAll(fd, "closed"), posix.RemoveAll(fd, "read-only"), posix.RemoveAll(fd, "plain"))
		}))
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})

	t.Run("leaves what lies in another user's directory", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("making directories of another user takes root")
		}
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "root's"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "root's/file"), nil, 0o600))
		must(t, os.Chown(dir, nobody, nobody))

		fd := dirFD(t, dir)
		if err := asUser(nobody, func() error { return posix.RemoveAll(fd, "root's") }); !errors.Is(err, unix.EACCES) {
			t.Errorf("RemoveAll: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "root's/file")); err != nil {
			t.Error(err)
		}
	})
}

func chmodDir(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Symlink("d", filepath.Join(dir, "link")))

	fd := dirFD(t, dir)
	must(t, posix.ChmodDir(fd, "d", 0o1511))
	for _, name := range []string{"file", "link"} {
		if err := posix.ChmodDir(fd, name, 0o777); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, mode := range map[string]uint32{"d": 0o1511, "file": 0o600} {
		if st, err := posix.StatAt(fd, name); err != nil || st.Mode != mode {
			t.Errorf("%s: mode %o, %v", name, st.Mode, err)
		}
	}
}

func testSetMtime(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	want := inode.Time{Sec: 1_000_000_000, Nsec: 7}

	must(t, posix.SetMtime(int(f.Fd()), want))
	if st, err := posix.StatFd(int(f.Fd())); err != nil || st.Mtime != want {
		t.Errorf("mtime %v, %v", st.Mtime, err)
	}
}
