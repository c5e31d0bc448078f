package generation

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/internal/enginetest"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/walk"
)

// What somebody may do who can write somewhere in a tree, and nowhere else.
func TestHostile(t *testing.T) {
	t.Run("a file that is exchanged while it is copied gives its rights to no other", copiesOneFile)
	t.Run("a directory that is exchanged gives its rights to no other", exchangedDirectory)
	t.Run("what cannot be read forbids no switch", unreadable)
	t.Run("a reason of any length leaves a state that can be read", longReason)
	t.Run("directories in directories take little of a record", deepRecord)
	t.Run("only what is there is held", forgedHolder)
	t.Run("a generation that somebody keeps has no set-uid programs", keptForItsHole)
	t.Run("a generation that somebody fills while it is emptied goes", filledWhileEmptied)
}

// Who may rename in a directory puts another file in the place of his own, between the moment at
// which that is described and the one at which it is read.
func copiesOneFile(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	from, to := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(from, name) }
	must(os.WriteFile(at("his"), []byte("his"), 0o644))
	must(os.WriteFile(at("secret"), []byte("secret"), 0o600))

	c, err := newCopier(to, false)
	must(err)
	defer c.to.Close()
	node, st, err := posix.OpenNode(unix.AT_FDCWD, at("his"))
	must(err)
	defer unix.Close(node)
	want, err := sum(t.Context(), node)
	must(err)
	must(os.Rename(at("secret"), at("his")))
	out, err := c.to.Get("")
	must(err)
	defer out.Release()
	must(c.make(node, &st, out.FD(), "copy", inode.Metadata{Type: st.Type, Mode: st.Mode, UID: st.UID, GID: st.GID}))

	if b, err := os.ReadFile(filepath.Join(to, "copy")); err != nil || string(b) != "his" {
		t.Errorf("the copy has the content %q, with the rights of another file (%v)", b, err)
	}
	if got, err := sum(t.Context(), node); err != nil || got != want {
		t.Errorf("the hash is that of another file (%v)", err)
	}
}

// endless makes a path that is longer than any that is captured, of names that take six bytes
// each in a state.
func endless(t *testing.T, dir string) {
	t.Helper()
	name := strings.Repeat("\x01", 255)
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for range 4200 {
		if err == nil {
			err = unix.Mkdirat(fd, name, 0o755)
		}
		if err == nil {
			var next int
			next, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			unix.Close(fd)
			fd = next
		}
	}
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := posix.RemovePath(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	})
}

// unreadable: what is in the tree of an environment is recorded when another one goes live, and
// then nothing in it can keep that from happening.
func unreadable(t *testing.T) {
	if enginetest.AsNobody(t) {
		w := newWorld(t, t.TempDir(), "link")
		w.must(os.WriteFile(filepath.Join(w.root(), "d0/unreadable"), nil, 0))
		goesLiveWith(t, w)
	}
}

func endlessPath(t *testing.T) {
	w := newWorld(t, t.TempDir(), "link")
	endless(t, filepath.Join(w.root(), "d0"))
	goesLiveWith(t, w)
}

// goesLiveWith demands that a tree with a path that cannot be read is adopted, compared, left and
// gone back to.
func goesLiveWith(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	o := w.options()
	noted := ""
	o.Note = func(format string, args ...any) { noted += format }
	_, err := Adopt(ctx, o, false)
	w.must(err)
	if !strings.Contains(noted, "cannot be recorded") {
		t.Errorf("nothing is said of what is not in the record: %s", noted)
	}
	var unread []string
	_, _, err = Drift(ctx, o, true, func(_ string, c Change) { t.Errorf("%s is %s", c.Path, c.Kind) }, func(path string, _ error) { unread = append(unread, path) })
	if err != nil || len(unread) != 1 {
		t.Errorf("a comparison ends with %v, and %d paths are unread", err, len(unread))
	}
	w.must(switchTo(ctx, w, o, 2, passes))
	if w.live() != 2 {
		t.Error("the next generation is not live")
	}
	w.must(act(ctx, w, o, "rollback"))
	if w.live() != 1 {
		t.Error("the generation before is not live")
	}
}

// A state that could not be read again would leave the generations for good.
func longReason(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := adopted(t, "link")
	why := errors.New("it begins " + strings.Repeat("\x01", durable.MaxState) + " and ends")
	if err := switchTo(ctx, w, w.options(), 2, func(context.Context) error { return why }); !errors.Is(err, ErrBack) {
		t.Errorf("the switch ends with %v", err)
	}
	v, err := Look(ctx, w.options())
	w.must(err)
	if got := v.Generations[0].Why; !strings.HasPrefix(got, "it begins") || !strings.HasSuffix(got, "and ends") {
		t.Errorf("the reason is %q", got)
	}
}

func deepRecord(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := &recordWriter{file: new(os.File), out: bufio.NewWriter(&out), digest: sha256.New()}
	path := "."
	for range 1000 {
		path += "/" + strings.Repeat("d", 255)
		if err := w.add(&entry{path: path}); err != nil {
			t.Fatal(err)
		}
	}
	w.out.Flush()
	if out.Len() > 1<<20 {
		t.Errorf("a thousand directories take a record of %d bytes", out.Len())
	}
}

// In a mount namespace of his own anybody has a directory of any path, and would keep old
// generations for ever.
func forgedHolder(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	w.must(switchTo(t.Context(), w, w.options(), 2, passes))
	v, err := Look(t.Context(), w.options())
	w.must(err)
	old := filepath.Join(w.gens(), v.Generations[1].Name)
	w.must(os.WriteFile(filepath.Join(old, "program"), make([]byte, 4096), 0o644))

	script := fmt.Sprintf("mount -t tmpfs none %[1]s && mkdir -p %[2]s && cd %[2]s && echo there && exec sleep 100", w.dir, old)
	cmd := exec.CommandContext(t.Context(), "unshare", "-Urm", "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Skipf("it takes mounts in a namespace of a user: %q, %v", line, err)
	}
	if to, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", cmd.Process.Pid)); err != nil || to != old {
		t.Fatalf("the process is in %s, %v", to, err)
	}
	if held := HeldBy(old); len(held) > 0 {
		t.Errorf("%s is held by %v, which has another one", old, held)
	}

	f, err := os.Open(filepath.Join(old, "program"))
	w.must(err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	w.must(err)
	w.must(f.Close())
	if held := HeldBy(old); len(held) != 1 || !strings.HasSuffix(held[0], ": a mapped file)") {
		t.Errorf("a mapped file is held by %v", held)
	}
	w.must(unix.Munmap(mapped))
}

func filledWhileEmptied(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	o := w.options()
	w.must(switchTo(t.Context(), w, o, 2, passes))
	w.must(act(t.Context(), w, o, "rollback"))
	his := filepath.Join(w.gens(), nameOf(2, idOf(2)), "d0")
	stop, stopped, wrote := make(chan struct{}), make(chan struct{}), false
	go func() { // who owns the directory knows only its path
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				err := os.Symlink("his", filepath.Join(his, strconv.Itoa(n)+".link"))
				wrote = wrote || err == nil
			}
		}
	}()
	for wait := 0; wait < 1000 && !exists(filepath.Join(his, "10.link")); wait++ {
		time.Sleep(time.Millisecond)
	}
	s, err := Open(t.Context(), o)
	w.must(err)
	defer s.Close()
	err = s.discard(s.state.find(nameOf(2, idOf(2))))
	close(stop)
	<-stopped
	if err != nil || exists(filepath.Dir(his)) || !wrote {
		t.Errorf("it is there: %v; it was filled: %v; %v", exists(filepath.Dir(his)), wrote, err)
	}
}

func keptForItsHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), "link")
	for _, name := range []string{"hole", "linked", "plain"} {
		w.must(os.WriteFile(filepath.Join(w.root(), name), nil, 0o755))
	}
	w.must(os.Chmod(filepath.Join(w.root(), "hole"), 0o755|os.ModeSetuid|os.ModeSetgid))
	w.must(os.Chmod(filepath.Join(w.root(), "linked"), 0o755|os.ModeSetuid))
	w.must(os.Link(filepath.Join(w.root(), "linked"), w.at("elsewhere")))
	o := w.options()
	o.Config.Generations.Keep = 2
	_, err := Adopt(t.Context(), o, false)
	w.must(err)
	v, err := Look(t.Context(), o)
	w.must(err)
	old := filepath.Join(w.gens(), v.Live)
	f, err := os.Open(filepath.Join(old, "plain"))
	w.must(err)
	defer f.Close()
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		w.must(err)
		return info.Mode()
	}
	w.must(switchTo(t.Context(), w, o, 2, passes))
	if mode(filepath.Join(old, "hole"))&os.ModeSetuid == 0 {
		t.Error("the generation before the live one was changed")
	}
	w.must(switchTo(t.Context(), w, o, 3, passes))
	if got := mode(filepath.Join(old, "hole")); got != 0o755 {
		t.Errorf("a program of a generation that was to be removed is %v", got)
	}
	if mode(w.at("elsewhere"))&os.ModeSetuid == 0 {
		t.Error("a program of another tree was changed")
	}
	v, err = Look(t.Context(), o)
	if last := v.Generations[len(v.Generations)-1]; err != nil || last.Status != Bad || !exists(old) {
		t.Errorf("the generation is %+v, %v", last, err)
	}
}

// Who may rename in a directory puts one that he cannot enter in the place of his own, while that
// is put back.
func exchangedDirectory(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		from, to := t.TempDir(), t.TempDir()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.Mkdir(filepath.Join(from, "his"), 0o755))
		must(os.WriteFile(filepath.Join(from, "his/file"), nil, 0o644))
		must(os.Mkdir(filepath.Join(to, "his"), 0o700))
		must(os.Mkdir(filepath.Join(to, "secret"), 0o700))
		st, err := posix.StatAt(unix.AT_FDCWD, filepath.Join(to, "his"))
		must(err)
		secret, err := os.Open(filepath.Join(to, "secret"))
		must(err)
		defer secret.Close()
		exchange := func() {
			must(unix.Renameat2(unix.AT_FDCWD, filepath.Join(to, "his"), unix.AT_FDCWD, filepath.Join(to, "secret"), unix.RENAME_EXCHANGE))
		}
		c, err := newCopier(to, true)
		must(err)
		defer c.to.Close()
		c.there = map[string]posix.DevIno{"his": st.ID()}
		must(eachBelow(t.Context(), from, nil, func(n *walk.Node, rel string) error {
			if rel == "" {
				return nil
			}
			if rel == "his/file" {
				return c.node(n, rel)
			}
			if before {
				exchange()
			}
			if err := c.node(n, rel); err != nil {
				return err
			}
			if !before {
				exchange()
				c.to.Forget(rel)
			}
			return nil
		}))
		if err := c.finish(); !errors.Is(err, errExchanged) {
			t.Errorf("it ends with %v", err)
		}
		if entries, err := secret.ReadDir(-1); err != nil || len(entries) > 0 {
			t.Errorf("the other directory has %v, %v", entries, err)
		}
		must(os.WriteFile(filepath.Join(to, "his/added"), nil, 0o600))
		if err := c.remove("his/added"); err != nil || !exists(filepath.Join(to, "his/added")) {
			t.Errorf("a file of the other directory is removed, %v", err)
		}
		if info, err := secret.Stat(); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the other directory is %v, %v", info.Mode(), err)
		}
	}
}
