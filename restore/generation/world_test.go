package generation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/internal/enginetest"
	"knowngood/restore/isolate"
)

// world is an environment with a root, a service and data, and trees of two versions.
type world struct {
	t      *testing.T
	dir    string
	method string
}

const filesOfATree = 12

// newWorld makes the root a plain directory of version 1.
func newWorld(t *testing.T, dir, method string) *world {
	t.Helper()
	w := &world{t, dir, method}
	w.must(os.MkdirAll(dir, 0o755))
	for v := 1; v <= 4; v++ {
		w.tree(w.at("build"+strconv.Itoa(v)), v)
	}
	w.tree(w.root(), 1)
	w.must(os.MkdirAll(filepath.Join(w.root(), "var/lib"), 0o755))
	w.must(os.WriteFile(filepath.Join(w.root(), "var/lib/db"), []byte("data"), 0o644))
	w.must(os.WriteFile(w.at("running"), nil, 0o644))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) at(name string) string { return filepath.Join(w.dir, name) }
func (w *world) root() string          { return w.at("srv/app") }
func (w *world) gens() string          { return w.at("srv/.app.generations") }

// tree makes a tree of a version: each file names it.
func (w *world) tree(dir string, version int) {
	w.t.Helper()
	for i := range filesOfATree {
		sub := filepath.Join(dir, "d"+strconv.Itoa(i%3))
		w.must(os.MkdirAll(sub, 0o755))
		w.must(os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), []byte("version "+strconv.Itoa(version)), 0o644))
	}
	w.must(os.Symlink("d0/0", filepath.Join(dir, "link")))
	w.must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("only-%d", version)), nil, 0o600))
}

func shell(line string) []configs.Hook {
	return []configs.Hook{{Command: []string{"/bin/sh", "-c", line}}}
}

func (w *world) options() *Options {
	return &Options{Environment: "web", Now: time.Now, Note: func(string, ...any) {}, Config: &configs.Environment{
		Root: w.root(), Sources: []configs.Source{{Path: w.root()}},
		Switch: &configs.Switch{Method: w.method, Watch: 0, Trial: configs.Duration(time.Hour), Confirm: "none",
			Stop: shell("rm -f " + w.at("running")), Start: shell("touch " + w.at("running")), AfterSwitch: shell("echo after >>" + w.at("log"))},
		Data:        []configs.Data{{Path: "var/lib", Policy: "carry"}},
		Generations: &configs.Generations{Keep: 3},
	}}
}

func idOf(version int) (id [32]byte) {
	id[0] = byte(version)
	return id
}

// build is the build of a version.
func (w *world) build(version int) *Build {
	return &Build{Number: uint64(version), ID: idOf(version), Origin: Origin{Snapshot: fmt.Sprintf("web@%d", version), Proof: "test"}, Fill: Copy(w.at("build"+strconv.Itoa(version)), nil)}
}

func passes(context.Context) error { return nil }

// patched is the build of version 2 by a command.
func (w *world) patched(s *Set) *Build {
	script := "for i in 0 1 2 3 4 5 6 7 8 9 10 11; do printf 'version 2' >d$((i % 3))/$i; done; rm -f only-1; : >only-2"
	b := s.Patched(&Run{Argv: []string{"sh", "-c", script}, Cell: []string{"test", "cell"}, Line: func(string, string) {}})
	b.Name = func(context.Context, string) error {
		b.Number, b.ID, b.Snapshot = 2, idOf(2), "web@2"
		return nil
	}
	return b
}

// switchTo builds a version, 0 for that of a command, and makes it live.
func switchTo(ctx context.Context, w *world, o *Options, version int, probe func(context.Context) error) error {
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	b := w.patched(s)
	if version > 0 {
		b = w.build(version)
	}
	g, err := s.Stage(ctx, b)
	if err != nil {
		return err
	}
	_, err = s.Switch(ctx, g.Name, probe)
	return err
}

// act does what a command does.
func act(ctx context.Context, w *world, o *Options, what string) error {
	switch what {
	case "adopt":
		_, err := Adopt(ctx, o, false)
		return err
	case "release":
		return Release(ctx, o)
	case "patch", "patch that fails":
		host := w.host()
		host.Point = o.Point
		return actInPlace(ctx, host, what)
	case "patch that locks":
		host := w.host()
		host.InPlace.Run = func(context.Context) error { return w.lock() }
		return patchTo(ctx, host, passes)
	case "switch":
		return switchTo(ctx, w, o, 2, passes)
	case "patch in a clone":
		return switchTo(ctx, w, o, 0, passes)
	case "fails":
		return switchTo(ctx, w, o, 2, func(context.Context) error { return errors.New("the probe failed") })
	}
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	switch what {
	case "look":
	case "commit":
		_, err = s.Commit()
	case "rollback":
		_, err = s.Rollback(ctx, false)
	default:
		err = errors.New("what?")
	}
	return err
}

// TestMain is also the process that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "cell" {
		fmt.Fprintln(os.Stderr, isolate.Enter(ServeRun))
		os.Exit(1)
	}
	what := os.Getenv("KNOWNGOOD_TEST_ACT")
	if what == "" {
		os.Exit(m.Run())
	}
	w := &world{nil, os.Getenv("KNOWNGOOD_TEST_DIR"), os.Getenv("KNOWNGOOD_TEST_METHOD")}
	o := w.options()
	if os.Getenv("KNOWNGOOD_TEST_EXTERNAL") != "" {
		o.Config.Switch.Confirm = "external"
	}
	fatal, _ := strconv.Atoi(os.Getenv("KNOWNGOOD_TEST_KILL"))
	n, paths := 0, 0
	o.Point = func(name string) {
		if strings.HasPrefix(name, "a path ") { // one like the other
			if paths++; paths%6 != 2 && !enginetest.Slow() {
				return
			}
		}
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

// elsewhere does it in another process, which is killed at the n-th point; 0 for not at
// all. killed is the name of that point.
func (w *world) elsewhere(what string, n int, env ...string) (killed, out string) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KNOWNGOOD_TEST_ACT="+what, "KNOWNGOOD_TEST_DIR="+w.dir, "KNOWNGOOD_TEST_METHOD="+w.method, "KNOWNGOOD_TEST_KILL="+strconv.Itoa(n))
	cmd.Env = append(cmd.Env, env...)
	b, err := cmd.CombinedOutput()
	_, killed, _ = strings.Cut(strings.TrimSpace(string(b)), "killed at ")
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return killed, string(b)
}

// live is the version that the root shows; the test fails unless it is one, complete, with
// its data.
func (w *world) live() int {
	w.t.Helper()
	first := ""
	for i := range filesOfATree {
		b, err := os.ReadFile(filepath.Join(w.root(), "d"+strconv.Itoa(i%3), strconv.Itoa(i)))
		w.must(err)
		if first == "" {
			first = string(b)
		}
		if string(b) != first {
			w.t.Fatalf("the live tree is a mixture: %q and %q", first, b)
		}
	}
	v, err := strconv.Atoi(strings.TrimPrefix(first, "version "))
	w.must(err)
	if _, err := os.Stat(filepath.Join(w.root(), fmt.Sprintf("only-%d", v))); err != nil {
		w.t.Fatalf("version %d is not complete: %v", v, err)
	}
	for other := 1; other <= 4; other++ {
		if _, err := os.Stat(filepath.Join(w.root(), fmt.Sprintf("only-%d", other))); other != v && err == nil {
			w.t.Fatalf("version %d has a file of version %d", v, other)
		}
	}
	if b, err := os.ReadFile(filepath.Join(w.root(), "var/lib/db")); err != nil || string(b) != "data" {
		w.t.Fatalf("version %d has no data: %q, %v", v, b, err)
	}
	return v
}

// clean demands that nothing is there but what the state names.
func (w *world) clean() {
	w.t.Helper()
	names, err := os.ReadDir(w.gens())
	if errors.Is(err, os.ErrNotExist) {
		names, err = nil, nil
	}
	w.must(err)
	st, err := readState(w.gens())
	w.must(err)
	if st == nil {
		st = &state{}
	}
	if !st.adopted() && len(names) > 0 {
		w.t.Errorf("nothing is adopted, and %s is left, with %v", w.gens(), names)
	}
	if st.Transaction != nil && !st.Transaction.Watching {
		w.t.Errorf("the transaction %+v is still under way", *st.Transaction)
	}
	for _, n := range names {
		name := strings.TrimSuffix(n.Name(), recordName)
		switch {
		case st.find(name) != nil, n.Name() == "lock", n.Name() == "watch.lock", n.Name() == "data", n.Name() == "generations.json", n.Name() == durable.Reserve:
		default:
			w.t.Errorf("%s is left", n.Name())
		}
	}
	if len(st.Generations) > 0 {
		if _, err := os.Stat(w.at("running")); err != nil {
			w.t.Errorf("the service does not run: %v", err)
		}
	}
	srv, err := os.ReadDir(w.at("srv"))
	w.must(err)
	for _, n := range srv {
		if n.Name() != "app" && n.Name() != ".app.generations" {
			w.t.Errorf("srv/%s is left", n.Name())
		}
	}
}
