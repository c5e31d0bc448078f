package generation

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/posix"
	"knowngood/snapshot/live"
	"knowngood/snapshot/walk"
)

// adopted is a world after adopting.
func adopted(t *testing.T, method string) *world {
	t.Helper()
	w := newWorld(t, t.TempDir(), method)
	_, err := Adopt(t.Context(), w.options(), false)
	w.must(err)
	return w
}

func anOverlayIsRefused(t *testing.T) {
	w := newWorld(t, t.TempDir(), "link")
	for _, d := range []string{"upper", "work", "merged"} {
		w.must(os.Mkdir(w.at(d), 0o755))
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", w.at("srv"), w.at("upper"), w.at("work"))
	if err := unix.Mount("test", w.at("merged"), "overlay", 0, layers); err != nil {
		t.Skipf("no overlay can be mounted here: %v", err)
	}
	defer unix.Unmount(w.at("merged"), unix.MNT_DETACH)
	o := w.options()
	o.Config.Root = w.at("merged/app")
	for _, dry := range []bool{true, false} {
		if _, err := Adopt(t.Context(), o, dry); err == nil || !strings.Contains(err.Error(), "is on an overlay: ") {
			t.Errorf("adopting an overlay, dry run %t: %v", dry, err)
		}
	}
	if names, err := os.ReadDir(w.at("upper")); err != nil || len(names) > 0 {
		t.Errorf("it was changed: %v, %v", names, err)
	}
}

func aRemovedLockLocksNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockName)
	first, err := HoldFile(path)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		f, err := HoldFile(path)
		if err == nil {
			is, _ := f.Stat()
			at, aerr := os.Lstat(path)
			if aerr != nil || !os.SameFile(is, at) {
				err = errors.New("it holds a file that nobody else meets")
			}
			f.Close()
		}
		waited <- err
	}()
	time.Sleep(100 * time.Millisecond) // it waits
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a failed command takes back what was done, in reverse":      aFailedCommandTakesBackWhatWasDone,
		"a service may take longer to start than it is watched":      aServiceMayStartSlowly,
		"a rollback that fails is not tried again":                   aRollbackThatFailsIsNotTriedAgain,
		"a trial that ends without a commit goes back":               aTrialThatEndsGoesBack,
		"a trial that a boot interrupted goes back without commands": aTrialThatABootInterruptedGoesBack,
		"two switches at once exclude each other":                    twoSwitchesExcludeEachOther,
		"a generation that was changed does not go live":             aChangedGenerationDoesNotGoLive,
		"what is more than is kept goes, unless it is held":          whatIsMoreGoes,
		"a generation that a container has mounted stays":            aMountedGenerationStays,
		"what is bad goes before what is good":                       badOnesGoFirst,
		"links in a tree lead nowhere":                               linksInATreeLeadNowhere,
		"what leads or is mounted elsewhere is not adopted":          whatWouldLeadElsewhereIsNotAdopted,
		"a place that others can change is refused":                  aPlaceOfOthersIsRefused,
		"a user other than root can do all of it":                    anyUserCanDoIt,
		"a sealed generation cannot be changed":                      aSealedGenerationCannotBeChanged,
		"a state that is none is refused":                            aStateThatIsNoneIsRefused,
		"a user of the tree cannot hide from drift":                  aUserCannotHideFromDrift,
		"a directory made by others meanwhile is not taken":          aDirectoryOfOthersIsNotTaken,
		"a link is not put back to what others put there":            aLinkIsNotPutBackToAnother,
		"an overlay is refused before anything is changed":           anOverlayIsRefused,
		"a lock that was removed locks nothing":                      aRemovedLockLocksNothing,
		"a read-only file system shows what there is":                aReadOnlyFileSystemIsShown,
		"a hole of any size delays nothing":                          aHoleDelaysNothing,
		"a hole is hashed as the zeros that it reads as":             aHoleIsHashedAsZeros,
	} {
		t.Run(name, test)
	}
}

func aFailedCommandTakesBackWhatWasDone(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	o := w.options()
	note := func(word string) []configs.Hook { return shell("echo " + word + " >>" + w.at("order")) }
	o.Config.Switch.Stop, o.Config.Switch.Start, o.Config.Switch.AfterSwitch = note("stop"), note("start"), shell("test ! -e "+w.root()+"/only-2")
	err := switchTo(t.Context(), w, o, 2, passes)
	if !errors.Is(err, ErrBack) || !strings.Contains(err.Error(), "after_switch") {
		t.Errorf("it ends with %v", err)
	}
	b, err := os.ReadFile(w.at("order"))
	if got := strings.Fields(string(b)); err != nil || strings.Join(got, " ") != "stop start stop start" {
		t.Errorf("it ran %v, %v", got, err)
	}
	if v := w.live(); v != 1 {
		t.Errorf("version %d is live", v)
	}
}

// A link that climbs out of the tree would begin in another directory once the tree is a
// generation, and what is mounted in it would stay in the old one.
func whatWouldLeadElsewhereIsNotAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), "link")
	link := filepath.Join(w.root(), "d0/up")
	adopt := func(o *Options, want string) {
		t.Helper()
		if _, err := Adopt(t.Context(), o, true); err == nil && want != "" || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("it ends with %v, not with %q", err, want)
		}
	}
	exchange := w.options()
	exchange.Config.Switch.Method = "exchange"
	for target, want := range map[string]string{
		"../../../build2/link": link + ": this link leads out of the tree",
		"../../app/link":       "make it " + filepath.Join(w.root(), "link"),
		"../../../nothing":     "",
		"../d1/../link":        "",
		w.at("build2/link"):    "",
	} {
		w.must(os.Symlink(target, link))
		adopt(w.options(), want)
		adopt(exchange, "")
		w.must(os.Remove(link))
	}
	w.must(os.Symlink("../../../build2/link", filepath.Join(w.at("build2"), "d0/up")))
	_, err := Adopt(t.Context(), w.options(), false)
	w.must(err)
	noted := ""
	o := w.options()
	o.Note = func(format string, args ...any) { noted += fmt.Sprintf(format, args...) }
	w.must(switchTo(t.Context(), w, o, 2, passes))
	if !strings.Contains(noted, `"d0/up"`) {
		t.Errorf("it noted %q", noted)
	}

	at := filepath.Join(w.root(), "d1")
	unmount := w.mounted(at)
	if err := switchTo(t.Context(), w, w.options(), 3, passes); err == nil || !strings.Contains(err.Error(), "/d1, which would stay there") {
		t.Errorf("with a mount in the live generation a switch ends with %v", err)
	}
	unmount()
	w.must(switchTo(t.Context(), w, w.options(), 3, passes))
	w.must(Release(t.Context(), w.options()))
	defer w.mounted(at)()
	adopt(w.options(), "/d1, which would stay there")
}

func aServiceMayStartSlowly(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	o := w.options()
	o.Config.Switch.Watch = configs.Duration(time.Millisecond)
	asked := 0
	err := switchTo(t.Context(), w, o, 2, func(context.Context) error {
		if asked++; asked < 3 {
			return errors.New("connection refused")
		}
		return nil
	})
	if err != nil || w.live() != 2 {
		t.Errorf("version %d is live: %v", w.live(), err)
	}
}

func aReadOnlyFileSystemIsShown(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	w := newWorld(t, filepath.Join(t.TempDir(), "disk"), "link")
	w.must(unix.Mount(w.dir, w.dir, "", unix.MS_BIND, ""))
	defer unix.Unmount(w.dir, unix.MNT_DETACH)
	o := w.options()
	o.Config.Switch.Confirm = "external"
	w.must(act(t.Context(), w, o, "adopt"))
	w.must(switchTo(t.Context(), w, o, 2, passes))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // a process that another test starts has copies of open files until it runs
		err := unix.Mount("", w.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if errors.Is(err, unix.EBUSY) && time.Now().Before(end) {
			continue
		}
		w.must(err)
		break
	}

	o.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	v, err := Look(t.Context(), o)
	if err != nil || v.Live != v.Trial || v.Live == "" || len(v.Generations) != 2 || v.Busy {
		t.Errorf("it shows %+v, %v", v, err)
	}
	if u, err := Uncommitted(o); err != nil || u == nil || u.Generation != v.Live {
		t.Errorf("uncommitted: %+v, %v", u, err)
	}
}

func aRollbackThatFailsIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	o := w.options()
	o.Config.Switch.Start = shell("echo start >>" + w.at("order") + "; false")
	if err := switchTo(t.Context(), w, o, 2, passes); err == nil || !strings.Contains(err.Error(), "not tried again") {
		t.Errorf("it ends with %v", err)
	}
	for range 2 {
		v, err := Look(t.Context(), o)
		if err != nil || v.Problem == "" || v.Trial != "" {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if b, _ := os.ReadFile(w.at("order")); strings.Count(string(b), "start") != 2 {
		t.Errorf("it ran %q", b)
	}
	if v := w.live(); v != 1 {
		t.Errorf("version %d is live", v)
	}
}

// onTrial is a world with version 2 on trial, which nobody watches.
func onTrial(t *testing.T) (*world, *Options) {
	t.Helper()
	w := adopted(t, "link")
	o := w.options()
	o.Config.Switch.Confirm = "external"
	w.must(switchTo(t.Context(), w, o, 2, passes))
	return w, o
}

func aTrialThatEndsGoesBack(t *testing.T) {
	t.Parallel()
	w, o := onTrial(t)
	if v, err := Look(t.Context(), o); err != nil || v.Trial == "" || w.live() != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	o.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	v, err := Look(t.Context(), o)
	if err != nil || v.Trial != "" || w.live() != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if g := v.Generations[0]; g.Status != Bad || !strings.Contains(g.Why, "without a commit") {
		t.Errorf("%+v", g)
	}
	w.clean()
}

func aTrialThatABootInterruptedGoesBack(t *testing.T) {
	t.Parallel()
	w, o := onTrial(t)
	o.Boot = true
	if v, err := Look(t.Context(), o); err != nil || v.Trial == "" {
		t.Fatalf("in the same boot it goes back: %+v, %v", v, err)
	}
	path := filepath.Join(w.gens(), live.StateFile)
	b, err := os.ReadFile(path)
	w.must(err)
	w.must(os.WriteFile(path, bytes.ReplaceAll(b, []byte(BootID()), []byte("another")), 0o600))
	w.must(os.Remove(w.at("running")))
	if v, err := Look(t.Context(), o); err != nil || v.Trial != "" || w.live() != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := os.Stat(w.at("running")); err == nil {
		t.Error("a command was run at boot")
	}
}

func twoSwitchesExcludeEachOther(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	var inside, most atomic.Int32
	var busy atomic.Int32
	var g sync.WaitGroup
	for v := 2; v <= 3; v++ {
		g.Go(func() {
			o := w.options()
			o.Point = func(string) {
				most.Store(max(most.Load(), inside.Add(1)))
				time.Sleep(time.Millisecond)
				inside.Add(-1)
			}
			if err := switchTo(context.Background(), w, o, v, passes); errors.Is(err, ErrBusy) || err != nil && strings.Contains(err.Error(), "is on trial until") {
				busy.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if most.Load() > 1 {
		t.Error("both changed something at once")
	}
	w.live()
	w.clean()
}

func aChangedGenerationDoesNotGoLive(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	s, err := Open(t.Context(), w.options())
	w.must(err)
	g, err := s.Stage(t.Context(), w.build(2))
	w.must(err)
	file := filepath.Join(s.topOf(g.Name), "d0/3")
	info, err := os.Stat(file)
	w.must(err)
	w.must(os.WriteFile(file, []byte("version 9"), 0o644))
	w.must(os.Chtimes(file, time.Time{}, info.ModTime())) // which hides nothing
	changed := (*ChangedError)(nil)
	if _, err := s.Switch(t.Context(), g.Name, passes); !errors.As(err, &changed) || changed.String() != `changed "d0/3"` {
		t.Errorf("it ends with %v", err)
	}
	s.Close()
	if w.live() != 1 {
		t.Error("it is live")
	}
	w.must(switchTo(t.Context(), w, w.options(), 2, passes)) // it is built again
	if w.live() != 2 {
		t.Error("it is not live")
	}
	w.must(os.WriteFile(filepath.Join(w.gens(), live.DirName("x")+"y"), nil, 0o600)) // of no generation
	adopted, err := filepath.Glob(filepath.Join(w.gens(), "adopted-*[0-9a-f]/d0/0"))
	if err != nil || len(adopted) != 1 {
		t.Fatal(adopted, err)
	}
	w.must(os.WriteFile(adopted[0], []byte("version 8"), 0o644))
	if err := act(t.Context(), w, w.options(), "rollback"); !errors.As(err, &changed) || !strings.Contains(err.Error(), "--anyway") {
		t.Errorf("a rollback ends with %v", err)
	}
}

func whatIsMoreGoes(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	o := w.options()
	o.Config.Generations.Keep = 2
	w.must(switchTo(t.Context(), w, o, 2, passes))
	s, err := Open(t.Context(), o)
	w.must(err)
	old := s.state.before(s.liveName()).Name
	s.Close()
	holder := exec.Command("sleep", "60")
	holder.Dir = filepath.Join(w.gens(), old)
	w.must(holder.Start())
	defer holder.Wait()
	defer holder.Process.Kill()
	w.must(switchTo(t.Context(), w, o, 3, passes))
	v, err := Look(t.Context(), o)
	if err != nil || len(v.Generations) != 3 || len(v.Held[old]) != 1 || !strings.Contains(v.Held[old][0], "sleep: cwd") {
		t.Fatalf("%+v, %v", v, err)
	}
	w.must(holder.Process.Kill())
	holder.Wait()
	w.must(switchTo(t.Context(), w, o, 4, passes))
	if v, err = Look(t.Context(), o); err != nil || len(v.Generations) != 2 {
		t.Errorf("%d generations, %v", len(v.Generations), err)
	}
	w.clean()
}

func aMountedGenerationStays(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a namespace of mounts takes root")
	}
	w := adopted(t, "link")
	o := w.options()
	o.Config.Generations.Keep = 2
	w.must(switchTo(t.Context(), w, o, 2, passes))
	s, err := Open(t.Context(), o)
	w.must(err)
	old := s.state.before(s.liveName()).Name
	s.Close()
	w.must(os.Mkdir(w.at("a b"), 0o755))
	container := exec.Command("/bin/sh", "-c", `mount --bind "$1" "$2" && echo mounted && exec sleep 60`, "sh", filepath.Join(w.gens(), old), w.at("a b"))
	container.Dir = "/"
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	out, err := container.StdoutPipe()
	w.must(err)
	w.must(container.Start())
	defer container.Wait()
	defer container.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, len("mounted"))); err != nil {
		t.Fatal(err)
	}
	w.must(switchTo(t.Context(), w, o, 3, passes))
	v, err := Look(t.Context(), o)
	if err != nil || len(v.Generations) != 3 || len(v.Held[old]) != 1 || !strings.HasSuffix(v.Held[old][0], "mounted at "+w.at("a b")+")") {
		t.Fatalf("%+v, %v", v, err)
	}
	w.must(container.Process.Kill())
	container.Wait()
	w.must(switchTo(t.Context(), w, o, 4, passes))
	if v, err = Look(t.Context(), o); err != nil || len(v.Generations) != 2 {
		t.Errorf("%d generations, %v", len(v.Generations), err)
	}
	w.clean()
}

func badOnesGoFirst(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	fails := func(context.Context) error { return errors.New("probe failed") }
	w.must(switchTo(t.Context(), w, w.options(), 2, passes))
	w.must(switchTo(t.Context(), w, w.options(), 3, passes))
	if err := switchTo(t.Context(), w, w.options(), 4, fails); !errors.Is(err, ErrBack) {
		t.Fatal(err)
	}
	v, err := Look(t.Context(), w.options())
	if err != nil || v.Generations[0].Status != Bad {
		t.Fatalf("the bad one is not shown: %+v, %v", v, err)
	}
	w.tree(w.at("build5"), 5)
	w.must(switchTo(t.Context(), w, w.options(), 5, passes))
	for _, want := range []int{3, 2} { // what is bad took the place of neither
		w.must(act(t.Context(), w, w.options(), "rollback"))
		if got := w.live(); got != want {
			t.Errorf("version %d is live, want %d", got, want)
		}
	}
	w.clean()
}

func linksInATreeLeadNowhere(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	outside := w.at("outside")
	w.must(os.MkdirAll(filepath.Join(outside, "lib"), 0o755))
	w.must(os.WriteFile(filepath.Join(outside, "lib/kept"), nil, 0o644))
	w.must(os.Symlink(outside, w.at("build2/var"))) // where data is to be linked in
	err := switchTo(t.Context(), w, w.options(), 2, passes)
	if err == nil {
		t.Error("a link on the way to data was followed")
	}
	if _, err := os.Stat(filepath.Join(outside, "lib/kept")); err != nil {
		t.Error(err)
	}
	w.must(os.Remove(w.at("build2/var")))
	w.must(os.WriteFile(filepath.Join(w.at("build2"), "new\nline\x1b[31m"), nil, 0o644))
	w.must(switchTo(t.Context(), w, w.options(), 2, passes))
	w.live()
}

func aPlaceOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), "link")
	w.must(os.Chmod(w.at("srv"), 0o777))
	if _, err := Adopt(t.Context(), w.options(), false); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("it ends with %v", err)
	}
	w.must(os.Chmod(w.at("srv"), 0o755))
	if os.Geteuid() != 0 {
		return
	}
	w.must(os.Mkdir(w.gens(), 0o755))
	w.must(os.Lchown(w.gens(), 54321, 54321)) // somebody was there first
	if _, err := Adopt(t.Context(), w.options(), false); err == nil || !strings.Contains(err.Error(), "belongs to user 54321") {
		t.Errorf("it ends with %v", err)
	}
}

func anyUserCanDoIt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := newWorld(t, dir, "link")
	w.must(exec.Command("chown", "-R", "54321:54321", dir).Run())
	program := filepath.Join(dir, "test")
	w.must(exec.Command("cp", os.Args[0], program).Run())
	for _, what := range []string{"adopt", "switch", "rollback", "release"} {
		cmd := exec.Command(program)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		cmd.Env = []string{"KNOWNGOOD_TEST_ACT=" + what, "KNOWNGOOD_TEST_DIR=" + dir, "KNOWNGOOD_TEST_METHOD=link"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v, %s", what, err, out)
		}
		w.live()
	}
}

func aSealedGenerationCannotBeChanged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("sealing takes root")
	}
	w := adopted(t, "link")
	o := w.options()
	o.Config.Switch.Seal = true
	o.Point = func(name string) { // somebody who owns a directory in it is faster
		if name == "after its name" {
			_ = os.Link(w.at("running"), filepath.Join(w.gens(), nameOf(2, idOf(2)), "d0", "running"))
		}
	}
	err := switchTo(t.Context(), w, o, 2, passes)
	if err != nil && strings.Contains(err.Error(), "flags") {
		t.Skip(err)
	}
	w.must(err)
	for _, err := range []error{os.WriteFile(filepath.Join(w.root(), "d0/0"), nil, 0o644), os.WriteFile(filepath.Join(w.root(), "new"), nil, 0o644), os.Remove(filepath.Join(w.root(), "link"))} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("it was changed: %v", err)
		}
	}
	w.must(os.WriteFile(filepath.Join(w.root(), "var/lib/more"), nil, 0o644)) // data is not
	if err := os.WriteFile(w.at("running"), nil, 0o644); err != nil {
		t.Errorf("a file that is not in it was sealed: %v", err)
	}
	tree, err := live.Find(w.root(), nil)
	if err != nil || !tree.Sealed {
		t.Errorf("a capture finds %+v, %v", tree, err)
	}
	w.must(act(t.Context(), w, o, "rollback"))
	w.must(Release(t.Context(), o))
	w.live()
	w.clean()
}

func aStateThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	path := filepath.Join(w.gens(), live.StateFile)
	good, err := os.ReadFile(path)
	w.must(err)
	var s map[string]any
	w.must(json.Unmarshal(good, &s))
	for name, text := range map[string]string{
		"cut":              string(good[:len(good)/2]),
		"another version":  strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"an unknown field": strings.Replace(string(good), `"version": 1`, `"version": 1, "more": 1`, 1),
		"a path as a name": strings.Replace(string(good), `"name": "adopted`, `"name": "../adopted`, 1),
	} {
		w.must(os.WriteFile(path, []byte(text), 0o600))
		if _, err := Look(t.Context(), w.options()); err == nil || !strings.Contains(err.Error(), live.StateFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRecord: whatever is read as a record is an error or entries that are the same when they
// are written and read again.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(recordMagic))
	f.Add([]byte(recordMagic + "\x03\x00\x01a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		var entries []*entry
		w := &recordWriter{file: new(os.File), out: bufio.NewWriter(&out), digest: sha256.New()}
		w.out.WriteString(recordMagic)
		for e, err := range readRecord(bytes.NewReader(b)) {
			if err == nil {
				err = w.add(e)
			}
			if err != nil {
				return
			}
			entries = append(entries, e)
		}
		w.out.Flush()
		n := 0
		for e, err := range readRecord(&out) {
			if err != nil || *e != *entries[n] {
				t.Fatalf("%+v reads back as %+v, %v", entries[n], e, err)
			}
			n++
		}
		if n != len(entries) {
			t.Errorf("%d entries of %d are read back", n, len(entries))
		}
	})
}

func aHoleDelaysNothing(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	hole := filepath.Join(w.root(), "d0/hole")
	w.must(os.WriteFile(hole, []byte("begin"), 0o644))
	w.must(os.Truncate(hole, 1<<42))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w.must(switchTo(ctx, w, w.options(), 2, passes))
	w.must(act(ctx, w, w.options(), "rollback"))
	f, err := os.OpenFile(hole, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt([]byte{1}, 1<<41)
	w.must(errors.Join(err, f.Close()))
	w.must(os.Chtimes(hole, time.Now(), time.Unix(1, 0)))
	changed := ""
	_, _, err = Drift(ctx, w.options(), true, func(_ string, c Change) { changed += c.Path + "\n" }, nil)
	if !strings.Contains(changed, "d0/hole") || err != nil && !errors.Is(err, ErrRecordedAgain) {
		t.Errorf("drift finds %q, %v", changed, err)
	}
}

func aHoleIsHashedAsZeros(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	of := func(size int64, zeros bool, data ...int64) [32]byte {
		f, err := os.Create(filepath.Join(dir, "f"))
		if err == nil && zeros {
			_, err = f.Write(make([]byte, size))
		}
		for _, at := range data {
			_, werr := f.WriteAt([]byte("data"), at)
			err = errors.Join(err, werr)
		}
		if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
		node, _, err := posix.OpenNode(unix.AT_FDCWD, f.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(node)
		got, err := sum(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const mib = zeroBlock
	seen := map[[32]byte]bool{}
	for _, data := range [][]int64{nil, {0}, {mib - 2}, {mib}, {3 * mib}, {3*mib + 4096}, {5*mib + 5000}, {0, 3 * mib}, {mib, 3 * mib}, {2 * mib, 3 * mib}} {
		for _, size := range []int64{5*mib + 10000, 6 * mib} {
			got := of(size, false, data...)
			if got != of(size, true, data...) {
				t.Errorf("data at %v of %d bytes: with holes it has another hash than with zeros", data, size)
			}
			if seen[got] {
				t.Errorf("data at %v of %d bytes has the hash of others", data, size)
			}
			seen[got] = true
		}
	}
}

func aUserCannotHideFromDrift(t *testing.T) {
	t.Parallel()
	w := adopted(t, "link")
	want := map[string]bool{"d0/.x.generations": true, "d0/.x.generations/generations.json": true, "d0/.x.generations/hidden": true, "d0/.knowngood-0123456789abcdef.part": true}
	w.must(os.Mkdir(filepath.Join(w.root(), "d0/.x.generations"), 0o755))
	for p := range want {
		if filepath.Base(p) != ".x.generations" {
			w.must(os.WriteFile(filepath.Join(w.root(), p), nil, 0o644))
		}
	}
	w.must(os.Chmod(filepath.Join(w.root(), "d0/.x.generations"), 0o775)) // not only ours, also where this is not root
	_, _, err := Drift(t.Context(), w.options(), false, func(_ string, c Change) { delete(want, c.Path) }, nil)
	if err != nil || len(want) > 0 {
		t.Errorf("drift does not list %v: %v", want, err)
	}
}

// In a directory with the sticky bit others may make what is not there yet.
func aDirectoryOfOthersIsNotTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), "link")
	s, err := open(w.options())
	w.must(err)
	defer s.Close()
	secret := w.at("secret")
	w.must(os.Mkdir(secret, 0o700))
	w.must(os.Symlink(secret, w.gens()))
	if err := s.begin(); err == nil {
		t.Error("it takes a link for the directory of generations")
	}
	if st, err := os.Stat(secret); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory that the link leads to is %v, %v", st.Mode(), err)
	}
}

// Whoever may write in a directory cannot have his file get a name in another one.
func aLinkIsNotPutBackToAnother(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	made := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{from, to} {
		made(os.Mkdir(dir+"/a", 0o755), os.Mkdir(dir+"/b", 0o755))
	}
	made(os.WriteFile(from+"/a/x", []byte("good"), 0o755), os.Link(from+"/a/x", from+"/b/x"))
	c, err := newCopier(to, true)
	made(err)
	defer c.to.Close()
	err = eachBelow(t.Context(), from, nil, func(n *walk.Node, rel string) error {
		if err := c.node(n, rel); err != nil || rel != "a/x" {
			return err
		}
		return errors.Join(os.Remove(to+"/a/x"), os.WriteFile(to+"/a/x", []byte("evil"), 0o777))
	})
	if err == nil || !strings.Contains(err.Error(), "replaced meanwhile") || exists(to+"/b/x") {
		t.Errorf("it ends with %v", err)
	}
}
