package generation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/snapshot/walk"
)

// host is a world whose environment has no root.
func (w *world) host() *Options {
	o := w.options()
	o.Config.Root, o.Config.Switch.Method, o.Config.Data, o.Config.Generations = "", "", nil, nil
	o.InPlace = &InPlace{Dir: w.at("patches/host"), Sources: []configs.Source{{Path: w.at("srv/app")}, {Path: w.at("single")}}}
	o.InPlace.Walk = func(sources []configs.Source) (out []walk.Source, _ []posix.DevIno, _ error) {
		for _, s := range sources {
			out = append(out, walk.Source{Path: s.Path})
		}
		return out, nil, nil
	}
	o.InPlace.Run = func(context.Context) error { return w.second(o.Point) }
	return o
}

// second makes the tree in place the second version, as a package manager does.
func (w *world) second(half func(string)) error {
	err := errors.Join(os.Remove(filepath.Join(w.root(), "only-1")), os.WriteFile(filepath.Join(w.root(), "only-2"), nil, 0o600))
	for i := range filesOfATree {
		if i == filesOfATree/2 && half != nil {
			half("half of the command")
		}
		path := filepath.Join(w.root(), fmt.Sprintf("d%d/%d", i%3, i))
		err = errors.Join(err, os.WriteFile(path+".dpkg-new", []byte("version 2"), 0o644), os.Rename(path+".dpkg-new", path))
	}
	return errors.Join(err, os.Remove(w.at("single")), os.MkdirAll(filepath.Join(w.root(), "new/er"), 0o755), os.WriteFile(filepath.Join(w.root(), "new/er/file"), []byte("new content"), 0o644))
}

// patchTo patches in place, and asks the probe.
func patchTo(ctx context.Context, o *Options, probe func(context.Context) error) error {
	s, err := Begin(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Room(ctx, false); err != nil {
		return err
	}
	to, err := s.StageInPlace(ctx, 1, idOf(1), Origin{Snapshot: "host@1"})
	if err != nil {
		return err
	}
	_, err = s.Switch(ctx, to, probe)
	return err
}

func TestInPlace(t *testing.T) {
	// A tree with every kind of node is what it was after the way back, whatever a command did
	// to it, and what was not changed is not touched.
	t.Run("what a command changes is put back exactly", func(t *testing.T) {
		seeds := 3
		if testing.Short() {
			seeds = 1
		}
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				w := newWorld(t, t.TempDir(), "link")
				w.must(os.WriteFile(w.at("single"), []byte("single"), 0o640))
				shape := treetest.Shape{Nodes: 60}
				want, got := w.at("want"), filepath.Join(w.root(), "every")
				for _, dir := range []string{want, got} {
					w.must(os.Mkdir(dir, 0o755))
					treetest.Generate(t, dir, treetest.Seed(seed), shape)
				}
				same := func(o treetest.Options) {
					t.Helper()
					treetest.Equal(t, want, got, o)
				}
				same(treetest.Options{})
				before := treetest.Snapshot(t, got)
				o := w.host()
				var did []string
				o.InPlace.Run = func(context.Context) error {
					did = treetest.Mutate(t, got, treetest.Seed(seed+100), int(seed), shape)
					return w.second(nil)
				}
				err := patchTo(t.Context(), o, func(context.Context) error { return errors.New("the probe failed") })
				if !errors.Is(err, ErrBack) || w.live() != 1 {
					t.Fatalf("it ended with %v", err)
				}
				same(treetest.Options{Holes: true})
				if b, err := os.ReadFile(w.at("single")); err != nil || string(b) != "single" {
					t.Errorf("a source that is a file: %q, %v", b, err)
				}
				if t.Failed() {
					t.Log(did)
				}
				after, touched := treetest.Snapshot(t, got), 0
				for path, n := range after {
					if was := before[path]; was != nil && !was.Ctime.Equal(n.Ctime) {
						touched++
					}
				}
				if seed == 0 && touched > 0 {
					t.Errorf("%d nodes were touched without need", touched)
				}
				if entries, _ := os.ReadDir(w.at("patches/host")); len(entries) > 3 {
					t.Errorf("left: %v", entries)
				}
			})
		}
	})

	t.Run("a patch killed at each point", patchKilledAtEachPoint)

	// What could not be put back is refused before.
	t.Run("what could not be put back is refused", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "link")
		w.must(os.WriteFile(w.at("single"), nil, 0o644))
		w.must(os.Symlink("srv", w.at("way")))
		refused := func(want string, packages bool, o *Options) {
			t.Helper()
			s, err := Begin(t.Context(), o)
			w.must(err)
			defer s.Close()
			if _, err := s.Room(t.Context(), packages); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		o := w.host()
		o.InPlace.Sources[0].Path = w.at("way/app")
		refused("leads to", false, o)
		w.must(os.Truncate(w.at("single"), 1<<40)) // all of it a hole: it takes nothing
		s, err := Begin(t.Context(), w.host())
		w.must(err)
		room, err := s.Room(t.Context(), false)
		s.Close()
		if err != nil || room.Bytes > 1<<20 {
			t.Errorf("%+v, %v", room, err)
		}
		if exists("/var/lib/dpkg") {
			refused("package database /var/lib/dpkg", true, w.host())
		}
	})

	t.Run("without room for a copy nothing runs", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "link")
		w.must(os.WriteFile(w.at("single"), nil, 0o644))
		w.mounted(w.at("patches"))
		if err := patchTo(t.Context(), w.host(), passes); err == nil || !strings.Contains(err.Error(), "no room for a way back") || w.live() != 1 {
			t.Errorf("version %d is live, %v", w.live(), err)
		}
	})

	// Nothing is put back, or removed, where other file systems are mounted than before; the next
	// command goes on when that is as it was.
	t.Run("a file system that is mounted meanwhile is not emptied", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "link")
		w.must(os.WriteFile(w.at("single"), nil, 0o644))
		o, unmount := w.host(), func() {}
		o.InPlace.Run = func(context.Context) error {
			unmount = w.mounted(filepath.Join(w.root(), "mounted"))
			w.must(os.WriteFile(filepath.Join(w.root(), "mounted/file"), nil, 0o644))
			return w.second(nil)
		}
		err := patchTo(t.Context(), o, func(context.Context) error { return errors.New("the probe failed") })
		if err == nil || errors.Is(err, ErrBack) || !strings.Contains(err.Error(), "the next command goes on") || w.live() != 2 {
			t.Errorf("version %d is live, %v", w.live(), err)
		}
		if _, err := os.Stat(filepath.Join(w.root(), "mounted/file")); err != nil {
			t.Error(err)
		}
		if u, err := Uncommitted(w.host()); err != nil || u == nil || !strings.HasPrefix(u.Generation, "patched-") || u.Deadline.IsZero() || !u.Back {
			t.Errorf("what has not gone back is %+v, %v", u, err)
		}
		unmount()
		s, err := Open(t.Context(), w.host())
		w.must(err)
		s.Close()
		if w.live() != 1 || exists(filepath.Join(w.root(), "mounted")) {
			t.Errorf("version %d is live", w.live())
		}
	})

	// What another program changes while it is compared is reported, and stays; the copy, too.
	t.Run("what is not as it was is reported once", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "link")
		w.must(os.WriteFile(w.at("single"), nil, 0o644))
		o := w.host()
		o.Point = func(name string) {
			if name == "put back" {
				w.must(os.WriteFile(filepath.Join(w.root(), "d0/0"), []byte("another"), 0o644))
			}
		}
		err := patchTo(t.Context(), o, func(context.Context) error { return errors.New("the probe failed") })
		if err == nil || errors.Is(err, ErrBack) || !strings.Contains(err.Error(), `not tried again: what was put back is not all as it was, or was changed again: changed "`) {
			t.Fatalf("it ended with %v", err)
		}
		for range 2 {
			v, err := Look(t.Context(), w.host())
			if err != nil || !strings.Contains(v.Problem, "d0/0") || !exists(filepath.Join(w.at("patches/host"), v.Live, strings.TrimPrefix(w.root(), "/"), "d0/0")) {
				t.Fatalf("%+v, %v", v, err)
			}
		}
		if b, _ := os.ReadFile(filepath.Join(w.root(), "d0/0")); string(b) != "another" {
			t.Errorf("it was changed again: %q", b)
		}
		w.must(os.WriteFile(filepath.Join(w.root(), "d0/0"), []byte("version 1"), 0o644))
		if err := patchTo(t.Context(), w.host(), passes); err != nil || w.live() != 2 {
			t.Errorf("the next patch: %v", err)
		}
		if left, _ := filepath.Glob(w.at("patches/host/*-*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})

	// What fills the disk can be taken back.
	t.Run("a full disk does not forbid the way back", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("mounting takes root")
		}
		dir := t.TempDir()
		w := newWorld(t, filepath.Join(dir, "disk/world"), "link")
		w.must(os.RemoveAll(filepath.Join(dir, "disk/world")))
		if err := unix.Mount("test", filepath.Join(dir, "disk"), "tmpfs", 0, "size=72m"); err != nil {
			t.Skipf("no tmpfs can be mounted here: %v", err)
		}
		defer unix.Unmount(filepath.Join(dir, "disk"), unix.MNT_DETACH)
		w = newWorld(t, w.dir, "link")
		w.must(os.WriteFile(w.at("single"), nil, 0o644))
		fills := func(at string) error {
			f, err := os.Create(at)
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("it is filled: %v", err)
			}
			return errors.Join(f.Close(), errors.New("the disk is full"))
		}
		o := w.host()
		o.InPlace.Run = func(context.Context) error { return fills(filepath.Join(w.root(), "fill")) }
		if err := patchTo(t.Context(), o, passes); !errors.Is(err, ErrBack) || exists(filepath.Join(w.root(), "fill")) {
			t.Fatalf("a patch ended with %v", err)
		}

		w.must(act(t.Context(), w, w.options(), "adopt"))
		err := switchTo(t.Context(), w, w.options(), 2, func(context.Context) error { return fills(w.at("fill")) })
		if !errors.Is(err, ErrBack) || w.live() != 1 {
			t.Fatalf("a switch ended with %v", err)
		}
		w.must(os.Remove(w.at("fill")))
		w.must(act(t.Context(), w, w.options(), "switch"))
		_ = fills(w.at("fill"))
		w.must(act(t.Context(), w, w.options(), "rollback"))
		if w.live() != 1 {
			t.Errorf("version %d is live", w.live())
		}
	})

	// A command cannot forbid the way back, by modes or inode flags; flags stay as they are.
	t.Run("modes and flags do not forbid the way back", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("becoming another user, and setting inode flags, takes root")
		}
		for _, user := range []uint32{0, 54321} {
			dir, err := os.MkdirTemp("", "kg") // which another user reaches
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, dir, "link")
			t.Cleanup(func() {
				exec.Command("chattr", "-R", "-a", "-i", w.root()).Run()
				os.RemoveAll(dir)
			})
			if user == 0 && exec.Command("chattr", "+i", w.at("running")).Run() != nil {
				t.Skip("this file system has no inode flags")
			}
			exec.Command("chattr", "-i", w.at("running")).Run()
			w.must(os.WriteFile(w.at("single"), nil, 0o644))
			w.must(os.Chmod(filepath.Join(w.root(), "d0"), 0o555))
			program := w.at("test")
			w.must(exec.Command("cp", os.Args[0], program).Run())
			w.must(exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", user), dir).Run())
			cmd := exec.Command(program)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KNOWNGOOD_TEST_ACT=patch that locks", "KNOWNGOOD_TEST_DIR=" + dir}
			if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), ErrBack.Error()+": the command failed") || w.live() != 1 {
				t.Errorf("user %d: %s", user, out)
			}
			if info, err := os.Stat(filepath.Join(w.root(), "d0")); err != nil || info.Mode().Perm() != 0o555 {
				t.Errorf("user %d: %v, %v", user, info, err)
			}
			for name, want := range map[string]string{"d1/1": "i", "d1": "a"} {
				fd, err := unix.Open(filepath.Join(w.root(), name), unix.O_RDONLY, 0)
				w.must(err)
				flags, _, _ := posix.InodeFlags(fd)
				unix.Close(fd)
				if have := posix.FlagLetters(flags); user == 0 && have != want {
					t.Errorf("flags of %s: %q", name, have)
				}
			}
		}
	})
}

// After kill -9 at each point the next command puts all back, unless it was committed.
func patchKilledAtEachPoint(t *testing.T) {
	for act, end := range map[string]int{"patch": 2, "patch that fails": 1} {
		t.Run(act, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += stride(3) {
				w := newWorld(t, t.TempDir(), "link")
				w.must(os.WriteFile(w.at("single"), nil, 0o644))
				killed, out := w.elsewhere(act, n)
				if killed == "" {
					if w.live() != end {
						t.Errorf("version %d is live: %s", w.live(), out)
					}
					t.Logf("%d points", n-1)
					if n < 15 {
						t.Errorf("only %d points were met", n-1)
					}
					break
				}
				w.afterKilledPatch(act, killed, end)
			}
		})
	}
}

func (w *world) afterKilledPatch(act, killed string, end int) {
	t := w.t
	t.Helper()
	s, err := Begin(t.Context(), w.host())
	onTrial := err != nil && strings.Contains(err.Error(), "on trial")
	if onTrial { // it was judged by nobody
		var out *Outcome
		if s, err = Open(t.Context(), w.host()); err == nil {
			out, err = s.Rollback(t.Context(), false)
		}
		if err != nil || out.Live != nameOf(1, idOf(1)) {
			t.Fatalf("killed at %q: %+v, %v", killed, out, err)
		}
	}
	if err != nil {
		t.Fatalf("killed at %q, the next command fails: %v", killed, err)
	}
	committed := s.state.find(s.liveName())
	s.Close()
	want := 1
	if committed != nil && strings.HasPrefix(committed.Name, "patched-") {
		want = 2
	}
	if want == 2 && !strings.Contains(killed, "commit") && !strings.Contains(killed, "removing") {
		t.Errorf("killed at %q it is committed", killed)
	}
	if v := w.live(); v != want {
		t.Errorf("killed at %q: version %d is live, want %d", killed, v, want)
	}
	for _, dir := range []string{w.dir, w.root(), w.at("srv/app/d1")} {
		if left, _ := filepath.Glob(dir + "/.knowngood*"); len(left) > 0 {
			t.Errorf("killed at %q: left %v", killed, left)
		}
	}
	if entries, _ := os.ReadDir(w.at("patches/host")); len(entries) > 3 {
		t.Errorf("killed at %q: left %v", killed, entries)
	}
	if _, err := os.Stat(w.at("single")); (err == nil) != (want == 1) {
		t.Errorf("killed at %q: single: %v", killed, err)
	}
	if want == 2 {
		if b, err := os.ReadFile(filepath.Join(w.root(), "new/er/file")); string(b) != "new content" {
			t.Errorf("killed at %q, what is kept is not whole: %q, %v", killed, b, err)
		}
		return
	}
	if err := actInPlace(t.Context(), w.host(), act); err != nil && !errors.Is(err, ErrBack) || w.live() != end {
		t.Errorf("killed at %q, the next patch ends with %v, and version %d is live", killed, err, w.live())
	}
}

func actInPlace(ctx context.Context, o *Options, what string) error {
	probe := passes
	if what == "patch that fails" {
		probe = func(context.Context) error { return errors.New("the probe failed") }
	}
	return patchTo(ctx, o, probe)
}

func (w *world) mounted(at string) func() {
	w.t.Helper()
	w.must(os.MkdirAll(at, 0o755))
	if err := unix.Mount("test", at, "tmpfs", 0, "size=1m"); err != nil {
		w.t.Skipf("mounting takes root: %v", err)
	}
	unmount := func() { _ = unix.Unmount(at, unix.MNT_DETACH) }
	w.t.Cleanup(unmount)
	return unmount
}

// lock changes the tree, and forbids to change it back: by modes, and by inode flags, where
// root runs it. It fails then, as a command does.
func (w *world) lock() error {
	script := `cd "$1" && chmod 755 d0 && echo other >d0/0 && rm d0/3 && mkdir d0/new && echo new >d0/new/file && chmod 500 d0/new d0
		if [ $(id -u) = 0 ]; then echo other >d1/1 && rm d1/4 && echo new >d1/new && mkdir d1/dir && chattr +i d1/1 d1/new d1/dir && chattr +a d1; fi`
	if out, err := exec.Command("/bin/sh", "-c", script, "sh", w.root()).CombinedOutput(); err != nil {
		return fmt.Errorf("it could not be locked: %w, %s", err, out)
	}
	return errors.New("the command failed")
}
