package posix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

func TestFlags(t *testing.T) {
	t.Run("inode flags", testInodeFlags)
	t.Run("file systems", fileSystems)
}

func testInodeFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(t *testing.T, name string) int {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { posix.SetInodeFlags(fd, 0); unix.Close(fd) })
		if _, ok, err := posix.InodeFlags(fd); err != nil {
			t.Fatal(err)
		} else if !ok {
			t.Skip("the file system of the temporary directory has no inode flags")
		}
		return fd
	}
	const immutable, appendOnly, noDump, noAccessTime, journal = 0x10, 0x20, 0x40, 0x80, 0x4000

	t.Run("are set as they were read, and no others", func(t *testing.T) {
		fd := open(t, "plain")
		for _, want := range []uint32{noDump | noAccessTime, noAccessTime, 0} {
			if err := posix.SetInodeFlags(fd, want); err != nil {
				t.Fatal(err)
			}
			if got, _, err := posix.InodeFlags(fd); err != nil || got != want {
				t.Errorf("flags %q, not %q (%v)", posix.FlagLetters(got), posix.FlagLetters(want), err)
			}
		}
	})

	t.Run("replace those that forbid changes", func(t *testing.T) {
		fd := open(t, "locked")
		for _, want := range []uint32{immutable, immutable | noDump, appendOnly | immutable, noDump, 0} {
			err := posix.SetInodeFlags(fd, want)
			if want != 0 && os.Geteuid() != 0 {
				t.Skip("immutable files take root")
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _, err := posix.InodeFlags(fd); err != nil || got != want {
				t.Errorf("flags %q, not %q (%v)", posix.FlagLetters(got), posix.FlagLetters(want), err)
			}
		}
	})

	t.Run("that a file system does not have are named, and the others set", func(t *testing.T) {
		fd := open(t, "refused")
		if err := posix.SetInodeFlags(fd, journal); err == nil {
			t.Skip("this file system has all flags")
		}
		err := posix.SetInodeFlags(fd, journal|noDump)
		if err == nil || !strings.Contains(err.Error(), "flags j ") {
			t.Errorf("error: %v", err)
		}
		if got, _, err := posix.InodeFlags(fd); err != nil || got != noDump {
			t.Errorf("flags %q (%v)", posix.FlagLetters(got), err)
		}
	})

	apply := func(t *testing.T, fd int, o posix.ApplyOptions, e inode.Metadata) {
		t.Helper()
		e.Type, e.Mode, e.UID, e.GID = inode.File, 0o600, uint32(os.Geteuid()), uint32(os.Getegid())
		for _, p := range posix.NewApplier(o).Apply(fd, e) {
			t.Errorf("%v", p)
		}
	}
	t.Run("are applied with other metadata, but for those that forbid changes", func(t *testing.T) {
		for name, test := range map[string]struct {
			exact      bool
			have, want uint32
			incomplete bool
			end        uint32
		}{
			"to a new file":                         {false, 0, noDump, false, noDump},
			"to a new file that inherits others":    {false, noAccessTime, noDump, false, noDump | noAccessTime},
			"to a new file, that is to be locked":   {false, 0, noDump | immutable, false, noDump},
			"none to a new file that inherits some": {false, noAccessTime, 0, false, noAccessTime},
			"exactly":                               {true, noAccessTime, noDump, false, noDump},
			"exactly none":                          {true, noAccessTime, 0, false, 0},
			"to a file that is locked":              {true, immutable | noDump, appendOnly | noAccessTime, false, noAccessTime},
			"of metadata that may lack some":        {true, noAccessTime, noDump, true, noDump | noAccessTime},
		} {
			t.Run(name, func(t *testing.T) {
				if os.Geteuid() != 0 && (test.have|test.want)&posix.LockingFlags != 0 {
					t.Skip("immutable files take root")
				}
				fd := open(t, strings.ReplaceAll(name, " ", "-"))
				if err := posix.SetInodeFlags(fd, test.have); err != nil {
					t.Fatal(err)
				}
				e := inode.Metadata{Flags: test.want, Incomplete: test.incomplete, Mtime: inode.Time{Sec: 1_000_000_000}}
				apply(t, fd, posix.ApplyOptions{Exact: test.exact}, e)
				if got, _, err := posix.InodeFlags(fd); err != nil || got != test.end {
					t.Errorf("flags %q, not %q (%v)", posix.FlagLetters(got), posix.FlagLetters(test.end), err)
				}
				if st, err := posix.StatFd(fd); err != nil || st.Mtime != e.Mtime || st.Mode != 0o600 {
					t.Errorf("%+v, %v", st, err)
				}
				if p := posix.Protect(fd, e.Flags); p != nil {
					t.Error(p)
				}
				want := test.end | test.want&posix.LockingFlags
				if got, _, err := posix.InodeFlags(fd); err != nil || got != want {
					t.Errorf("protected: flags %q, not %q (%v)", posix.FlagLetters(got), posix.FlagLetters(want), err)
				}
			})
		}
	})

	t.Run("are taken away where they forbid changes", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("immutable files take root")
		}
		fd := open(t, "to-unlock")
		for _, locked := range []uint32{0, immutable, appendOnly, immutable | appendOnly} {
			if err := posix.SetInodeFlags(fd, locked|noDump); err != nil {
				t.Fatal(err)
			}
			if did, err := posix.Unlock(fd); err != nil || did != (locked != 0) {
				t.Errorf("%v, %v", did, err)
			}
			if got, _, err := posix.InodeFlags(fd); err != nil || got != noDump {
				t.Errorf("flags %q (%v)", posix.FlagLetters(got), err)
			}
		}
	})

	t.Run("are none where the file system has none", func(t *testing.T) {
		fd, err := unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skip(err)
		}
		defer unix.Close(fd)
		if flags, ok, err := posix.InodeFlags(fd); flags != 0 || ok || err != nil {
			t.Errorf("flags %q, %v, %v", posix.FlagLetters(flags), ok, err)
		}
		if err := posix.SetInodeFlags(fd, noDump); err == nil {
			t.Error("they were set")
		}
	})
}

func fileSystems(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]posix.FileSystem{"/proc/self": posix.ProcOrSys, "/sys": posix.ProcOrSys, "/dev/pts": posix.Kernel, "/dev/shm": posix.Local} {
		t.Run(strings.ReplaceAll(path[1:], "/", "-"), func(t *testing.T) {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Skip(err)
			}
			defer unix.Close(fd)
			st, err := posix.StatFd(fd)
			if err != nil {
				t.Fatal(err)
			}
			var volumes posix.Volumes
			if got := volumes.Of(fd, st.Dev).Kind(); got != want {
				t.Errorf("%v, not %v", got, want)
			}
		})
	}
}
