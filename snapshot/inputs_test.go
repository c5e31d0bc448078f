package snapshot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/fusetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/history"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestInputs(t *testing.T) {
	t.Run("files that state no size", filesThatStateNoSize)
	t.Run("inode flags are captured", inodeFlagsAreCaptured)
	t.Run("sources record how they were reached", sourcesRecordHowTheyWereReached)
	t.Run("kernel file systems are recorded as not entered", kernelFileSystemsAreRecordedAsNotEntered)
	t.Run("without proc nothing is captured or restored", withoutProcNothingIsCapturedOrRestored)
}

func filesThatStateNoSize(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"of proc": "/proc/sys/kernel/ostype", "of sysfs": "/sys/kernel/mm/transparent_hugepage/enabled"} {
		t.Run(name+" are captured with what they hold", func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(path)
			if err != nil || len(want) == 0 {
				t.Skipf("%s: %q, %v", path, want, err)
			}
			w := enginetest.New(t, storagetest.NewMemory())
			res := w.MustCapture("e", path)
			if got := captured(w, path); got != string(want) || res.Bytes != uint64(len(want)) {
				t.Errorf("captured %q, %d bytes", got, res.Bytes)
			}
			settle()
			if again := w.MustCapture("e", path); again.Read != 1 {
				t.Error("its time stamps are believed, which say nothing")
			}
		})
	}

	t.Run("of FUSE are captured with what they hold", func(t *testing.T) {
		w := enginetest.New(t, storagetest.NewMemory())
		back := treetest.TempDir(t)
		content := random(1, 300<<10)
		write(t, filepath.Join(back, "hidden"), content)
		write(t, filepath.Join(back, "empty"), "")
		m := fusetest.Mount(t, back, fusetest.Options{HideSizes: true})
		w.MustCapture("e", m.Dir)
		if got := captured(w, m.Dir+"/hidden"); got != content {
			t.Errorf("captured %d bytes", len(got))
		}
		if got := captured(w, m.Dir+"/empty"); got != "" {
			t.Errorf("captured %q", got)
		}
		settle()
		write(t, filepath.Join(back, "empty"), "no more")
		w.MustCapture("e", m.Dir)
		if got := captured(w, m.Dir+"/empty"); got != "no more" {
			t.Errorf("captured %q", got)
		}
	})

	t.Run("and do not end are cut off and named", func(t *testing.T) {
		w := enginetest.New(t, storagetest.NewMemory())
		back := treetest.TempDir(t)
		write(t, filepath.Join(back, "endless"), "")
		m := fusetest.Mount(t, back, fusetest.Options{HideSizes: true, Endless: true})
		res, err := w.Capture("e", nil, m.Dir)
		w.Check(err)
		if reason := problems(res, m.Dir)["endless"]; !strings.Contains(reason, "more than 64 MiB") || len(res.Problems) != 1 {
			t.Errorf("problems: %v", res.Problems)
		}
		if e := entry(w, "e", m.Dir+"/endless"); e.Flags&manifest.ContentUnread == 0 || e.Size < 60<<20 || e.Size > 64<<20 {
			t.Errorf("flags %v, %d bytes", e.Flags, e.Size)
		}
	})

	t.Run("of other file systems are empty", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		src := treetest.TempDir(t)
		write(t, filepath.Join(src, "empty"), "")
		settle()
		w.MustCapture("e", src)
		if res := w.MustCapture("e", src); res.Read != 0 || res.Bytes != 0 {
			t.Errorf("read %d files, %d bytes", res.Read, res.Bytes)
		}
	})
}

func inodeFlagsAreCaptured(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("immutable files take root")
	}
	const immutable, appendOnly, noDump = 0x10, 0x20, 0x40
	src := treetest.TempDir(t)
	for _, path := range []string{"plain", "locked", "d/log"} {
		write(t, filepath.Join(src, path), path)
	}
	flags := map[string]uint32{"plain": 0, "locked": immutable | noDump, "d/log": appendOnly, "d": immutable}
	for _, path := range []string{"plain", "locked", "d/log", "d"} {
		setFlags(t, filepath.Join(src, path), flags[path])
	}
	settle()
	w := enginetest.New(t, storagetest.NewMemory())
	w.MustCapture("e", src)
	for path, want := range flags {
		if e := entry(w, "e", filepath.Join(src, path)); e.InodeFlags != want {
			t.Errorf("%s: flags %q, not %q", path, posix.FlagLetters(e.InodeFlags), posix.FlagLetters(want))
		}
	}

	settle()
	setFlags(t, filepath.Join(src, "d"), 0)
	setFlags(t, filepath.Join(src, "plain"), noDump)
	settle()
	if res := w.MustCapture("e", src); res.Read != 1 || res.NewBytes != 0 {
		t.Errorf("read %d files, %d new bytes", res.Read, res.NewBytes)
	}
	for path, want := range map[string]uint32{"plain": noDump, "d": 0} {
		if e := entry(w, "e", filepath.Join(src, path)); e.InodeFlags != want {
			t.Errorf("%s, changed: flags %q, not %q", path, posix.FlagLetters(e.InodeFlags), posix.FlagLetters(want))
		}
	}
}

// setFlags gives a node inode flags, and takes them away when the test ends.
func setFlags(t testing.TB, path string, flags uint32) {
	t.Helper()
	set := func(flags uint32) error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, ok, err := posix.InodeFlags(fd); !ok {
			t.Skipf("the file system has no inode flags (%v)", err)
		}
		return posix.SetInodeFlags(fd, flags)
	}
	if err := set(flags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set(0) })
}

func sourcesRecordHowTheyWereReached(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "releases", "7", "file"), "content")
	if err := os.Symlink("releases/7", filepath.Join(src, "current")); err != nil {
		t.Fatal(err)
	}
	w := enginetest.New(t, storagetest.NewMemory())
	var notes []string
	link := filepath.Join(src, "current")
	res, err := w.Capture("e", func(o *snapshot.Options) {
		o.Progress = &snapshot.Progress{Note: func(m string) { notes = append(notes, m) }}
		o.Sources = append(o.Sources, walk.Source{Path: filepath.Join(src, "releases"), CachedAttributes: true})
	}, link)
	w.Check(err)
	real, err := filepath.EvalSymlinks(link)
	w.Check(err)
	if res.Partial() || len(notes) != 1 || !strings.Contains(notes[0], link) || !strings.Contains(notes[0], real) {
		t.Errorf("notes %q, problems %v", notes, res.Problems)
	}
	sources := w.Tree("e").Table.Sources
	if sources[0].Resolved != real || sources[0].CachedAttributes || sources[1].Resolved != "" || !sources[1].CachedAttributes {
		t.Errorf("sources: %+v", sources)
	}
	if got := captured(w, filepath.Join(link, "file")); got != "content" {
		t.Errorf("captured %q", got)
	}
	if e := entry(w, "e", link); e.Type != manifest.Dir {
		t.Errorf("the source is captured as a %v", e.Type)
	}
}

func kernelFileSystemsAreRecordedAsNotEntered(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "proc", "hidden"), "beneath the mount")
	write(t, filepath.Join(src, "z"), "content")
	at := filepath.Join(src, "proc")
	if err := unix.Mount("proc", at, "proc", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	w := enginetest.New(t, storagetest.NewMemory())
	res := w.MustCapture("e", src)
	if res.Files != 1 {
		t.Errorf("%d files", res.Files)
	}
	s := w.Tree("e").Table.Sources[0]
	if len(s.Mounts) != 1 || s.Mounts[0] != enginetest.Under(at) || len(s.Entered) != 0 {
		t.Errorf("mounts %q, entered %q", s.Mounts, s.Entered)
	}
	if e := entry(w, "e", at); e == nil || e.Type != manifest.Dir || e.Flags != 0 {
		t.Errorf("entry: %+v", e)
	}
	w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: treetest.TempDir(t)})
}

// withoutProc runs the calling test again in a process that sees no /proc, and
// reports whether this is that process. The caller returns elsewhere.
func withoutProc(t *testing.T) bool {
	t.Helper()
	if os.Getenv("KNOWNGOOD_TEST_NO_PROC") != "" {
		if err := unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""); err != nil {
			t.Skipf("hide /proc: %v", err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("hiding /proc takes root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "KNOWNGOOD_TEST_NO_PROC=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("without /proc: %v\n%s", err, out)
	}
	return false
}

func withoutProcNothingIsCapturedOrRestored(t *testing.T) {
	if !withoutProc(t) {
		return
	}
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "file"), "content")
	w := enginetest.New(t, storagetest.NewMemory())
	if _, err := w.Capture("e", nil, src); !errors.Is(err, posix.ErrNoProc) {
		t.Errorf("capture: %v", err)
	}
	if _, _, err := w.Snapshot("e"); !errors.Is(err, history.ErrNoSnapshot) {
		t.Errorf("there is a snapshot: %v", err)
	}

	if err := unix.Unmount("/proc", 0); err != nil {
		t.Fatal(err)
	}
	if res := w.MustCapture("e", src); res.Snapshot.Body.Status != statement.Complete {
		t.Errorf("with /proc: %+v", res)
	}
	if err := unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(treetest.TempDir(t), "new")
	if _, err := w.TryRestore("e", restore.Options{Target: target}); !errors.Is(err, posix.ErrNoProc) {
		t.Errorf("restore: %v", err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target was made: %v", err)
	}
}
