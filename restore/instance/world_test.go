package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/internal/posix"
	"knowngood/restore/generation"
	"knowngood/restore/probe"
	"knowngood/storage/attest"
)

// world has the trees of two versions, instances of them, and what their hooks do.
type world struct {
	t       *testing.T
	dir     string
	overlay bool
}

const filesOfATree = 6

func newWorld(t *testing.T, dir string, overlay bool) *world {
	t.Helper()
	w := &world{t, dir, overlay}
	if overlay {
		needsOverlay(t)
	}
	for v := 1; v <= 2; v++ {
		top := w.at("source" + strconv.Itoa(v))
		for i := range filesOfATree {
			w.must(os.MkdirAll(filepath.Join(top, "d"+strconv.Itoa(i%2)), 0o755))
			w.must(os.WriteFile(filepath.Join(top, "d"+strconv.Itoa(i%2), strconv.Itoa(i)), []byte("version "+strconv.Itoa(v)), 0o644))
		}
		w.must(os.Symlink("/etc", filepath.Join(top, "away")))
		w.must(os.Chmod(top, 0o751))
	}
	w.must(os.MkdirAll(w.at("running"), 0o755))
	t.Cleanup(w.unmount)
	return w
}

func needsOverlay(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("test", dir+"/at", "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Skipf("no overlay can be mounted here: %v", err)
	}
	unix.Unmount(dir+"/at", 0)
}

// unmount unmounts all that is mounted below the world.
func (w *world) unmount() {
	mounts, _ := posix.Mounts(w.dir)
	for _, m := range slices.Backward(mounts) {
		unix.Unmount(m.Path, unix.MNT_DETACH)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) at(name string) string { return filepath.Join(w.dir, name) }
func (w *world) set() string           { return w.at("instances") }

func shell(line string) []configs.Hook {
	return []configs.Hook{{Command: []string{"/bin/sh", "-c", line}}}
}

// askAll asks probes as the command does.
func askAll(ctx context.Context, probes []configs.Probe) error {
	for _, p := range probes {
		if a := probe.Live(ctx, &p); a.Status != attest.Passed {
			return errors.New(cmp.Or(a.Cause, a.Detail))
		}
	}
	return nil
}

// options are those of a scaled environment, whose instances answer once they run, with
// their own number.
func (w *world) options() *Options {
	running := w.at("running") + "/$KNOWNGOOD_INSTANCE"
	return &Options{Dir: w.set(), Environment: "web", Now: time.Now, Note: func(string, ...any) {}, Overlay: w.overlay, Ask: askAll, Config: &configs.Scale{
		Dir: w.set(), Min: 1, Max: 8, Timeout: configs.Duration(time.Minute),
		Start:        shell(`test -d "$KNOWNGOOD_INSTANCE_PATH/d0" && echo "$KNOWNGOOD_INSTANCE_PATH" >` + running),
		Stop:         shell("rm -f " + running),
		BeforeRetire: shell(`test -f ` + running + ` && echo "$KNOWNGOOD_INSTANCE" >>` + w.at("drained")),
	}, Probes: []configs.Probe{{Name: "up", Timeout: configs.Duration(time.Minute), Command: []string{"/bin/grep", "{path}", w.at("running") + "/{number}"}}}}
}

func (w *world) tree(ctx context.Context, s *Set, version int) (*Tree, error) {
	id := [32]byte{byte(version)}
	fill := generation.Copy(w.at("source"+strconv.Itoa(version)), nil)
	return s.Tree(ctx, &Tree{Name: TreeName(uint64(version), id, ""), Snapshot: fmt.Sprintf("web@%d", version)}, func(ctx context.Context, dir string) error { return fill(ctx, dir, false) })
}

// act does what a command does: spawn-N, scale-N, roll-V, fails, rollback, heal-N, remove or
// look; die-N is what an instance does, and a check finds.
func act(ctx context.Context, w *world, o *Options, what string) error {
	verb, number, _ := strings.Cut(what, "-")
	n, _ := strconv.Atoi(number)
	if verb == "spawn" || verb == "remove" {
		o.Config = nil
	}
	if verb == "fails" {
		o.Config.Start = append(shell(`! grep -q 'version 2' "$KNOWNGOOD_INSTANCE_PATH/d0/0"`), o.Config.Start...)
	}
	s, err := Open(ctx, o, verb != "look")
	if err != nil {
		return err
	}
	defer s.Close()
	switch verb {
	case "look":
		return nil
	case "die":
		in := s.state.find(n)
		in.Status, in.Why = Failed, "it died"
		return errors.Join(os.Remove(w.at("running/"+number)), s.save("died"))
	case "rollback":
		_, err := s.Rollback(ctx)
		return err
	case "remove":
		return s.Remove()
	case "heal":
		return s.Scale(ctx, n)
	case "scale":
		if s.View().Current == nil {
			t, err := w.tree(ctx, s, 1)
			if err == nil {
				_, err = s.Spawn(ctx, t, 0)
			}
			if err != nil {
				return err
			}
		}
		return errors.Join(s.Check(ctx), s.Scale(ctx, n))
	case "fails":
		n = 2
	}
	version := 1
	if verb != "spawn" {
		version = n
	}
	t, err := w.tree(ctx, s, version)
	if err != nil {
		return err
	}
	if verb == "spawn" {
		_, err = s.Spawn(ctx, t, n)
		return err
	}
	return s.Roll(ctx, t)
}

// TestMain is also the process that is killed.
func TestMain(m *testing.M) {
	what := os.Getenv("KNOWNGOOD_TEST_ACT")
	if what == "" {
		os.Exit(m.Run())
	}
	w := &world{nil, os.Getenv("KNOWNGOOD_TEST_DIR"), os.Getenv("KNOWNGOOD_TEST_OVERLAY") != ""}
	o := w.options()
	fatal, _ := strconv.Atoi(os.Getenv("KNOWNGOOD_TEST_KILL"))
	n := 0
	o.Point = func(name string) {
		if n++; n == fatal {
			fmt.Println("killed at", name)
			if end := os.Getenv("KNOWNGOOD_TEST_END"); end != "" { // the machine ends, not only this process
				exec.Command("/bin/sh", "-c", end).Run()
			}
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := act(context.Background(), w, o, what); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// elsewhere does it in another process, which is killed at the n-th point; 0 for not at all.
// killed is the name of that point.
func (w *world) elsewhere(what string, n int, env ...string) (killed, out string) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KNOWNGOOD_TEST_ACT="+what, "KNOWNGOOD_TEST_DIR="+w.dir, "KNOWNGOOD_TEST_KILL="+strconv.Itoa(n))
	if w.overlay {
		cmd.Env = append(cmd.Env, "KNOWNGOOD_TEST_OVERLAY=1")
	}
	cmd.Env = append(cmd.Env, env...)
	b, err := cmd.CombinedOutput()
	_, killed, _ = strings.Cut(strings.TrimSpace(string(b)), "killed at ")
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return killed, string(b)
}

// instances are the versions of the instances that are there, each complete, and how many of
// them run. The test fails where anything is there that the state does not name.
func (w *world) instances() (versions []int, running int) {
	w.t.Helper()
	st, err := readState(w.set())
	w.must(err)
	if st == nil {
		st = &state{}
	}
	if st.Roll != nil {
		w.t.Errorf("the switch %+v is still under way", *st.Roll)
	}
	known := map[string]bool{stateFile: true, lockFile: true, treesDir: true, layersDir: true, durable.Reserve: true}
	mounted := 0
	for _, in := range st.Instances {
		n := strconv.Itoa(in.Number)
		known[n], known[n+envExt] = true, true
		if in.Way == overlay {
			mounted++
		}
		if in.Status != Made && in.Status != Ready && in.Status != Failed {
			w.t.Errorf("instance %s is left %s", n, in.Status)
		}
		_, err := os.Stat(w.at("running/" + n))
		if (err == nil) != (in.Status == Ready) {
			w.t.Errorf("instance %s is %s, and runs: %v", n, in.Status, err == nil)
		}
		if err == nil {
			running++
		}
		version := 0
		for i := range filesOfATree {
			b, err := os.ReadFile(filepath.Join(w.set(), n, "d"+strconv.Itoa(i%2), strconv.Itoa(i)))
			w.must(err)
			v, err := strconv.Atoi(strings.TrimPrefix(string(b), "version "))
			w.must(err)
			if version = cmp.Or(version, v); version != v {
				w.t.Errorf("instance %s is a mixture", n)
			}
		}
		if to, err := os.Readlink(filepath.Join(w.set(), n, "away")); err != nil || to != "/etc" {
			w.t.Errorf("instance %s has a link to %q, %v", n, to, err)
		}
		if info, err := os.Stat(filepath.Join(w.set(), n)); err != nil || info.Mode().Perm() != 0o751 {
			w.t.Errorf("instance %s: %v, %v", n, info.Mode(), err)
		}
		if !strings.HasPrefix(in.Tree, strconv.Itoa(version)+"-") {
			w.t.Errorf("instance %s has version %d and should be of %s", n, version, in.Tree)
		}
		versions = append(versions, version)
	}
	for _, dir := range []struct {
		path string
		may  func(name string) bool
	}{
		{w.set(), func(name string) bool { return known[name] }},
		{filepath.Join(w.set(), treesDir), func(name string) bool { return st.tree(strings.TrimSuffix(name, recordExt)) != nil }},
		{filepath.Join(w.set(), layersDir), func(name string) bool { return known[name] }},
		{w.at("running"), func(name string) bool { return known[name] }},
	} {
		names, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Error(err)
		}
		for _, n := range names {
			if !dir.may(n.Name()) {
				w.t.Errorf("%s/%s is left", dir.path, n.Name())
			}
		}
	}
	mounts, err := posix.Mounts(w.dir)
	w.must(err)
	if len(mounts) != mounted {
		w.t.Errorf("%d overlays and %d mounts: %v", mounted, len(mounts), mounts)
	}
	return versions, running
}
