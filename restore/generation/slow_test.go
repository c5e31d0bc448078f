package generation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
)

func TestSlow(t *testing.T) {
	if !enginetest.Slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("killed at each point", func(t *testing.T) { killedAtEachPoint(t, "link") })
	t.Run("killed at each point with exchange", func(t *testing.T) { killedAtEachPoint(t, "exchange") })
	t.Run("a patch in place, killed at each point", patchKilledAtEachPoint)
	t.Run("a patch in a clone, killed at each point", func(t *testing.T) {
		(&crash{[]string{"adopt"}, "patch in a clone", either, 2}).killedAtEachPoint(t, "link")
	})
	t.Run("a path without end forbids no switch", endlessPath)
	t.Run("sources are copied by reflinks on xfs", sourcesAreCopiedByReflinks)
	t.Run("fs-verity keeps the files of a sealed generation", verityKeepsFiles)
	t.Run("no request fails during 50 switches and rollbacks", func(t *testing.T) { requestsDuringSwitches(t, "link", 25) })
	t.Run("nor with exchange", func(t *testing.T) { requestsDuringSwitches(t, "exchange", 25) })
	t.Run("power cut at each point", powerCutAtEachPoint)
	const reflinks, subvolume = "reflinks of the live one", "btrfs snapshot of the live one"
	t.Run("the next generation is a clone on xfs", func(t *testing.T) { clonesOn(t, "xfs", true, reflinks, reflinks) })
	t.Run("the next generation is a clone on btrfs", func(t *testing.T) { clonesOn(t, "btrfs", true, reflinks, reflinks) })
	t.Run("the next generation is a snapshot on btrfs, without data", func(t *testing.T) { clonesOn(t, "btrfs", false, reflinks, subvolume) })
	t.Run("a clone has subvolumes within, and shares files that are written in place", cloneOfSubvolumesWithin)
}

// disk is a file system in a file, mounted.
func disk(t *testing.T, kind, size, image, at string, options ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	for _, argv := range [][]string{{"truncate", "-s", size, image}, append([]string{"mkfs." + kind, "-q", image}, options...)} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v, %s", argv, err, out)
		}
	}
	mount(t, image, at)
}

func mount(t *testing.T, image, at string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("mount: %v, %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
}

func unmount(t *testing.T, at string) {
	t.Helper()
	if err := treetest.Unmount(at); err != nil {
		t.Fatal(err)
	}
}

// What was written to the disk at each point of each action, and nothing else, is mounted
// again: one complete generation is live there, as after kill -9.
func powerCutAtEachPoint(t *testing.T) {
	for _, name := range []string{"adopt", "switch", "rollback"} {
		c := crashes[name]
		t.Run(name, func(t *testing.T) {
			cutAtEachPoint(t, "24M", 1, c.act, func(w *world) { w.prepare(c.before) }, func(w *world, killed, out string) { w.afterCrash(&c, killed, out) })
		})
	}
	for act, end := range map[string]int{"patch": 2, "patch that fails": 1} {
		t.Run(act, func(t *testing.T) {
			before := func(w *world) { w.must(os.WriteFile(w.at("single"), nil, 0o644)) }
			cutAtEachPoint(t, "96M", 3-end, act, before, func(w *world, killed, out string) {
				if killed != "" {
					w.afterKilledPatch(act, killed, end)
				} else if w.live() != end {
					t.Errorf("version %d is live: %s", w.live(), out)
				}
			})
		})
	}
}

func cutAtEachPoint(t *testing.T, size string, step int, act string, before func(*world), after func(w *world, killed, out string)) {
	for n := 1; ; n += step {
		dir := t.TempDir()
		image, cut, at := filepath.Join(dir, "image"), filepath.Join(dir, "cut"), filepath.Join(dir, "mounted")
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		disk(t, "ext4", size, image, at)
		w := newWorld(t, filepath.Join(at, "w"), "link")
		before(w)
		unix.Sync()
		killed, out := w.elsewhere(act, n, "KNOWNGOOD_TEST_END=cp --sparse=always "+image+" "+cut)
		if killed == "" {
			after(w, killed, out)
			unmount(t, at)
			t.Logf("%d points", n-1)
			return
		}
		unmount(t, at)
		mount(t, cut, at)
		after(w, killed, out)
		unmount(t, at)
	}
}

// Where the file system shares content, the next generation begins as a clone.
func clonesOn(t *testing.T, kind string, carry bool, want ...string) {
	dir := t.TempDir()
	disk(t, kind, map[string]string{"xfs": "320M", "btrfs": "128M"}[kind], filepath.Join(dir, "image"), dir)
	w := newWorld(t, filepath.Join(dir, "w"), "link")
	options := func() *Options {
		o := w.options()
		if !carry {
			o.Config.Data = nil
		}
		return o
	}
	for v := 2; v <= 3 && !carry; v++ {
		lib := filepath.Join(w.at(fmt.Sprintf("build%d", v)), "var/lib")
		w.must(errors.Join(os.MkdirAll(lib, 0o755), os.WriteFile(lib+"/db", []byte("data"), 0o644)))
	}
	_, err := Adopt(t.Context(), options(), false)
	w.must(err)
	for i, v := range []int{2, 3} {
		s, err := Open(t.Context(), options())
		w.must(err)
		b := w.build(v)
		b.Clone = true
		fill := b.Fill
		cloned := false
		b.Fill = func(ctx context.Context, dir string, is bool) error { // as a restore in place does
			cloned = is
			for _, n := range []string{"d0", "d1", "d2", "link", "var"} {
				if err := posix.RemovePath(filepath.Join(dir, n)); err != nil {
					return err
				}
			}
			only, _ := filepath.Glob(filepath.Join(dir, "only-*"))
			for _, n := range only {
				w.must(os.Remove(n))
			}
			return fill(ctx, dir, is)
		}
		g, err := s.Stage(t.Context(), b)
		if err != nil || !cloned || !strings.HasPrefix(g.Way, want[i]) {
			t.Fatalf("generation %d was built as %+v, %v", v, g, err)
		}
		_, err = s.Switch(t.Context(), g.Name, passes)
		s.Close()
		w.must(err)
		if w.live() != v {
			t.Errorf("version %d is live", w.live())
		}
	}
	if err := Release(t.Context(), options()); err != nil {
		t.Error(err)
	}
	w.live()
	unmount(t, dir)
}

// A snapshot of a subvolume would have an empty directory in place of one within it. And content
// is shared only between files of which both, or none, are written in place (chattr +C).
func cloneOfSubvolumesWithin(t *testing.T) {
	dir := t.TempDir()
	disk(t, "btrfs", "128M", filepath.Join(dir, "image"), dir)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	within := filepath.Join(from, "within")
	if err := errors.Join(MakeTop(from, true), MakeTop(within, true), os.WriteFile(filepath.Join(within, "file"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(within, "file"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const noCow = 0x00800000 // FS_NOCOW_FL
	posix.SetEmptyFlags(int(f.Fd()), noCow)
	content := strings.Repeat("content ", 1000)
	if flags, _, _ := posix.InodeFlags(int(f.Fd())); flags&noCow == 0 {
		t.Error("the file is not written in place")
	} else if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	way, err := CloneTree(t.Context(), from, to, Cloning{Subvolumes: true})
	if err != nil || way != "reflinks" {
		t.Errorf("it was cloned by %s, %v", way, err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "within/file")); err != nil || string(b) != content {
		t.Errorf("the clone has %d bytes of %d, %v", len(b), len(content), err)
	}
}

// The copy of sources takes no room there, and is not changed with them.
func sourcesAreCopiedByReflinks(t *testing.T) {
	dir := t.TempDir()
	disk(t, "xfs", "320M", filepath.Join(dir, "image"), dir)
	w := newWorld(t, filepath.Join(dir, "w"), "link")
	w.must(os.WriteFile(w.at("single"), make([]byte, 140<<20), 0o644)) // there is no room for two
	s, err := Begin(t.Context(), w.host())
	w.must(err)
	room, err := s.Room(t.Context(), false)
	s.Close()
	if err != nil || !room.Shared || room.Bytes > 1<<20 {
		t.Fatalf("%+v, %v", room, err)
	}
	err = patchTo(t.Context(), w.host(), func(context.Context) error { return errors.New("the probe failed") })
	if info, serr := os.Stat(w.at("single")); !errors.Is(err, ErrBack) || w.live() != 1 || serr != nil || info.Size() != 140<<20 {
		t.Errorf("version %d is live, %v, %v", w.live(), err, serr)
	}
	unmount(t, dir)
}

// What is sealed cannot be changed, also not by root that takes its flags away, and what was
// changed on the disk below is not read. Released, it can be changed.
func verityKeepsFiles(t *testing.T) {
	if _, err := os.Stat("/sys/fs/ext4/features/verity"); err != nil {
		t.Skip("the kernel has no fs-verity (systemd's TestSlow runs this on one that has)")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	disk(t, "ext4", "32M", image, at, "-O", "verity", "-b", "4096")
	w := newWorld(t, filepath.Join(at, "w"), "link")
	_, err := Adopt(t.Context(), w.options(), false)
	w.must(err)
	content := strings.Repeat("the content of the file ", 1000)
	w.must(os.WriteFile(filepath.Join(w.at("build2"), "file"), []byte(content), 0o644))
	w.must(os.Link(filepath.Join(w.at("build2"), "file"), filepath.Join(w.at("build2"), "other")))
	o := w.options()
	o.Config.Switch.Seal = true
	w.must(switchTo(t.Context(), w, o, 2, passes))
	v, err := Look(t.Context(), o)
	w.must(err)
	if v.Generations[0].Sealed != sealedVerity {
		t.Fatalf("it was sealed as %q", v.Generations[0].Sealed)
	}
	path := filepath.Join(w.root(), "file")
	unlocked := func() {
		t.Helper()
		f, err := os.Open(path)
		w.must(err)
		_, err = posix.Unlock(int(f.Fd()))
		w.must(errors.Join(err, f.Close()))
	}
	unlocked()
	if err := os.WriteFile(path, nil, 0o644); !errors.Is(err, unix.EPERM) {
		t.Errorf("it was written without its flag: %v", err)
	}
	edit := func(was, now string) {
		t.Helper()
		unmount(t, at)
		disk, err := os.ReadFile(image)
		w.must(err)
		if !bytes.Contains(disk, []byte(was)) {
			t.Fatalf("%q is not on the disk", was)
		}
		w.must(os.WriteFile(image, bytes.ReplaceAll(disk, []byte(was), []byte(now)), 0o600))
		mount(t, image, at)
	}
	edit("of the file", "of the FILE")
	if b, err := os.ReadFile(path); !errors.Is(err, unix.EIO) {
		t.Errorf("what was changed on the disk was read: %.40q, %v", b, err)
	}
	edit("of the FILE", "of the file")
	w.must(Release(t.Context(), o))
	if w.live() != 2 {
		t.Errorf("version %d is live", w.live())
	}
	w.clean()
	b, err := os.ReadFile(path)
	w.must(err)
	one, err := os.Stat(path)
	w.must(err)
	two, err := os.Stat(filepath.Join(w.root(), "other"))
	w.must(err)
	if string(b) != content || !os.SameFile(one, two) {
		t.Errorf("after the release it is %.40q, one file: %v", b, os.SameFile(one, two))
	}
	w.must(os.WriteFile(path, []byte("changed"), 0o644))
	unmount(t, at)
}
